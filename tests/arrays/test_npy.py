""".npy headers against numpy.save and numpy.load, and against hostile text."""

import io
import itertools
import random
import struct
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imagearchive.arrays.npy import (
    MAX_HEADER,
    NpyHeader,
    build_header,
    iter_bytes,
    parse_header,
    write_array,
)
from imagearchive.errors import (
    CorruptArchiveError,
    OptionError,
    OptionTypeError,
    UnsupportedMemberError,
)
from imagearchive.storage.local import MemoryStorage

DTYPES = [
    *"?bBhHiIlLqQefdgFDG",
    ">i2", ">u4", ">f8", ">c16", "<i8",
    "S0", "S1", "S7", "U0", "U1", ">U3", "V5",
    "M8[ns]", ">M8[D]", "m8[25s]", "M8", "m8",
    [("a", "<i4"), ("b", ">f8", (2, 3)), ("c", [("x", "S3"), ("y", "?", 4)])],
    [(("a title", "a"), "<u2"), ("é日", "U2")],
    np.dtype([("a", "u1"), ("b", "f8")], align=True),
    np.dtype({"names": ["a", "b"], "formats": ["u1", "i2"], "offsets": [3, 10], "itemsize": 20}),
]  # fmt: skip
SHAPES = [(), (0,), (1,), (7,), (3, 4), (0, 5), (5, 0, 2), (2, 3, 4)]


def saved(array, version=None):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    return buffer.getvalue()


def sample(dtype, shape):
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=int))
    noise = np.random.default_rng(5).integers(0, 2, count * dtype.itemsize, np.uint8)
    if not dtype.itemsize:
        return np.zeros(shape, dtype)
    return noise.view(dtype).reshape(shape)


def header_of(text, version=(1, 0)):
    width = "<H" if version[0] == 1 else "<I"
    text = text if isinstance(text, bytes) else text.encode("latin-1")
    return b"\x93NUMPY" + bytes(version) + struct.pack(width, len(text)) + text


def literal(descr="'<f8'", shape="(3,)", order="False"):
    return header_of(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


def restored(data, header):
    start, stop = header.data_offset, header.data_offset + header.nbytes
    flat = np.frombuffer(data[start:stop], header.dtype, header.count)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parse_header_matches_numpy(dtype):
    for shape, fortran in itertools.product(SHAPES, (False, True)):
        array = sample(dtype, shape)
        if fortran:
            array = np.asfortranarray(array)
        is_latin = "日" not in str(array.dtype)
        for version in [(1, 0), (2, 0), (3, 0)] if is_latin else [(3, 0)]:
            data = b"junk" + saved(array, version)
            loaded = np.load(io.BytesIO(data[4:]))
            header = parse_header(data, 4, where="x")
            assert header == parse_header(MemoryStorage(data), 4, len(data) - 4, where="x")
            assert header.version == version
            assert header.dtype == loaded.dtype
            assert header.shape == loaded.shape
            assert header.row_size == loaded.dtype.itemsize * int(np.prod(shape[1:], dtype=int))
            assert (header.count, header.nbytes) == (loaded.size, loaded.nbytes)
            if header.itemsize:
                found = restored(data[4:], header)
                # Field by field, since the padding between fields may hold anything.
                for field in header.dtype.names or [...]:
                    assert found[field].tobytes() == loaded[field].tobytes()


@settings(max_examples=200)
@given(
    hnp.arrays(
        hnp.nested_dtypes() | hnp.scalar_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        fill=st.nothing(),
    ),
    st.integers(0, 300),
    st.sampled_from([1, 16, 64, 4096]),
)
def test_write_array_is_aligned_and_read_by_numpy(array, at, align):
    file = io.BytesIO(bytes(at))
    file.seek(at)
    assert write_array(file, array, align) == len(file.getvalue()) - at
    header = parse_header(file.getvalue(), at, where="x")
    assert (at + header.data_offset) % align == 0
    file.seek(at)
    loaded = np.load(file)
    assert loaded.dtype == header.dtype
    assert loaded.shape == header.shape == array.shape
    assert loaded.tobytes() == array.tobytes()


@pytest.mark.parametrize("step", [1, 2])
def test_iter_bytes_large_array_gives_aligned_chunks(step):
    array = np.arange(300_000, dtype=np.uint64)[::step]
    sizes, data = [], b""
    for chunk in iter_bytes(array, 128):
        sizes.append(len(chunk))
        data += chunk
    assert data == array.tobytes()
    assert max(sizes) <= 1 << 19
    if step == 1:
        assert all((128 + sum(sizes[:i])) % (1 << 19) == 0 for i in range(1, len(sizes)))


def test_write_array_non_contiguous_round_trips():
    big = np.arange(3_000_000, dtype=np.int32).reshape(1000, 3000)
    for array in (
        big[::2, ::3],
        big[::-1],
        np.asfortranarray(big),
        np.broadcast_to(big[0], (9, 3000)),
    ):
        file = io.BytesIO()
        write_array(file, array)
        file.seek(0)
        assert np.array_equal(np.load(file), array)


def test_write_array_several_in_one_file():
    file = io.BytesIO()
    arrays = [np.arange(5), np.array("x"), np.zeros((0, 3)), np.array([(1, 2.0)], "i4,f8")]
    for array in arrays:
        write_array(file, array)
    file.seek(0)
    for array in arrays:
        assert np.load(file).tobytes() == array.tobytes()


def test_build_header_of_given_size_can_be_replaced():
    longest = build_header("f4", (10**18, 3, 224), at=45)
    for rows in (0, 5, 10**18):
        header = build_header("f4", (rows, 3, 224), size=len(longest))
        assert len(header) == len(longest)
    header = build_header("f4", (1,), size=128)
    assert np.load(io.BytesIO(header + b"\0\0\x80?")).tolist() == [1.0]
    with pytest.raises(OptionError, match="size=20"):
        build_header("f4", (1,), size=20)


def test_parse_header_longer_than_numpy_allows_is_read():
    many = np.zeros(2, [(f"column_{i}", "<f4") for i in range(3000)])
    file = io.BytesIO()
    write_array(file, many)
    header = parse_header(file.getvalue(), where="x")
    assert (header.version, header.dtype) == ((2, 0), many.dtype)
    with pytest.raises(ValueError, match="max_header_size"):
        np.load(io.BytesIO(file.getvalue()))


def test_parse_header_beyond_the_limit_is_not_read():
    class Counting(MemoryStorage):
        longest = 0

        def read(self, offset, size):
            self.longest = max(self.longest, size)
            return super().read(offset, size)

    text = b" " * (MAX_HEADER + 1)
    storage = Counting(header_of(text, (2, 0)))
    with pytest.raises(UnsupportedMemberError, match=f"at most {MAX_HEADER}"):
        parse_header(storage, where="x")
    assert storage.longest < 1000


def test_parse_header_object_array_is_flagged():
    array = np.array([[1], "two", None], dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, array)
    header = parse_header(buffer.getvalue(), where="x")
    assert header.has_objects
    assert (header.shape, header.count) == ((3,), 3)
    # No pickle holds a million elements in a hundred bytes.
    with pytest.raises(CorruptArchiveError, match="needs 1000000 bytes"):
        parse_header(literal("'|O'", "(1000000,)") + bytes(100), where="x")
    with pytest.raises(OptionTypeError, match="object"):
        build_header(object, (1,))


def test_parse_header_of_python_2_and_other_writers_is_read():
    data = literal("'<f8'", "(3L, 10L)") + bytes(240)
    assert parse_header(data, where="x").shape == (3, 10)
    assert parse_header(literal("u'float32'") + bytes(12), where="x").dtype == np.float32
    data = header_of("{'shape':(3,),'fortran_order':False,'descr':\"<i2\"}") + bytes(6)
    assert parse_header(data, where="x").dtype == np.int16


def test_parse_header_trailing_bytes_are_allowed_but_none_may_be_missing():
    data = literal() + bytes(24)
    assert parse_header(data + b"more", where="x").count == 3
    with pytest.raises(
        CorruptArchiveError, match=r"file: member at offset 0: .*needs 24.*only 23 follow"
    ):
        parse_header(data[:-1], where="file: member")
    with pytest.raises(CorruptArchiveError, match="needs 24"):
        parse_header(data, 0, len(data) - 1, where="x")
    for offset, size in ((-1, 5), (0, len(data) + 1), (len(data) + 1, 0), (5, -1)):
        with pytest.raises(CorruptArchiveError, match="is not within"):
            parse_header(data, offset, size, where="x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPX\1\0",
        b"\x93NUMPY\1\0\xff",
        b"\x93NUMPY\1\0\xff\xff",
        b"\x93NUMPY\2\0\xff\xff\xff\xff",
        literal(shape="3"),
        literal(shape="[3]"),
        literal(shape="(3.0,)"),
        literal(shape="(True,)"),
        literal(shape="(-1,)"),
        literal(shape="('3',)"),
        literal(shape=f"({2**63},)"),
        literal(shape=f"({2**62}, 4)"),
        literal(shape=f"({2**32}, {2**32}, 0)"),
        literal(shape=f"(0, {2**63})"),
        literal(shape="(" + "1," * 65 + ")"),
        literal("'S0'", f"({2**64},)"),
        literal(shape="(" + "9" * 5000 + ",)"),
        literal(order="0"),
        literal(order="None"),
        literal("'<f9'"),
        literal("'|S-1'"),
        literal("'|S99999999999'"),
        literal("'a5'"),
        literal("'i4,i4'"),
        literal("'M8[parsec]'"),
        literal("b'<f8'"),
        literal("None"),
        literal("['<f8']"),
        literal("[('a',)]"),
        literal("[('a', '<f8'), ('a', '<f8')]"),
        literal("[('a', '<f8', (-1,))]"),
        literal("[(1, '<f8')]"),
        literal("('<f8', (1 << 40,))"),
        literal("('<f8', (1000000000000,))"),
        literal("(('<f8', (70000,)), (70000,))"),
        literal("{'names': ['a'], 'formats': ['<f8']}"),
        literal("__import__('os').system('false')"),
        literal("'<f8' if 1 else 2"),
        literal("[x for x in '<f8']"),
        header_of("{'descr': '<f8', 'fortran_order': False}"),
        header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': 1}"),
        header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)"),
        header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}}"),
        header_of("{[]: 1}"),
        header_of("{{}, {}}"),
        header_of("'''"),
        header_of("'\\x'"),
        header_of("'\\N{BULLET}' '\\ud800'"),
        header_of("1" * 5000),
        header_of("0x10"),
        header_of("007"),
        header_of("1_000"),
        header_of("- - - 1"),
        header_of("\0"),
        header_of("\xa0"),
        header_of("(" * 65000, (2, 0)),
        header_of("[" * 100000, (2, 0)),
        header_of("-" * 100000 + "1", (2, 0)),
        header_of("{" * 49 + "}" * 49),
        header_of(b"\xff\xfe", (3, 0)),
    ],
)
def test_parse_header_hostile_text_is_refused(data):
    with pytest.raises(CorruptArchiveError, match="member"):
        parse_header(data + (bytes(20) if len(data) > 20 else b""), where="member")


def test_parse_header_unknown_version_is_refused():
    for version in ((0, 0), (1, 1), (4, 0), (255, 255)):
        with pytest.raises(UnsupportedMemberError, match="version"):
            parse_header(header_of("{}", version) + bytes(20), where="x")


def test_parse_header_longest_hostile_text_takes_bounded_memory():
    text = "(" + "0," * (MAX_HEADER // 2 - 40) + ")"
    data = header_of(
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': {text}}}"[:MAX_HEADER], (2, 0)
    )
    tracemalloc.start()
    with suppress(CorruptArchiveError):
        parse_header(data, where="x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_parse_header_flipped_bytes_raise_our_errors_or_give_a_valid_header():
    rng = random.Random(3)
    data = saved(np.zeros((4, 3), [("a", "<i4"), ("b", ">f8", (2,))]))
    for position in range(len(data)):
        for _ in range(8):
            wrong = bytearray(data)
            wrong[position] ^= rng.randrange(1, 256)
            with suppress(CorruptArchiveError, UnsupportedMemberError):
                header = parse_header(wrong, where="x")
                if not header.has_objects:
                    assert header.data_offset + header.nbytes <= len(data)


@given(st.text(st.sampled_from("{}()[]',:0123456789<>fiSU descrshapfotnTueFalse\\L\"")))
def test_parse_header_noise_raises_our_errors(text):
    with suppress(CorruptArchiveError, UnsupportedMemberError):
        parse_header(header_of(text), where="x")


def test_build_header_invalid_arguments_are_refused():
    overlapping = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})
    with pytest.raises(OptionTypeError, match="cannot express"):
        build_header(overlapping, (1,))
    for arguments in ({"align": 0}, {"at": -1}):
        with pytest.raises(OptionError):
            build_header("f4", (1,), **arguments)
    with pytest.raises(OptionError):
        build_header("f4", (-1,))


def test_npy_header_is_frozen():
    header = NpyHeader(np.dtype("f4"), (2, 3), False, 64, (1, 0), 4, 12, 6)
    with pytest.raises(AttributeError):
        header.shape = ()


USUAL_DTYPES = ["<u8", ">f4", "|b1", "<U7", "|S3", [("a", "<i2"), ("b", "u1", 2)]]


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (1, 2, 3, 4, 5, 6, 7, 8), (2,) * 9, ()])
@pytest.mark.parametrize("dtype", USUAL_DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_parse_header_of_what_numpy_writes_is_what_numpy_reads(shape, dtype, order):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros(shape, dtype, order))
    file.seek(0)
    header = parse_header(file.getvalue(), where="x")
    np.lib.format.read_magic(file)
    expected = np.lib.format.read_array_header_1_0(file)
    assert (header.shape, header.fortran_order, header.dtype) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"'<u8'", b"'<q9'"), (b"(3,)", b"(03)"), (b"(3,)", b"(3) "), (b"'<u8'", b"[555]"),
     (b"False", b"None ")],
)  # fmt: skip
def test_parse_header_nearly_as_numpy_writes_it_is_an_error_that_names_the_array(old, new):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros(3, "<u8"))
    assert parse_header(file.getvalue(), where="x").shape == (3,)
    with pytest.raises(CorruptArchiveError, match="x at offset 0: "):
        parse_header(file.getvalue().replace(old, new, 1), where="x")
