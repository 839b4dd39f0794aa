"""Images whose data are damaged, but which Pillow decodes."""

import logging

import numpy as np
import pytest
from support.images import decode_by_pillow
from support.rendering import needs_jpeg
from support.samples import FILES, MIXED, TRAINING, Encoded, in_stripes

from imagearchive import transforms as T
from imagearchive.loader.bad_samples import MAX_LOGGED_DAMAGE
from imagearchive.loader.data_loader import DataLoader

JPEGS = [k for k, file in enumerate(FILES) if file.startswith(b"\xff\xd8")]
STRIPES = JPEGS[3:5] + JPEGS[17:18]
pytestmark = needs_jpeg


def files_in_stripes(numbers=STRIPES):
    return [in_stripes(file) if k in numbers else file for k, file in enumerate(FILES)]


class EncodedPairs:
    """Encoded images as samples, not as the protocol for encoded images."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.files[index], index


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", [Encoded, EncodedPairs])
@pytest.mark.parametrize(
    "transform", [T.Resize(20, 20), T.Compose([T.Resize(20, 20), T.Lambda(np.array)]), None]
)
def test_loader_yields_damaged_images_as_by_pillow(transform, kind, num_workers, caplog):
    files = files_in_stripes()
    # Bytes in samples without a transform are handed on as they are.
    decodes = transform is not None or kind is Encoded
    loader = DataLoader(
        kind(files), 8, transform=transform, num_workers=num_workers, on_error="skip",
        output="numpy", dtype="uint8" if transform else "float32",
    )  # fmt: skip
    for _ in range(3):
        images = []
        for batch in loader:
            images += [s["image"] for s in batch] if transform is None else list(batch[0])
        assert len(images) == len(files)
        for k in (0, *STRIPES) if decodes else ():
            expected = decode_by_pillow(files[k])
            if transform is not None:
                expected = transform(expected).transpose(2, 0, 1)
            np.testing.assert_array_equal(images[k], expected)
    found = STRIPES if decodes else []
    assert [bad.index for bad in loader.damaged] == found
    assert loader.errors == []
    said = [record.getMessage() for record in caplog.records]
    assert [int(text.split()[1]) for text in said] == found
    for text, index in zip(said, found):
        assert "damaged" in text
        assert kind is EncodedPairs or f"{index % 4}/{index:03d}.jpg" in text


def test_loader_renders_a_known_damaged_image_once_more_only_once():
    """Its neighbors are not read again in later epochs."""
    dataset = Encoded(files_in_stripes(JPEGS[:1]))
    reads = []
    dataset.read = lambda index: reads.append(index) or dataset.files[index]
    loader = DataLoader(dataset, len(FILES), image_size=8, num_workers=0)
    for epoch in range(3):
        reads.clear()
        list(loader)
        assert (len(reads) > len(FILES)) == (epoch == 0)


def test_loader_finds_broken_and_damaged_images_in_one_batch():
    files = files_in_stripes()
    files[JPEGS[5]] = b"not an image"
    for transform in (TRAINING, MIXED):
        loader = DataLoader(Encoded(files), 50, transform=transform, num_workers=1, on_error="skip")
        list(loader)
        assert [bad.index for bad in loader.errors] == [JPEGS[5]]
        assert [bad.index for bad in loader.damaged] == STRIPES


def test_loader_logs_only_so_many_damaged_images(caplog):
    files = [in_stripes(FILES[JPEGS[0]])] * (MAX_LOGGED_DAMAGE + 20)
    loader = DataLoader(Encoded(files), 8, image_size=8, num_workers=2)
    with caplog.at_level(logging.WARNING):
        list(loader)
    assert len(caplog.records) == MAX_LOGGED_DAMAGE + 1
    assert "DataLoader.damaged" in caplog.records[-1].getMessage()
    assert [bad.index for bad in loader.damaged] == list(range(len(files)))
