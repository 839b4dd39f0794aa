"""Broken images and other errors in samples."""

import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from support.archives import write_tar
from support.samples import (
    COUNT,
    DAMAGED,
    FILES,
    MIXED,
    TRAINING,
    Encoded,
    Numbered,
    damaged,
)

from imagearchive import ImageArchive
from imagearchive.errors import (
    CorruptArchiveError,
    DecodeError,
    LimitError,
    WorkerError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.loader.order import EpochOrder
from imagearchive.transforms import (
    ToTensor,
)


class FailingDataset:
    """Images, one of which the system cannot read."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 3:
            raise self.error
        return np.zeros((4, 5, 3), np.uint8), index


@pytest.mark.parametrize(
    "error",
    [OSError(24, "Too many open files"), FileNotFoundError("gone"), OSError(5, "I/O error")],
)
@pytest.mark.parametrize("on_error", ["raise", "skip", "replace"])
def test_on_error_of_system_errors_raises(error, on_error):
    loader = DataLoader(
        FailingDataset(error),
        2,
        num_workers=1,
        on_error=on_error,
        transform=ToTensor(),
        output="numpy",
    )
    with pytest.raises(OSError, match=str(error.args[-1])):
        list(loader)


@pytest.mark.parametrize("transform", [None, TRAINING, MIXED], ids=["none", "compiled", "mixed"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_on_error_raises_skips_or_replaces(transform, num_workers):
    def made(on_error):
        return DataLoader(
            Encoded(damaged()), 10, shuffle=True, seed=4, transform=transform,
            num_workers=num_workers, on_error=on_error,
        )  # fmt: skip

    def indices(batch):
        if transform is None:
            return [sample["index"] for sample in batch]
        return [label // 3 for label in batch[1].tolist()]

    with pytest.raises(DecodeError, match=r"sample (7|8|20|33) \(\d/0\d\d.jpg\)"):
        list(made("raise"))
    loader = made("skip")
    batches = [indices(batch) for batch in loader]
    order = [batch.tolist() for batch in EpochOrder(COUNT, seed=4, batch_size=10)]
    assert batches == [[i for i in batch if i not in DAMAGED] for batch in order]
    assert {bad.index for bad in loader.errors} == DAMAGED
    assert all(bad.member == f"{bad.index % 4}/{bad.index:03d}.jpg" for bad in loader.errors)
    assert all(bad.reason for bad in loader.errors)
    list(loader)
    assert len(loader.errors) == len(DAMAGED)

    flat = [i for batch in order for i in batch]
    expected = []
    for position in range(COUNT):
        while flat[position % COUNT] in DAMAGED:
            position += 1
        expected.append(flat[position % COUNT])
    loader = made("replace")
    batches = [indices(batch) for batch in loader]
    assert [len(batch) for batch in batches] == [10, 10, 10, 10, 10, 3]
    assert [i for batch in batches for i in batch] == expected
    assert {bad.index for bad in loader.errors} == DAMAGED


@pytest.mark.parametrize("transform", [TRAINING, MIXED], ids=["compiled", "mixed"])
def test_on_error_replace_yields_the_sample_of_its_index(transform):
    def images(source):
        loader = DataLoader(
            source, 10, shuffle=True, seed=4, transform=transform, on_error="replace",
            return_indices=True, num_workers=2,
        )  # fmt: skip
        return [
            (int(index), image, int(label))
            for batch in loader
            for image, label, index in zip(*batch)
        ]

    whole = {index: image for index, image, _ in images(Encoded())}
    replaced = images(Encoded(damaged()))
    assert len(replaced) == COUNT
    for index, image, label in replaced:
        assert index not in DAMAGED
        assert label == index * 3
        assert np.array_equal(image, whole[index])


@pytest.mark.parametrize("transform", [None, TRAINING], ids=["none", "compiled"])
@pytest.mark.parametrize("broken", [(1, 6), (2, 3), (0, 7)])
def test_on_error_raise_reports_the_first_broken_sample(transform, broken):
    first, last = broken

    class SlowAtFirst(Encoded):
        """The first broken sample is read only after the last one, by another thread."""

        def __init__(self):
            super().__init__()
            self.failed = threading.Event()

        def read(self, index):
            if index == last:
                self.failed.set()
            elif index == first:
                self.failed.wait(0.2)
                time.sleep(0.02)
            return b"broken" if index in broken else super().read(index)

    loader = DataLoader(SlowAtFirst(), 8, transform=transform, num_workers=4)
    with pytest.raises(DecodeError, match=rf"sample {first} \("):
        list(loader)


def test_on_error_replace_names_the_sample_of_which_all_replacements_are_broken():
    files = [b"x"] * 9
    loader = DataLoader(Encoded(files), 9, image_size=8, on_error="replace", num_workers=4)
    with pytest.raises(DecodeError, match=r"sample 0 and all that follow"):
        list(loader)


def test_on_error_logs_a_broken_image_once(caplog):
    loader = DataLoader(Encoded(damaged()), 10, image_size=8, on_error="replace", num_workers=2)
    for _ in range(3):
        list(loader)
    said = [record.getMessage() for record in caplog.records]
    assert sorted(int(text.split()[1]) for text in said) == sorted(DAMAGED)


def test_errors_with_any_num_workers_are_the_same():
    def errors(num_workers, on_error):
        loader = DataLoader(
            Encoded(damaged()), 32, shuffle=True, image_size=8, num_workers=num_workers,
            on_error=on_error,
        )  # fmt: skip
        for _ in range(3):
            list(loader)
        return [(bad.index, bad.member) for bad in loader.errors]

    for on_error in ("skip", "replace"):
        expected = errors(0, on_error)
        assert len(expected) == len(DAMAGED)
        assert all(errors(k, on_error) == expected for k in (1, 2, 5, 8))


def test_on_error_with_only_broken_images_ends():
    files = [b"x"] * 9
    loader = DataLoader(Encoded(files), 3, image_size=8, on_error="skip", num_workers=2)
    assert list(loader) == []
    assert len(loader.errors) == 9
    with pytest.raises(DecodeError, match=r"all that follow .* broken"):
        list(DataLoader(Encoded(files), 3, image_size=8, on_error="replace", num_workers=2))


def test_on_error_of_errors_in_the_transform_raises():
    def wrong(image):
        raise ZeroDivisionError("mine")

    for on_error in ("raise", "skip", "replace"):
        loader = DataLoader(Encoded(), 4, transform=wrong, on_error=on_error, num_workers=2)
        with pytest.raises(ZeroDivisionError, match="mine"):
            next(iter(loader))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stop_iteration_in_a_sample_raises_worker_error(num_workers):
    class Ends(Numbered):
        def __getitem__(self, index):
            if index == 9:
                raise StopIteration
            return super().__getitem__(index)

    with pytest.raises(WorkerError, match="StopIteration"):
        list(DataLoader(Ends(), 4, image_size=4, num_workers=num_workers))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes from 3.11 on")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_error_in_a_function_has_a_note_with_the_sample(tar, num_workers):
    def picky(image):
        if image.shape[1] == 43:
            raise KeyError("unexpected")
        return image[:8, :8]

    loader = DataLoader(tar, 8, transform=picky, num_workers=num_workers)
    with pytest.raises(KeyError) as caught:
        list(loader)
    data = ImageArchive(tar)
    index = next(i for i in range(COUNT) if data[i][0].width == 43)
    note, hint = caught.value.__notes__
    assert note == f"raised for sample {index} ({data.name(index)})"
    assert "gets an (H, W, 3) array, not a Pillow image" in hint


def test_max_pixels_makes_large_images_broken_ones():
    loader = DataLoader(Encoded(), 4, image_size=8, max_pixels=1000, num_workers=1, on_error="skip")
    assert list(loader) == []
    assert len(loader.errors) == COUNT


def flip_byte(path, content):
    data = bytearray(path.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 1
    path.write_bytes(data)


def test_on_error_raise_of_a_wrong_checksum_does_not_advise_extensions(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", FILES[0])
    flip_byte(path, FILES[0])
    with DataLoader(path) as loader, pytest.raises(CorruptArchiveError, match="checksum") as error:
        next(iter(loader))
    assert "on_error='skip'" in str(error.value)
    assert "extensions=" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "advised"), [("readme.txt", True), ("README", True), ("a.JPG", False)]
)
def test_on_error_raise_advises_extensions_for_files_that_are_not_images(name, advised, tmp_path):
    path = write_tar(tmp_path / "images.tar", {name: b"no image"})
    with DataLoader(path) as loader, pytest.raises(DecodeError, match="on_error='skip'") as error:
        next(iter(loader))
    assert ("extensions=" in str(error.value)) is advised


def test_on_error_raise_keeps_the_hints_of_the_error_apart(tmp_path):
    path = write_tar(tmp_path / "images.tar", {"a.jpg": FILES[0]})
    with DataLoader(path, max_pixels=4) as loader, pytest.raises(LimitError) as error:
        next(iter(loader))
    assert any("max_pixels" in hint.argument for hint in error.value.hints)
    assert any("on_error" in hint.argument for hint in error.value.hints)
    assert str(error.value).count("; pass ") == 1
