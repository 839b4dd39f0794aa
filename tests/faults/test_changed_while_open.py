"""Files that are truncated, overwritten, replaced, deleted, or extended while they are open.

Each case runs in a forked child, because SIGBUS would end the process.
"""

import os

import numpy as np
import pytest
from support.archives import write_tar
from support.archives_of_images import IMAGES, stored_zip, tar
from support.changed_files import delete, extend, in_child, overwrite, replace, truncate
from support.open_uses import CHECKED, UNCHECKED, verification

import imagearchive
from imagearchive.errors import StaleIndexError
from imagearchive.index.table import IndexTable

STORAGES = ["mmap", "pread"]


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
    # A spawned worker imports torch, which takes long.
    workers = 2 if context == "fork" else 1
    batches = DataLoader(dataset, 4, num_workers=workers, multiprocessing_context=context)
    iterator = iter(batches)
    # All workers have opened the archive.
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
