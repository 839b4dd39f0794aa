"""Archives inside archives that are damaged, or made to exhaust time or memory."""

import contextlib
import gzip
import io
import os
import random
import tarfile
import tracemalloc
import zipfile

import pytest
from support.archives import tar_bytes, zip_bytes
from support.gzip_quine import quine
from support.nested import LARGE, PACK, SMALL, below, deep, deflated, names_of, write
from support.peak_memory import peak_memory_of

import imagearchive
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    LimitError,
    UnsupportedArchiveError,
)
from imagearchive.index.inner_scan import MAX_ARCHIVES
from imagearchive.index.table import IndexTable

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

    def refused():
        with pytest.raises(LimitError):
            imagearchive.open(path, nested=True)

    assert peak_memory_of(refused) < 400 << 20


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


def test_nested_quine_is_refused_alone_and_a_file_inside(tmp_path):
    data = quine()
    assert gzip.decompress(data) == data
    with pytest.raises(UnsupportedArchiveError, match="neither an archive nor an array"):
        imagearchive.open(write(tmp_path / "quine.tar.gz", data), nested=True)
    for number, pack in enumerate(PACK.values()):
        path = write(tmp_path / f"{number}.bin", pack({"a.tar.gz": data}))
        for nested in (True, "auto"):
            with imagearchive.open(path, nested=nested) as archive:
                assert dict(archive) == {"a.tar.gz": data}


@pytest.mark.parametrize("strict", [True, False])
def test_nested_zip_whose_member_is_the_zip_itself_is_refused(tmp_path, strict):
    """Its size says that its data goes on to the end of the file, with the table."""
    data = bytearray(zip_bytes({"x.zip": b"PK\3\4" + bytes(200)}))
    start, size = data.index(b"PK\1\2"), (len(data) - 35).to_bytes(4, "little")
    data[18:26] = data[start + 20 : start + 28] = 2 * size
    for pack in (bytes, lambda zipped: tar_bytes({"x.zip": zipped})):
        path = write(tmp_path / "y.bin", pack(bytes(data)))
        if strict:
            with pytest.raises(CorruptArchiveError):
                imagearchive.open(path, nested=True)
        else:
            with (
                contextlib.suppress(CorruptArchiveError),
                imagearchive.open(path, nested=True, strict=False) as archive,
            ):
                assert dict(archive) in ({}, {"x.zip": bytes(data)})


def test_nested_many_tars_in_a_bomb_are_refused(tmp_path):
    """Each takes a few bytes of the compressed archive."""
    one = tar_bytes({"f": b""})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for number in range(6_000):
            info = tarfile.TarInfo(f"{number}.tar")
            info.size = 1536
            tar.addfile(info, io.BytesIO(one))
    path = write(tmp_path / "x.tar.gz", out.getvalue())
    with pytest.raises(LimitError, match="archives within one archive"):
        imagearchive.open(path, nested=True)
    assert len(names_of(path, "auto")) == 6_000


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize("outer", [".tar", ".zip", ".tgz", "-deflated.zip"])
def test_nested_index_reports_progress_up_to_the_size_of_the_archive(tmp_path, outer):
    packed = {f"{i}{kind}": PACK[kind](LARGE) for i, kind in enumerate((".tar", ".tgz", ".zip"))}
    path = write(tmp_path / "x.bin", PACK[outer](packed))
    IndexTable.open(path)
    seen = []
    IndexTable.open(path, nested=True, progress=lambda done, total: seen.append((done, total)))
    size = path.stat().st_size
    assert {total for _, total in seen} == {size}
    places = [done for done, _ in seen]
    assert places == sorted(places)
    assert size * 0.3 < places[-1] <= size
    assert len(set(places)) > 2


@pytest.mark.parametrize("outer", [".tar", ".tgz"])
@pytest.mark.parametrize("plain", [True, False])
def test_nested_index_that_is_interrupted_leaves_nothing_of_it(tmp_path, outer, plain):
    packed = {f"{i}{kind}": PACK[kind](LARGE) for i, kind in enumerate((".tgz", ".zip", ".tgz"))}
    path = write(tmp_path / "x.bin", PACK[outer](packed))
    if plain:
        IndexTable.open(path)
    before = sorted(os.listdir(tmp_path))
    for calls in (1, 3, 5):
        left = [calls]

        def stop(done, total, left=left):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            IndexTable.open(path, nested=True, progress=stop)
        # The index of the archive itself may be there already.
        assert {*os.listdir(tmp_path)} - {*before} <= {"x.idx.npy"}
    assert len(names_of(path, True)) == 3 * len(LARGE)
