"""Files that are truncated, overwritten, replaced, deleted, or extended while they are open.

Each case runs in a forked child, because SIGBUS would end the process.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
from support.archives import write_tar
from support.barecat_archives import write_barecat
from support.images import encode, photo

import imagearchive
from imagearchive.archive.convert import convert
from imagearchive.archive.verify import verify
from imagearchive.errors import StaleIndexError
from imagearchive.index.table import IndexTable
from imagearchive.transforms import Compose, Normalize, Resize

STORAGES = ["mmap", "pread"]
COUNT = 60
IMAGES = {f"{i % 3}/{i:03d}.jpg": encode(photo(64, 64, i), quality=95) for i in range(COUNT)}
ROWS = np.random.default_rng(0).integers(0, 256, (COUNT, 96, 96, 3), np.uint8)
NORMALIZED = (Normalize(0.5, 0.5),)
RESIZED = (Resize(32, 32), *NORMALIZED)


def in_child(function, *arguments):
    """Call a function in a forked child, and return its result; the child must exit normally."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def work():
        theirs.send(function(*arguments))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    theirs.close()
    with contextlib.suppress(EOFError):
        result = ours.recv()
    child.join()
    assert child.exitcode == 0, f"the child ended with {child.exitcode}"
    return result


# --- what happens to the file --------------------------------------------------------------------


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 8)


def overwrite(path):
    """Write other bytes into the same file, as ``rsync --inplace`` and ``dd`` do."""
    noise = np.random.default_rng(1).bytes(os.path.getsize(path))
    with open(path, "r+b") as file:
        file.write(noise)


def replace(path):
    with open(f"{path}.new", "wb") as file:
        file.write(b"another file")
    os.replace(f"{path}.new", path)


def delete(path):
    os.remove(path)


def extend(path):
    with open(path, "ab") as file:
        file.write(b"\0" * 100_000)


# --- what is open --------------------------------------------------------------------------------


def tar(folder):
    return write_tar(folder / "a.tar", IMAGES)


def deflated_zip(folder):
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in IMAGES.items():
            target.writestr(name, data)
    return folder / "a.zip"


def stored_zip(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as target:
        for name, data in IMAGES.items():
            target.writestr(name, data)
    return folder / "a.zip"


def npz(folder, save=np.savez):
    save(folder / "a.npz", images=ROWS, labels=np.arange(COUNT))
    return folder / "a.npz"


def deflated_npz(folder):
    return npz(folder, np.savez_compressed)


def object_npz(folder):
    boxes = np.empty(COUNT, object)
    boxes[:] = [np.arange(4.0 * (i + 500)).reshape(-1, 4) for i in range(COUNT)]
    np.savez(folder / "a.npz", images=ROWS, bboxes=boxes)
    return folder / "a.npz"


def object_only_npz(folder):
    texts = np.empty(COUNT, object)
    texts[:] = [f"caption {i} " * 500 for i in range(COUNT)]
    np.savez(folder / "a.npz", texts=texts)
    return folder / "a.npz"


def lone_npy(folder):
    np.save(folder / "a.npy", ROWS)
    return folder / "a.npy"


def bins(folder):
    imagearchive.write_split_data(str(folder / "bins"), list(IMAGES.values()), splits=1)
    return folder / "bins" / "bin00000000.dat"


def barecat(folder):
    pytest.importorskip("barecat")
    write_barecat(folder / "a.barecat", IMAGES)
    return folder / "a.barecat-shard-00000"


def every_name(path, storage):
    archive = imagearchive.open(path, storage=storage)
    names = list(archive)
    assert archive[names[0]] == IMAGES[names[0]]
    return lambda: {name: archive[name] for name in names}


def every_get(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()
    return lambda: {name: archive.get(name) for name in IMAGES}


def every_file(path, storage):
    archive = imagearchive.open(path, storage=storage)
    files = {name: archive.open(name) for name in IMAGES}
    return lambda: {name: file.read() for name, file in files.items()}


def small_reads(path, storage):
    archive = imagearchive.open(path, storage=storage)
    files = {name: archive.open(name) for name in IMAGES}
    return lambda: {
        name: b"".join(iter(partial(file.read, 99), b"")) for name, file in files.items()
    }


def views(path, storage):
    """The views of a user, who asks after using them."""
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        found = {name: bytes(archive.read(name)) for name in IMAGES}
        if found != IMAGES:
            archive.check_unchanged()
        return found

    return use


def many_views(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        found = [bytes(data) for data in archive.read_many(IMAGES)]
        if found != list(IMAGES.values()):
            archive.check_unchanged()
        return dict(zip(IMAGES, found))

    return use


def decoded(path, storage):
    view = imagearchive.DecodedView(imagearchive.open(path, storage=storage))
    view.store.open_file()
    return lambda: [int(view[name].sum()) for name in IMAGES]


def images(path, storage):
    dataset = imagearchive.ImageArchive(path, storage=storage)
    return lambda: [int(np.asarray(dataset[i][0]).sum()) for i in range(len(dataset))]


def raw_images(path, storage):
    """A loader of the user that accepts any bytes."""
    dataset = imagearchive.ImageArchive(path, storage=storage, loader=lambda file: file.read())
    return lambda: {dataset.name(i): dataset[i][0] for i in range(len(dataset))}


def loader(on_error="raise", transform=RESIZED, **options):
    def open_loader(path, storage):
        dataset = imagearchive.ImageArchive(path, storage=storage)
        return batches_of(dataset, on_error, transform, **options)

    return open_loader


def batches_of(dataset, on_error="skip", transform=NORMALIZED, num_workers=2, **options):
    batches = imagearchive.DataLoader(
        dataset,
        batch_size=8,
        shuffle=False,
        transform=None if transform is None else Compose(transform),
        on_error=on_error,
        num_workers=num_workers,
        output="numpy",
        **options,
    )
    return lambda: sum(len(batch[0]) if transform else len(batch) for batch in batches)


def npz_loader(path, storage):
    return batches_of(imagearchive.LazyNPZDataset(path, storage=storage))


def combined_loader(path, storage):
    one = imagearchive.LazyNPZDataset(path, storage=storage)
    return batches_of(imagearchive.CombinedLazyDataset([one, one]))


def rows(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    names = list(dataset[0])
    return lambda: [[str(dataset[i][name])[:9] for name in names] for i in range(COUNT)]


def row_batches(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    return lambda: int(dataset.get_batch(range(COUNT))["images"].sum())


def whole_array(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    return lambda: int(dataset.arrays["images"].sum())


def lone_rows(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    return lambda: int(dataset.get_batch(range(COUNT))["a"].sum())


def packets(path, storage):
    dataset = imagearchive.SplitDataLoader(str(path.parent), storage=storage)
    dataset[0]
    return lambda: dict(zip(IMAGES, (dataset[i] for i in range(COUNT))))


def packet_views(path, storage):
    dataset = imagearchive.SplitDataLoader(str(path.parent), storage=storage, cache_size=COUNT)
    dataset[0]
    return lambda: dict(zip(IMAGES, dataset.__getitems__(range(COUNT))))


def barecat_names(path, storage):
    return every_name(path.parent / "a.barecat", storage)


def extraction(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        target = path.parent / "extracted"
        imagearchive.extract(archive, target)
        return {name: (target / name).read_bytes() for name in IMAGES}

    return use


def conversion(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        target = path.parent / "converted.tar"
        convert(archive, target)
        return dict(imagearchive.open(target))

    return use


def verification(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()
    return lambda: len(verify(archive, decode=True).failures)


#: What notices that bytes are other ones: by decoding them, or by a checksum.
CHECKED = {
    "decoded view": (tar, decoded),
    "ImageArchive[i]": (tar, images),
    "loader": (tar, loader()),
    "loader without threads": (tar, loader(num_workers=0)),
    "loader that skips": (tar, loader("skip")),
    "loader that replaces": (tar, loader("replace")),
    "loader of dicts": (tar, loader("skip", None)),
    "deflated names": (deflated_zip, every_name),
    "deflated files": (deflated_zip, every_file),
    "loader of a deflated ZIP": (deflated_zip, loader("skip")),
    "deflated rows": (deflated_npz, row_batches),
    "loader of deflated rows": (deflated_npz, npz_loader),
    "objects": (object_only_npz, rows),
    "extraction of a ZIP": (stored_zip, extraction),
    "conversion of a ZIP": (stored_zip, conversion),
    "conversion of a deflated ZIP": (deflated_zip, conversion),
}
#: What has nothing to compare bytes with.
UNCHECKED = {
    "names": (tar, every_name),
    "get": (tar, every_get),
    "files": (tar, every_file),
    "small reads": (tar, small_reads),
    "views": (tar, views),
    "read_many": (tar, many_views),
    "loader of the user": (tar, raw_images),
    "rows": (npz, rows),
    "rows and objects": (object_npz, rows),
    "row batches": (npz, row_batches),
    "whole array": (npz, whole_array),
    "lone array": (lone_npy, lone_rows),
    "loader of rows": (npz, npz_loader),
    "loader of several files": (npz, combined_loader),
    "packets": (bins, packets),
    "cached packets": (bins, packet_views),
    "barecat": (barecat, barecat_names),
    "extraction": (tar, extraction),
    "conversion": (tar, conversion),
}


def outcome(make, consumer, storage, change, folder):
    """Open a new archive, change it, and use it; return the result or the error."""
    path = make(folder)
    # Not in the tick of the clock in which it will be changed.
    os.utime(path, (1e9, 1e9))
    use = consumer(path, storage)
    if change is not None:
        change(path)
    try:
        return use()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def outcomes(cases, storage, change, folder):
    found = {}
    for number, (name, (make, consumer)) in enumerate(cases.items()):
        (folder / str(number)).mkdir()
        found[name] = outcome(make, consumer, storage, change, folder / str(number))
    return found


def assert_all_stale(found):
    wrong = {
        name: str(result)[:300]
        for name, result in found.items()
        if not str(result).startswith("StaleIndexError: ") or "changed while open" not in result
    }
    assert not wrong


@pytest.mark.parametrize("storage", STORAGES)
def test_truncated_file_is_reported_as_changed(storage, tmp_path):
    cases = CHECKED | UNCHECKED | {"verification": (tar, verification)}
    assert_all_stale(in_child(outcomes, cases, storage, truncate, tmp_path))


@pytest.mark.parametrize("storage", STORAGES)
def test_overwritten_file_is_never_a_damaged_one(storage, tmp_path):
    cases = CHECKED | {"verification": (tar, verification)}
    assert_all_stale(in_child(outcomes, cases, storage, overwrite, tmp_path))


@pytest.mark.parametrize("change", [replace, delete, extend])
@pytest.mark.parametrize("storage", STORAGES)
def test_replaced_deleted_or_extended_file_stays_readable(storage, change, tmp_path):
    cases = CHECKED | UNCHECKED
    for name in ("now", "later"):
        (tmp_path / name).mkdir()
    expected = in_child(outcomes, cases, storage, None, tmp_path / "now")
    assert not [name for name, result in expected.items() if "Error" in str(result)[:40]]
    assert in_child(outcomes, cases, storage, change, tmp_path / "later") == expected


# --- worker processes ----------------------------------------------------------------------------


def epoch_in_workers(path, storage, context, change):
    from torch.utils.data import DataLoader

    dataset = imagearchive.ImageArchive(path, storage=storage, transform=np.array)
    batches = DataLoader(dataset, 4, num_workers=2, multiprocessing_context=context)
    iterator = iter(batches)
    # Both workers have opened the archive.
    next(iterator), next(iterator)
    change(path)
    try:
        return len(list(iterator))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.needs_torch
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("storage", STORAGES)
def test_torch_workers_truncated_file_is_reported_as_changed(storage, context, tmp_path):
    # Torch installs a handler of its own for SIGBUS in every worker.
    path = tar(tmp_path)
    os.utime(path, (1e9, 1e9))
    found = in_child(epoch_in_workers, path, storage, context, truncate)
    assert str(found).startswith("StaleIndexError: "), found
    assert "changed while open" in found


# --- the index file ------------------------------------------------------------------------------


def use_with_truncated_index(path):
    archive = imagearchive.open(path)
    names = list(IMAGES)
    archive[names[0]]
    table = IndexTable.open(path)
    os.truncate(path.with_suffix(".idx.npy"), 4096)
    uses = {
        "name": lambda: [archive[name] for name in names],
        "position": lambda: [archive.read(i) for i in range(len(names))],
        "names": lambda: list(archive),
        "listdir": lambda: archive.listdir("1"),
        "glob": lambda: archive.glob("*/*.jpg"),
        "walk": lambda: list(archive.walk()),
        "info": lambda: archive.info(50).name,
        "table": lambda: table.fingerprint(),
        "dataset": lambda: imagearchive.DataLoader(imagearchive.ImageArchive(path), batch_size=8),
    }
    found = {}
    for name, use in uses.items():
        try:
            found[name] = use()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return {name: str(result) for name, result in found.items()}


def test_index_file_truncated_while_mapped_is_reported_as_changed(tmp_path):
    path = write_tar(tmp_path / "a.tar", {**IMAGES, **{f"x/{i}" * 20: b"" for i in range(500)}})
    found = in_child(use_with_truncated_index, path)
    # A new open builds the index again.
    assert "DataLoader" in found.pop("dataset")
    assert_all_stale(found)


# --- a scan --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tar, stored_zip])
def test_index_build_file_that_shrinks_during_the_scan_is_reported_as_changed(
    make, tmp_path, monkeypatch
):
    path = make(tmp_path)
    size = os.path.getsize(path)
    fstat, sizes = os.fstat, iter(range(size - 1024, 0, -1024))

    def shrink(descriptor):
        status = fstat(descriptor)
        # What another process may do once the file is open.
        os.truncate(path, next(sizes))
        return status

    monkeypatch.setattr(os, "fstat", shrink)
    with pytest.raises(StaleIndexError, match="changed while open"):
        IndexTable.build(path)


# --- the handler ---------------------------------------------------------------------------------

FOREIGN = """
import faulthandler, mmap, os, signal, sys, time
order, path = sys.argv[1:]
if order == "before":
    faulthandler.enable()
import imagearchive
archive = imagearchive.open(path, storage="mmap")
names = list(archive)
archive[names[0]]
if order == "after":
    faulthandler.enable()
if order != "none":
    time.sleep(0.02)
    archive[names[0]]
with open(path + ".other", "w+b") as file:
    file.truncate(1 << 16)
    mapped = mmap.mmap(file.fileno(), 1 << 16)
    file.truncate(0)
if order == "kill":
    os.kill(os.getpid(), signal.SIGBUS)
mapped[5000]
print("still alive")
"""


@pytest.mark.parametrize("order", ["none", "before", "after", "kill"])
def test_handler_faults_of_others_end_the_process_as_before(order, tmp_path):
    path = tar(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, order, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )
    assert done.returncode == -signal.SIGBUS, done
    assert not done.stdout
    if order in ("before", "after"):
        assert "Fatal Python error: Bus error" in done.stderr


def use_in_many_threads(path):
    archive = imagearchive.open(path, storage="mmap")
    names = list(archive)
    archive[names[0]]
    views = [archive.read(name) for name in names]
    os.truncate(path, 0)
    errors = []

    def work(number):
        # Views of the user: no error, but zeros.
        assert not any(bytes(views[number]))
        try:
            archive[names[number]]
        except StaleIndexError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(StaleIndexError):
        archive.check_unchanged()
    archive.close()
    views.clear()
    # Other archives are not concerned.
    (path.parent / "new").mkdir()
    other = imagearchive.open(tar(path.parent / "new"), storage="mmap")
    assert {name: other[name] for name in other} == IMAGES
    return len(errors)


def test_handler_faults_in_many_threads_all_end_in_errors(tmp_path):
    assert in_child(use_in_many_threads, tar(tmp_path)) == COUNT
