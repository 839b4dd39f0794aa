"""How much of a compressed archive is decompressed to index the archives inside it."""

import functools
import gzip
import io
import random
import tarfile

import pytest
from support.archives import tar_bytes, zip_bytes
from support.files import bytes_read
from support.nested import PACK, below, deflated, large_members, stem, write

import imagearchive
from imagearchive import ImageArchive
from imagearchive.errors import ImageArchiveError

# What is read besides: twice the parts of which the index keeps digests, heads, and what decoders
# fetch beyond the end of a span.
MORE = 7 << 20

MEMBERS = {f"n{i}": large_members(i) for i in range(4)}


@functools.cache
def outer(inner):
    packed = {f"{name}{inner}": PACK[inner](members) for name, members in MEMBERS.items()}
    return gzip.compress(tar_bytes(packed), 1)


def expected(inner):
    found = {}
    for name, members in MEMBERS.items():
        found |= below(name + stem(inner), members)
    return found


@pytest.fixture(autouse=True, scope="module")
def _imported(tmp_path_factory):
    """Read the modules before bytes are counted."""
    folder = tmp_path_factory.mktemp("warm")
    for number, kind in enumerate(PACK):
        data = PACK[".tgz"]({f"a{kind}": PACK[kind]({"f": b"1"})})
        with imagearchive.open(write(folder / f"{number}.tgz", data), nested=True) as archive:
            dict(archive)


def decompressed(path, **options):
    """Return how often an archive is read while it is opened, and its members."""
    size = path.stat().st_size
    start = bytes_read()
    archive = imagearchive.open(path, **options)
    passes = (bytes_read() - start - MORE) / size
    with archive:
        return passes, dict(archive)


@pytest.mark.parametrize("nested", [True, "auto", "keep", 1])
def test_nested_compressed_archive_of_tars_is_decompressed_once(tmp_path, nested):
    path = write(tmp_path / "x.tar.gz", outer(".tar"))
    passes, found = decompressed(path, nested=nested)
    assert passes < 1
    names = expected(".tar")
    if nested == "keep":
        names = {name.replace("/", ".tar/", 1): data for name, data in names.items()}
    assert found == names


def test_nested_image_archive_of_compressed_tars_is_decompressed_once(tmp_path):
    path = write(tmp_path / "x.tar.gz", outer(".tar"))
    start = bytes_read()
    with ImageArchive(path) as dataset:
        assert (bytes_read() - start - MORE) / path.stat().st_size < 1
        assert dataset.classes == sorted(MEMBERS)


@pytest.mark.parametrize("nested", [True, "auto"])
def test_nested_archives_are_decompressed_once_more_after_a_plain_index(tmp_path, nested):
    path = write(tmp_path / "x.tar.gz", outer(".tar"))
    imagearchive.open(path).close()
    passes, found = decompressed(path, nested=nested)
    assert passes < 1
    assert found == expected(".tar")


def test_nested_gzip_inside_gzip_is_decompressed_once(tmp_path):
    path = write(tmp_path / "x.tar.gz", outer(".tgz"))
    passes, found = decompressed(path, nested=True)
    assert passes < 1
    assert found == expected(".tgz")


def test_nested_two_levels_of_tars_are_decompressed_once(tmp_path):
    middle = tar_bytes({f"{name}.tar": tar_bytes(m) for name, m in MEMBERS.items()})
    path = write(tmp_path / "x.tgz", gzip.compress(tar_bytes({"m.tar": middle, "a": b"1"}), 1))
    passes, found = decompressed(path, nested=True)
    assert passes < 1
    assert found == {**below("m", expected(".tar")), "a": b"1"}


@pytest.mark.parametrize("inner", [".zip", "-deflated.zip", ".tar.xz", ".tar.zst"])
def test_nested_archives_with_jumps_are_decompressed_once_more(tmp_path, inner):
    path = write(tmp_path / "x.tar.gz", outer(inner))
    passes, found = decompressed(path, nested=True)
    assert passes < 2
    assert found == expected(inner)


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes, deflated])
@pytest.mark.parametrize("inner", [".tgz", "-deflated.zip"])
def test_nested_compressed_member_is_decompressed_once(tmp_path, pack, inner):
    members = expected(inner) if inner == ".tgz" else {"t.tar": tar_bytes(expected(inner))}
    path = write(tmp_path / "x.bin", pack({f"in{inner}": PACK[inner](members)}))
    passes, found = decompressed(path, nested=True)
    names = below("in" + stem(inner), members)
    if inner == ".tgz":
        assert passes < 1
    else:
        # A ZIP is scanned after it was decompressed, to its table at the end.
        assert passes < (2 if pack is deflated else 1)
        names = below("in-deflated/t", expected(inner))
    assert found == names


def random_tar(chosen, depth):
    """Return a TAR of files, archives, damaged archives, links, and names that occur twice."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        names = []
        for _ in range(chosen.randint(1, 5)):
            kind = chosen.choice([*PACK, "file", "empty", "cut", "link"])
            info = tarfile.TarInfo(chosen.choice("abcd") + chosen.choice(["", "/x"]) + kind)
            if kind == "link" and names:
                info.type, info.linkname = tarfile.LNKTYPE, chosen.choice(names)
                tar.addfile(info)
                continue
            data = b"" if kind == "empty" else chosen.randbytes(chosen.randint(1, 2000))
            if kind in PACK or kind == "cut":
                inner = random_tar(chosen, depth - 1) if depth else tar_bytes({"f": data})
                pack = PACK.get(kind, gzip.compress)
                data = (
                    inner if kind == ".tar" else pack({"in.tar": inner} if kind in PACK else inner)
                )
                data = data[: len(data) * 2 // 3] if kind == "cut" else data
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            names.append(info.name)
    return out.getvalue()


def outcome(path, **options):
    """Return all members, and what is left out; or the error."""
    try:
        with imagearchive.open(path, **options) as archive:
            return dict(archive), archive.left_out.counts, archive.listdir()
    except ImageArchiveError as error:
        return type(error), error.message.partition("/x.")[2].partition("/")[2]


@pytest.mark.parametrize("seed", range(20))
def test_nested_compressed_archive_equals_the_plain_one(tmp_path, seed):
    chosen = random.Random(seed)
    data = random_tar(chosen, 2)
    plain = write(tmp_path / "x.tar", data)
    packed = write(tmp_path / "x.tgz", gzip.compress(data, 1))
    for nested in (True, "auto", "keep", 1, 2):
        for strict in (True, False):
            options = {"nested": nested, "strict": strict}
            assert outcome(packed, **options) == outcome(plain, **options)
