"""What the headers of TAR members say: names, numbers, kinds, and PAX records."""

from __future__ import annotations

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tar_cases as cases
from support.tar_rows import (
    GOOD,
    RemoteStorage,
    check_bytes,
    content,
    names,
    same_rows,
    scan,
)

from imagearchive.containers.rows import (
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_HARDLINK,
    KIND_OTHER,
    KIND_SYMLINK,
)
from imagearchive.containers.tar import scan as tar
from imagearchive.errors import CorruptArchiveError
from imagearchive.storage.local import MemoryStorage, open_storage


def test_scan_every_flag_gives_its_kind(tmp_path):
    data = b"".join(
        [
            cases.member(b"file", b"1"),
            cases.member(b"old file", b"22", b"\0", magic=cases.V7_MAGIC),
            cases.member(b"old directory/", b"", b"\0", magic=cases.V7_MAGIC),
            cases.member(b"slash but file/", b"", b"0"),
            cases.member(b"contiguous", b"333", b"7"),
            cases.member(b"unknown flag", b"4444", b"Q"),
            cases.header(b"hard", 0, b"1", link=b"file"),
            # Nothing follows a link or directory, whatever its size says.
            cases.header(b"hard with size", 1000, b"1", link=b"file"),
            cases.header(b"soft", 77, b"2", link=b"file"),
            cases.header(b"directory", 255, b"5"),
            cases.header(b"character", 0, b"3"),
            cases.header(b"block", 0, b"4"),
            cases.header(b"fifo", 0, b"6"),
            cases.member(b"last", b"55555"),
            cases.END,
        ]
    )
    rows = check_bytes(tmp_path, data)
    assert rows.entries[: rows.rows]["kind"].tolist() == [
        *(KIND_FILE, KIND_FILE, KIND_DIRECTORY, KIND_FILE, KIND_FILE, KIND_FILE),
        *(KIND_HARDLINK, KIND_HARDLINK, KIND_SYMLINK, KIND_DIRECTORY),
        *(KIND_OTHER, KIND_OTHER, KIND_OTHER, KIND_FILE),
    ]
    assert [rows.link(row) for row in (6, 8, 13)] == [b"file", b"file", b""]
    assert rows.entries["index"][: rows.rows].tolist() == list(range(rows.rows))


@pytest.mark.parametrize("size", [1, 99, 100, 101, 155, 156, 255, 256, 257, 5000])
@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_scan_names_and_targets_of_any_length_are_kept(tmp_path, size, tar_format):
    name = "n" * size
    link = cases.tarinfo(name, kind=tarfile.SYMTYPE, linkname="t" * size)
    file = (cases.tarinfo("d/" + name, 3), b"abc")
    rows = check_bytes(tmp_path, cases.tarfile_archive([(link, b""), file], tar_format))
    assert names(rows) == [name.encode(), b"d/" + name.encode()]
    assert rows.link(0) == b"t" * size


def test_scan_ustar_prefix_is_joined(tmp_path):
    data = cases.member(b"n" * 100, b"1", prefix=b"p" * 155)
    data += cases.member(b"n" * 100, b"2", magic=cases.GNU_MAGIC, prefix=b"15024577777")
    data += cases.member(b"n", b"2", magic=cases.V7_MAGIC, prefix=b"rubbish")
    rows = check_bytes(tmp_path, data + cases.END)
    assert names(rows) == [b"p" * 155 + b"/" + b"n" * 100, b"n" * 100, b"n"]


def test_scan_names_that_are_not_utf8_are_kept(tmp_path):
    raw = bytes(range(0x80, 0xA0))
    data = cases.member(raw, b"1") + cases.long_name(raw * 9) + cases.member(b"x", b"2")
    data += cases.pax([(b"hdrcharset", b"BINARY"), (b"path", raw * 5)]) + cases.member(b"x", b"3")
    data += cases.pax([(b"path", raw * 4)]) + cases.member(b"x", b"4")
    assert names(check_bytes(tmp_path, data + cases.END)) == [raw, raw * 9, raw * 5, raw * 4]


def test_scan_checksum_of_signed_bytes_is_accepted(tmp_path):
    data = cases.member("Übergröße".encode("latin-1"), b"1", signed=True)
    assert data[:512] != cases.member("Übergröße".encode("latin-1"), b"1")[:512]
    assert check_bytes(tmp_path, data + cases.END).rows == 1


@pytest.mark.parametrize("mtime", [-(2**40), -1, 0, 1, 2**33, 2**40])
def test_scan_base_256_numbers_are_read(tmp_path, mtime):
    fields = {"mtime": cases.base_256(mtime, 12), "mode": cases.base_256(0o751, 8)}
    data = cases.header(b"a", cases.base_256(700, 12), magic=cases.GNU_MAGIC, **fields)
    data += cases.pad(b"x" * 700) + cases.member(b"b", b"2") + cases.END
    rows = check_bytes(tmp_path, data)
    assert rows.entries[0]["mtime"] == max(mtime * 10**9, -(2**63)) if mtime < 2**33 else True
    assert rows.entries[0]["mode"] == 0o751


@pytest.mark.parametrize(
    "field", [b"00000000005\0", b"         5 \0", b"5\0" + b"7" * 10, b"5 ".ljust(12, b"\0")]
)
def test_scan_octal_spellings_of_five_are_read(tmp_path, field):
    data = cases.header(b"a", field) + cases.pad(b"12345") + cases.member(b"b") + cases.END
    rows = check_bytes(tmp_path, data)
    assert rows.entries[:2]["size"].tolist() == [5, 0]


def octal_value(field):
    """Return the number in a field, or 0 where there is none."""
    text = field.lstrip(b" \t")
    digits = text[: len(text) - len(text.lstrip(b"01234567"))]
    rest = text[len(digits) :]
    return int(digits or b"0", 8) if not rest or rest[:1] in (b"\0", b" ") else 0


def octal_fields(width):
    usual = [b"%0*o\0", b"%0*o ", b"%0*o\0 ", b"%0*o \0", b" %0*o\0", b"%0*o"]
    spelled = st.builds(
        lambda form, number: (form % (width - len(form % (0, 0)) + 1, number))[:width],
        st.sampled_from(usual),
        st.integers(0, 8 ** (width - 2) - 1),
    )
    any_bytes = st.text("01234567 \t\x0089/", min_size=width, max_size=width).map(str.encode)
    return st.one_of(spelled, any_bytes)


@given(octal_fields(8), octal_fields(12))
def test_scan_octal_fields_are_those_of_the_definition(mode, mtime):
    data = cases.header(b"a", 0, mode=mode, mtime=mtime) + cases.END
    rows = tar.scan(MemoryStorage(data))
    assert rows.entries[0]["mode"] == octal_value(mode) & 0o7777
    assert rows.entries[0]["mtime"] == min(octal_value(mtime) * 10**9, 2**63 - 1)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1600000000.123456789", 1_600_000_000_123_456_789),
        (b"1600000000.1234567899", 1_600_000_000_123_456_789),
        (b"-1.5", -1_500_000_000),
        (b"12", 12 * 10**9),
        (b"12.", 12 * 10**9),
        (b"9" * 18, 2**63 - 1),
        (b"-" + b"9" * 18, -(2**63)),
    ],
)
def test_scan_pax_times_keep_nanoseconds(tmp_path, text, nanoseconds):
    rows = check_bytes(
        tmp_path, cases.pax([(b"mtime", text)]) + cases.member(b"a", b"1") + cases.END
    )
    assert rows.entries[0]["mtime"] == nanoseconds


@pytest.mark.parametrize("flag", [b"x", b"X"])
def test_scan_pax_size_replaces_the_size_of_the_header(tmp_path, flag):
    records = [(b"size", b"600"), (b"path", b"p" * 30), (b"linkpath", b"unused")]
    name = cases.long_name(b"L" * 30)
    body = cases.header(b"short", 0) + cases.pad(b"x" * 600)
    last = cases.member(b"next", b"2") + cases.END
    check_bytes(tmp_path, cases.pax(records, flag) + body + last)
    # Without `tarfile`, which does not find the last member from Python 3.14.10 on.
    for between in (b"", name, cases.long_name(b"K" * 20, b"K") + name):
        data = cases.pax(records, flag) + between + body + last
        rows = scan(data)
        assert content(MemoryStorage(data, "test.tar"), rows, 0) == b"x" * 600
        assert rows.entries[:2]["size"].tolist() == [600, 1]
        assert names(rows) == [b"p" * 30, b"next"]
        assert rows.entries[0]["header_offset"] == 0
    rows = check_bytes(tmp_path, name + cases.pax(records[:1], flag) + body + last)
    assert rows.entries[0]["size"] == 600
    assert names(rows) == [b"L" * 30, b"next"]


def test_scan_global_headers_apply_until_the_archive_ends(tmp_path):
    data = cases.pax([(b"comment", b"0123abc"), (b"mtime", b"5.25")], b"g")
    data += cases.member(b"a", b"1")
    data += cases.pax([(b"mtime", b"6")]) + cases.member(b"b", b"1")
    data += cases.pax([(b"mtime", b"7")], b"g") + cases.member(b"c", b"1")
    rows = check_bytes(tmp_path, data + cases.END + cases.member(b"d", b"1", mtime=8) + cases.END)
    assert rows.entries[:4]["mtime"].tolist() == [5_250_000_000, 6 * 10**9, 7 * 10**9, 8 * 10**9]
    # One that nothing follows, as of an empty commit.
    assert scan(cases.pax([(b"comment", b"x")], b"g") + cases.END).rows == 0


def test_scan_global_names_apply_to_all_members(tmp_path):
    head = cases.pax([(b"path", b"same"), (b"linkpath", b"there"), (b"size", b"3")], b"g")
    data = head + cases.member(b"a", b"123") + cases.header(b"b", 0, b"2", link=b"x") + cases.END
    rows = check_bytes(tmp_path, data)
    assert names(rows) == [b"same", b"same"]
    assert rows.link(1) == b"there"


@pytest.mark.parametrize(
    "records",
    [
        b"x path=a\n",
        b"99 path=a\n",
        b"10 path=aa",
        b"10 path=a_\n",
        b"11 path=a\n",
        b"5 =a\n",
        b"7 patha\n",
        b"4 p=\n",
        b"0 path=a\n",
        b" 9 path=a\n",
        b"99999999999999999999999999999999 path=a\n",
        b"18446744073709551625 path=a\n",
    ],
)
def test_scan_malformed_pax_records_raise(records):
    data = GOOD + cases.member(b"pax", records, b"x") + cases.member(b"c") + cases.END
    with pytest.raises(CorruptArchiveError, match=r"offset 2560: the records of the PAX header"):
        scan(data)


@pytest.mark.parametrize("flag", [b"L", b"K", b"x", b"g", b"X"])
@pytest.mark.parametrize("count", [300, 5_000])
def test_scan_file_many_extended_headers_gives_one_member(tmp_path, flag, count):
    one = cases.member(b"././@LongLink", cases.record(b"comment", b"0" * 600), flag)
    data = cases.member(b"first", b"1") + one * count + cases.member(b"last", b"2") + cases.END
    path = tmp_path / "headers.tar"
    path.write_bytes(data)
    with open_storage(path, "pread") as storage:
        rows = tar.scan(storage)
    assert rows.rows == 2
    same_rows(rows, scan(data))


@pytest.mark.parametrize("flag", [b"L", b"K", b"x", b"X"])
def test_scan_file_extended_headers_beyond_limit_raises(tmp_path, flag):
    one = cases.member(b"././@LongLink", cases.record(b"comment", b"0" * 600), flag)
    path = tmp_path / "headers.tar"
    path.write_bytes(one * 20_000 + cases.member(b"last") + cases.END)
    with (
        open_storage(path, "pread") as storage,
        pytest.raises(CorruptArchiveError, match="16 MiB"),
    ):
        tar.scan(storage)


def test_scan_names_and_records_beyond_limits_raise():
    most = 1 << 20
    name = b"n" * (most - 1)
    data = cases.long_name(name) + cases.member(b"c", b"3") + cases.END
    assert names(scan(data)) == [name]
    same_rows(scan(data), tar.scan(RemoteStorage(data)))
    value = b"v" * (most - 100)
    assert scan(cases.pax([(b"path", value)]) + cases.member(b"c")).name_bytes == most - 100
    for group in (cases.long_name(name + b"n"), cases.long_name(name + b"n", b"K")):
        with pytest.raises(CorruptArchiveError, match="offset 2560: a name or PAX header exceeds"):
            scan(GOOD + group + cases.member(b"c", b"3") + cases.END)
    with pytest.raises(CorruptArchiveError, match="exceeds"):
        scan(cases.pax([(b"comment", b"v" * most)]) + cases.member(b"c"))
    # A name that every member would repeat.
    with pytest.raises(CorruptArchiveError, match="exceeds"):
        scan(cases.pax([(b"path", b"v" * 4097)], b"g") + cases.member(b"c"))
    # A chain of headers that never reaches a member.
    with pytest.raises(CorruptArchiveError, match="exceeds"):
        scan(cases.pax([(b"comment", value)]) * 17 + cases.member(b"c"))


def test_has_header_reads_names_and_checksums():
    assert tar.has_header(GOOD[:512])
    # A name that begins like a compressed file.
    assert tar.has_header(cases.header(b"BZhang.txt"))
    assert tar.has_header(memoryview(GOOD))
    for head in (bytes(512), GOOD[:511], b"", b"PK\3\4" + bytes(600)):
        assert not tar.has_header(head)
