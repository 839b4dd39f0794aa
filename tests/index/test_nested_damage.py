"""Archives inside archives that are damaged, or made to exhaust time or memory."""

import contextlib
import gzip
import io
import random
import tarfile
import tracemalloc
import zipfile

import pytest
from support.archives import tar_bytes, zip_bytes
from support.nested import LARGE, PACK, SMALL, below, deep, deflated, names_of, write

import imagearchive
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    LimitError,
)
from imagearchive.index.inner_scan import MAX_ARCHIVES

# ---------------------------------------------------------------- damage


def damaged_tar():
    inner = bytearray(tar_bytes(SMALL))
    inner[1536 + 148] ^= 0xFF
    return bytes(inner)


@pytest.mark.parametrize("outer", [tar_bytes, zip_bytes, deflated])
def test_nested_damage_names_the_path_and_spares_the_others(tmp_path, outer):
    members = {"a.tar": tar_bytes(SMALL), "b.tar": damaged_tar(), "c.tar": tar_bytes(SMALL)}
    path = write(tmp_path / "x.bin", outer({"in.zip": zip_bytes(members)}))
    with pytest.raises(CorruptArchiveError, match=r"x\.bin/in\.zip/b\.tar: offset") as error:
        imagearchive.open(path, nested=True)
    assert {hint.argument for hint in error.value.hints} == {"strict=False", "nested=False"}
    with imagearchive.open(path, nested=True, strict=False) as archive:
        assert list(archive) == [
            *(f"in/a/{name}" for name in SMALL),
            "in/b/0.jpg",
            *(f"in/c/{name}" for name in SMALL),
        ]
        assert archive["in/c/4.jpg"] == SMALL["4.jpg"]
        assert "b.tar" in archive.table.meta["damage"]
    with pytest.raises(CorruptArchiveError, match=r"b\.tar"):
        imagearchive.open(path, nested=True)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_nested_truncated_compressed_archive_spares_the_others(tmp_path, cut):
    whole = PACK[".tgz"](LARGE)
    members = {"a.tgz": whole[: int(len(whole) * cut)], "b.tgz": whole}
    path = write(tmp_path / "x.tar", tar_bytes(members))
    with pytest.raises(CorruptArchiveError, match=r"x\.tar/a\.tgz"):
        imagearchive.open(path, nested=True)
    with imagearchive.open(path, nested=True, strict=False) as archive:
        found = dict(archive)
    assert {name: data for name, data in found.items() if name[0] == "b"} == below("b", LARGE)
    part = {name: data for name, data in found.items() if name[0] == "a"}
    assert 0 < len(part) < len(LARGE)
    assert part.items() <= below("a", LARGE).items()


@pytest.mark.parametrize("members", [SMALL, LARGE])
def test_nested_deflated_archive_with_a_wrong_checksum_spares_the_others(tmp_path, members):
    packed = bytearray(deflated({"a.tar": tar_bytes(members), "b.tar": tar_bytes(SMALL)}))
    for signature, at in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        packed[packed.index(signature) + at] ^= 0xFF
    path = write(tmp_path / "x.zip", packed)
    with pytest.raises(CorruptArchiveError, match=r"x\.zip/a\.tar: .*CRC-32"):
        imagearchive.open(path, nested=True)
    with imagearchive.open(path, nested=True, strict=False) as archive:
        found = {name for name in archive if name.startswith("a")}
        assert found <= {"a.tar", *(f"a/{name}" for name in members)}
        assert {name: archive[name] for name in set(archive) - found} == below("b", SMALL)


def test_nested_unreadable_archive_stays_a_file(tmp_path):
    broken = b"PK\3\4" + b"\xff" * 100
    path = write(tmp_path / "x.tar", tar_bytes({"a.zip": broken, "b.tar": tar_bytes(SMALL)}))
    with pytest.raises(CorruptArchiveError, match=r"x\.tar/a\.zip"):
        imagearchive.open(path, nested=True)
    with imagearchive.open(path, nested=True, strict=False) as archive:
        assert archive["a.zip"] == broken
        assert archive["b/1.jpg"] == SMALL["1.jpg"]


def test_nested_several_archives_without_readable_members_stay_files(tmp_path):
    cut = tar_bytes({"x": bytes(5000)})[:1500]
    members = {"a.tar": cut, "b.tar": cut, "c.tar": tar_bytes(SMALL)}
    path = write(tmp_path / "x.tar", tar_bytes(members))
    with imagearchive.open(path, nested=True, strict=False) as archive:
        assert list(archive) == ["a.tar", "b.tar", *(f"c/{name}" for name in SMALL)]
        assert archive["b.tar"] == cut


@pytest.mark.parametrize("seed", range(40))
def test_nested_changed_bytes_give_our_error_or_right_members(tmp_path, seed):
    chosen = random.Random(seed)
    kinds = chosen.choices(list(PACK), k=2)
    inner = PACK[kinds[1]](SMALL)
    data = bytearray(PACK[kinds[0]]({"a.bin": inner, "b.bin": PACK[".zip"](SMALL)}))
    for _ in range(chosen.randint(1, 4)):
        place = chosen.randrange(len(data))
        if chosen.random() < 0.5:
            data[place] = chosen.randrange(256)
        else:
            del data[place : place + chosen.randint(1, 600)]
    path = write(tmp_path / "x.bin", data)
    for strict in (True, False):
        with (
            contextlib.suppress(ImageArchiveError),
            imagearchive.open(path, nested=True, strict=strict) as archive,
        ):
            for name in archive:
                with contextlib.suppress(ImageArchiveError):
                    archive.read(name)


# ---------------------------------------------------------------- hostile


def test_nested_more_archives_than_the_limit_are_refused(tmp_path):
    empty = zip_bytes({})
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(MAX_ARCHIVES + 1):
            archive.writestr(f"{number}.zip", empty)
    with pytest.raises(LimitError, match="more than 65536 archives") as error:
        imagearchive.open(path, nested=True)
    assert error.value.hints[0].argument == "nested=False"
    assert len(names_of(path, "auto")) == MAX_ARCHIVES + 1


def test_nested_bomb_is_refused_before_it_is_decompressed(tmp_path):
    """Ten copies in each of seven levels, of a member that decompresses to a thousandfold."""
    data = deflated({"zeros": bytes(1 << 24)})
    for _ in range(7):
        data = deflated({f"{i}.zip": data for i in range(10)})
    path = write(tmp_path / "x.zip", data)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            imagearchive.open(path, nested=True)
        assert tracemalloc.get_traced_memory()[1] < 400 << 20
    finally:
        tracemalloc.stop()


def test_nested_hard_links_to_an_archive_do_not_multiply_its_members(tmp_path):
    def linked(data, count):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("a.tar")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            for number in range(count):
                info = tarfile.TarInfo(f"{number}.tar")
                info.type, info.linkname = tarfile.LNKTYPE, "a.tar"
                tar.addfile(info)
        return out.getvalue()

    many = tar_bytes({f"{i}": b"" for i in range(300)})
    few = write(tmp_path / "few.tar", linked(many, 3))
    assert len(names_of(few, True)) == 4 * 300
    path = write(tmp_path / "x.tar", linked(linked(linked(many, 40), 40), 40))
    with pytest.raises(LimitError, match="links to archives"):
        imagearchive.open(path, nested=True)


@pytest.mark.parametrize(
    "inner",
    [
        {f"{i}": b"" for i in range(20_000)},
        {f"{i}/": b"" for i in range(4000)},
        {f"{i}.zip": deflated({}) for i in range(4000)},
    ],
    ids=["files", "directories", "archives"],
)
def test_nested_long_names_take_bounded_memory(tmp_path, inner):
    """The name of an archive becomes a part of the name of everything in it."""
    path = write(tmp_path / "x.tar", tar_bytes({"n" * 60_000 + ".zip": deflated(inner)}))
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match="names of the members"):
            imagearchive.open(path, nested=True)
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


def test_nested_thousand_levels_stay_bounded(tmp_path):
    path = write(
        tmp_path / "x.zip",
        deep(1000, lambda members: zip_bytes({"x.zip": next(iter(members.values()))})),
    )
    assert names_of(path, True) == ["x/x/x/x/x/x/x/x/x.zip"]


def test_nested_gzip_of_gzip_stays_a_file(tmp_path):
    data = tar_bytes(SMALL)
    for _ in range(1000):
        data = gzip.compress(data, 0)
    path = write(tmp_path / "x.tar", tar_bytes({"x.gz": data}))
    assert names_of(path, True) == ["x.gz"]
