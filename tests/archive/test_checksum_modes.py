"""When reads compare members with their checksums: always, at the first read, or never."""

import io
import os
import pickle
import shutil
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from support.barecat_archives import write_barecat
from support.files import make_tar

import imagearchive
from imagearchive import (
    Archive,
    DataLoader,
    DecodedView,
    ImageArchive,
    IndexTable,
    LazyNPZDataset,
)
from imagearchive.compat import barecat, turboloader
from imagearchive.errors import CorruptArchiveError, OptionError


def jpeg(value):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (value, 90, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


FILES = {f"class_{i % 2}/{i}.jpg": jpeg(10 * i) for i in range(6)}
DAMAGED = "class_1/3.jpg"


def damage(path, offset, size):
    """Change a byte that decoders do not look at: the last one before the end marker.

    The file keeps its time, as when the disk fails: otherwise it would have changed while open.
    """
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(offset + size - 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    write_barecat(str(folder / "data.barecat"), FILES)
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return folder


@pytest.fixture(params=["zip", "barecat"])
def intact(request, tmp_path, originals):
    shutil.copytree(originals, tmp_path / "data")
    return str(tmp_path / "data" / f"data.{request.param}")


def harm(path, name=DAMAGED):
    with Archive(path, verify="never") as archive:
        info = archive.info(name)
    damage(info.archive, info.offset, info.size)


@pytest.fixture
def damaged(intact):
    # The index is built before, so that opening has no reason to read anything.
    harm(intact)
    return intact


READS = {
    "getitem": lambda archive: archive[DAMAGED],
    "get": lambda archive: archive.get(DAMAGED),
    "read": lambda archive: archive.read(DAMAGED),
    "negative position": lambda archive: archive.read(archive.position(DAMAGED) - len(archive)),
    "read_many": lambda archive: archive.read_many([DAMAGED]),
    "samples": lambda archive: list(archive.samples("jpg")),
    "pickled": lambda archive: pickle.loads(pickle.dumps(archive)).read(DAMAGED),
    "decoded": lambda archive: DecodedView(archive)[DAMAGED],
}


@pytest.mark.parametrize("verify", [None, "first", "always", True])
@pytest.mark.parametrize("storage", ["mmap", "pread", "memory"])
@pytest.mark.parametrize("read", READS)
def test_archive_read_of_damaged_member_raises(damaged, verify, storage, read):
    options = {} if verify is None else {"verify": verify}
    with Archive(damaged, storage=storage, **options) as archive:
        for _ in range(2):
            with pytest.raises(
                CorruptArchiveError, match=r"class_1/3\.jpg' at offset \d+: its checksum is"
            ):
                READS[read](archive)
        assert archive["class_0/0.jpg"] == FILES["class_0/0.jpg"]


@pytest.mark.parametrize("verify", ["never", False])
@pytest.mark.parametrize("read", READS)
def test_archive_that_never_verifies_returns_the_bytes(damaged, verify, read):
    with Archive(damaged, verify=verify) as archive:
        READS[read](archive)
        assert len(archive[DAMAGED]) == len(FILES[DAMAGED])


@pytest.mark.parametrize(("verify", "raises"), [("first", False), ("always", True)])
def test_archive_damage_after_the_first_read(intact, verify, raises):
    with Archive(intact, verify=verify, storage="pread") as archive:
        assert archive[DAMAGED] == FILES[DAMAGED]
        harm(intact)
        if raises:
            with pytest.raises(CorruptArchiveError):
                archive[DAMAGED]
        else:
            assert archive[DAMAGED] != FILES[DAMAGED]
        harm(intact, "class_0/0.jpg")
        with pytest.raises(CorruptArchiveError):
            archive["class_0/0.jpg"]


def test_archive_first_compares_again_after_fork_and_pickling(intact):
    with Archive(intact, storage="pread") as archive:
        copy = pickle.loads(pickle.dumps(archive))
        # Opens the file, whose change is noticed otherwise.
        copy["class_0/2.jpg"]
        archive[DAMAGED]
        harm(intact)
        with pytest.raises(CorruptArchiveError):
            copy[DAMAGED]
        if (pid := os.fork()) == 0:
            harm(intact, "class_0/0.jpg")
            try:
                archive["class_0/0.jpg"]
            except CorruptArchiveError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(
    "open_dataset", [Archive, ImageArchive, LazyNPZDataset, DataLoader, barecat.Barecat]
)
def test_verify_unknown_word_raises(tmp_path, open_dataset):
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 3)))
    with pytest.raises(OptionError, match="verify"):
        open_dataset(tmp_path / "a.npz", verify="sometimes")


def test_tar_members_have_no_checksum_to_compare(tmp_path):
    path = make_tar(tmp_path / "a.tar", FILES)
    with Archive(path, verify="always") as archive:
        assert {name: bytes(data) for name, data in archive.items()} == FILES


@pytest.mark.parametrize(
    "use", [lambda path: ImageArchive(path)[3], lambda path: [*ImageArchive(path)]]
)
def test_image_archive_damaged_image_raises(damaged, use):
    with pytest.raises(CorruptArchiveError, match="its checksum is"):
        use(damaged)
    assert len(list(ImageArchive(damaged, verify="never"))) == 6
    with pytest.raises(CorruptArchiveError):
        pickle.loads(pickle.dumps(ImageArchive(damaged, verify="always")))[3]


@pytest.mark.parametrize("image_size", [None, 16])
@pytest.mark.parametrize("source", [str, ImageArchive], ids=["path", "dataset"])
def test_loader_damaged_image_is_a_bad_sample(damaged, image_size, source):
    options = {"batch_size": 6, "image_size": image_size, "output": "numpy", "num_workers": 1}
    with (
        DataLoader(source(damaged), **options) as loader,
        pytest.raises(CorruptArchiveError, match="its checksum is"),
    ):
        list(loader)
    with DataLoader(source(damaged), on_error="skip", **options) as loader:
        list(loader)
        assert [bad.member for bad in loader.errors] == [DAMAGED]


def test_loader_verify_reaches_the_archive(damaged):
    options = {"batch_size": 6, "image_size": 16, "output": "numpy", "num_workers": 1}
    with DataLoader(damaged, verify="never", **options) as loader:
        assert len(next(iter(loader))[0]) == 6
    with DataLoader(ImageArchive(damaged, verify="never"), **options) as loader:
        assert len(next(iter(loader))[0]) == 6
    with pytest.raises(OptionError, match="pass it where the dataset is opened"):
        DataLoader(ImageArchive(damaged), verify="never", **options)


def test_lazy_npz_verify_words_compare_the_column(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, image=np.arange(8000.0).reshape(100, 80))
    harm(path, "image.npy")
    with LazyNPZDataset(path) as never, LazyNPZDataset(path, verify="never") as also:
        assert len(never[0]["image"]) == len(also[0]["image"]) == 80
    for verify in ("first", "always", True):
        with (
            LazyNPZDataset(path, verify=verify) as dataset,
            pytest.raises(CorruptArchiveError, match="checksum"),
        ):
            dataset[0]


@pytest.mark.parametrize(
    "read",
    [
        lambda archive: archive[DAMAGED],
        lambda archive: archive.read(DAMAGED),
        lambda archive: archive.readinto(DAMAGED, bytearray(5000)),
        lambda archive: dict(archive.items()),
    ],
)
def test_compat_barecat_always_compares(intact, read):
    with barecat.Barecat(intact) as archive:
        read(archive)
        harm(intact)
        with pytest.raises(CorruptArchiveError):
            read(archive)


def test_compat_turboloader_damaged_image_raises(damaged):
    loader = turboloader.DataLoader(damaged, batch_size=6, num_workers=1)
    with pytest.raises(CorruptArchiveError, match="its checksum is"):
        list(loader)


def deflate(data):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def test_forged_method_of_a_deflated_member_is_found_by_its_checksum(tmp_path):
    # Its compressed bytes are as long as its content, so an index can call it stored.
    contents = (bytes(range(100)) + bytes(range(size)) for size in range(100))
    content = next(data for data in contents if len(deflate(data)) == len(data))
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("a", content)
    table = IndexTable.build(path)
    assert table.entries["method"].tolist() == [8]
    assert table.entries["size"][0] == table.entries["stored_size"][0]
    table.entries["method"][0] = 0
    table.save(tmp_path / "forged.idx.npy")
    for verify in ("first", "always"):
        with imagearchive.open(path, ipath=tmp_path / "forged.idx.npy", verify=verify) as archive:
            for _ in range(2):
                with pytest.raises(CorruptArchiveError, match="its checksum is"):
                    archive.read("a")
    with imagearchive.open(path) as archive:
        assert archive["a"] == content
