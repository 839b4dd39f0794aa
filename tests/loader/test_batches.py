"""What a batch holds."""

import gc
import io
import sys
import time
import weakref

import numpy as np
import pytest
from PIL import Image
from support.samples import COUNT, Encoded, Numbered, smooth_image

from imagearchive.errors import (
    OptionError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    CenterCrop,
    Compose,
    ImageNetNormalize,
    Lambda,
    Resize,
    TensorFormat,
    ToTensor,
    compile_pipeline,
)


def test_batch_without_transform_is_a_list_of_sample_dicts():
    source = Encoded()
    batches = list(DataLoader(source, batch_size=8, num_workers=2))
    assert [len(batch) for batch in batches] == [8] * 6 + [5]
    samples = [sample for batch in batches for sample in batch]
    for index, sample in enumerate(samples):
        assert set(sample) == {"image", "label", "labels", "filename", "index"}
        assert sample["index"] == index
        assert sample["label"] == index * 3
        assert sample["labels"].tolist() == [index * 3.0]
        assert sample["filename"] == source.name(index)
        expected = np.asarray(source[index][0].convert("RGB"))
        assert sample["image"].dtype == np.uint8
        assert sample["image"].shape == expected.shape
        assert np.abs(sample["image"].astype(int) - expected).max() <= 4
        assert np.abs(sample["image"].astype(int) - expected).mean() <= 0.5


def test_batch_of_images_has_the_values_of_the_transform():
    transform = Compose([Resize(20, 20), CenterCrop(16, 16), ImageNetNormalize(), ToTensor()])
    source = Encoded()
    loader = DataLoader(source, 9, transform=transform, num_workers=2, output="numpy")
    images = np.concatenate([batch[0] for batch in loader])
    for index in range(COUNT):
        expected = transform(np.asarray(source[index][0].convert("RGB")))
        difference = np.abs(images[index] - expected)
        # Two gray levels, in units of the normalized image.
        assert difference.max() <= 2.5 / 255 / 0.224
        assert difference.mean() <= 0.5 / 255 / 0.224


def test_batch_with_reducing_gap_decodes_large_jpegs_scaled():
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").resize((800, 640)).save(file, "JPEG")
    image, steps = file.getvalue(), Compose([Resize(40, 32), ToTensor()])
    source = Encoded([image] * 3)
    exact, scaled = (
        next(iter(DataLoader(source, 3, transform=steps, reducing_gap=gap, output="numpy")))[0]
        for gap in (None, 2)
    )
    pipeline = compile_pipeline(steps, reducing_gap=2)
    np.testing.assert_array_equal(scaled[0], pipeline.render(image))
    assert (scaled != exact).any()
    assert np.abs(scaled.astype(int) - exact).mean() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reducing_gap": 2}, "pass transform= or image_size="),
        ({"reducing_gap": 0.5, "image_size": 8}, "reducing_gap must be at least 1, got 0.5"),
    ],
)
def test_loader_refuses_a_reducing_gap_without_effect(options, message):
    with pytest.raises(OptionError, match=message):
        DataLoader(Encoded(), **options)


def test_batch_of_different_shapes_needs_a_size_or_collate_fn():
    loader = DataLoader(Encoded(), 8, transform=ToTensor(), num_workers=1)
    with pytest.raises(OptionError, match="different shapes"):
        next(iter(loader))
    loader = DataLoader(
        Encoded(), 8, transform=ToTensor(), num_workers=1, collate_fn=lambda pairs: pairs
    )
    batch = next(iter(loader))
    assert [tuple(image.shape) for image, _ in batch][:2] == [(3, 30, 40), (3, 31, 41)]
    assert [label for _, label in batch] == [i * 3 for i in range(8)]
    loader = DataLoader(Encoded(), 8, num_workers=1, collate_fn=lambda s: [d["index"] for d in s])
    assert next(iter(loader)) == list(range(8))


@pytest.mark.parametrize("result", [None, 3, "text", Image.new("RGB", (4, 4))])
def test_batch_of_results_that_are_not_arrays_needs_collate_fn(result):
    loader = DataLoader(Numbered(), 3, transform=lambda image: result, num_workers=1)
    with pytest.raises(OptionError, match=f"returned {type(result).__name__}.*collate_fn"):
        next(iter(loader))
    loader = DataLoader(
        Numbered(), 3, transform=lambda image: result, num_workers=1, return_indices=True,
        collate_fn=list,
    )  # fmt: skip
    assert next(iter(loader)) == [(result, 0, 0), (result, 1, 1), (result, 2, 2)]


def test_batch_size_above_the_dataset_takes_no_more_memory():
    images, labels = next(iter(DataLoader(Numbered(9), 1 << 31, image_size=64, num_workers=1)))
    assert images.shape == (9, 3, 64, 64)
    assert labels.tolist() == list(range(9))
    assert list(DataLoader(Numbered(9), 1 << 31, image_size=64, drop_last=True)) == []


def test_labels_that_do_not_stack_stay_a_list():
    class Ragged(Numbered):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], list(range(index))

    class Words(Numbered):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], f"word {index}"

    _, labels = next(iter(DataLoader(Ragged(), 3, image_size=4, num_workers=1)))
    assert labels == [[], [0], [0, 1]]
    _, labels = next(iter(DataLoader(Words(), 2, image_size=4, num_workers=1)))
    assert labels == ["word 0", "word 1"]


@pytest.mark.parametrize("output", [pytest.param("torch", marks=pytest.mark.needs_torch), "numpy"])
def test_labels_that_are_arrays_become_the_output_type(output):
    class Boxes(Numbered):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], np.full((index // 2, 4), index, np.int16)

    if output == "torch":
        import torch
    kind = torch.Tensor if output == "torch" else np.ndarray
    for _, labels in DataLoader(Boxes(8), 2, image_size=4, num_workers=1, output=output):
        assert isinstance(labels, kind)
    _, labels = next(iter(DataLoader(Boxes(8), 8, image_size=4, num_workers=1, output=output)))
    assert isinstance(labels, list)
    assert all(isinstance(label, kind) for label in labels)
    assert [label.shape for label in labels] == [(k // 2, 4) for k in range(8)]
    assert {str(label.dtype).removeprefix("torch.") for label in labels} == {"int64"}
    assert [int(label.sum()) for label in labels] == [k * (k // 2) * 4 for k in range(8)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batch_that_is_dropped_is_freed(num_workers):
    loader = DataLoader(Numbered(8), 4, num_workers=num_workers)
    iterator = iter(loader)
    batches = [next(iterator), next(iterator)]
    images = [weakref.ref(sample["image"]) for batch in batches for sample in batch]
    del batches
    # The threads wait for work, or soon will.
    deadline = time.monotonic() + 20
    while any(image() is not None for image in images) and time.monotonic() < deadline:
        time.sleep(0.01)
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            # What another thread made is freed only when that thread runs again, or here.
            gc.collect()
    assert not any(image() is not None for image in images)
    iterator.close()


def test_exif_transpose_turns_images_only_if_set():
    image = Image.fromarray(smooth_image(3, (30, 20)))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    source = Encoded([buffer.getvalue()])
    for transpose, shape in ((False, (20, 30, 3)), (True, (30, 20, 3))):
        batch = next(iter(DataLoader(source, num_workers=0, exif_transpose=transpose)))
        assert batch[0]["image"].shape == shape
        images, _ = next(
            iter(DataLoader(source, num_workers=0, exif_transpose=transpose, transform=ToTensor()))
        )
        assert tuple(images.shape) == (1, 3, *shape[:2])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "steps",
    [[Resize(12, 10)], [Resize(12, 10), Lambda(np.array)], [Lambda(np.array), Resize(12, 10)]],
)
def test_batch_after_to_tensor_hwc_is_channels_last(steps, normalize):
    last = TensorFormat.TENSORFLOW_HWC
    options = {"output": "numpy", "dtype": None, "num_workers": 0}
    first = DataLoader(
        Encoded(), 4, transform=Compose([*steps, ToTensor(normalize=normalize)]), **options
    )
    loader = DataLoader(
        Encoded(), 4, transform=Compose([*steps, ToTensor(last, normalize)]), **options
    )
    images = next(iter(loader))[0]
    assert images.shape == (4, 10, 12, 3)
    assert images.dtype == (np.float32 if normalize else np.uint8)
    assert images.max() > 1 or normalize
    np.testing.assert_array_equal(images, next(iter(first))[0].transpose(0, 2, 3, 1))
    with pytest.raises(OptionError, match="leave out one"):
        DataLoader(Encoded(), 4, transform=ToTensor(last), channels_last=True)
