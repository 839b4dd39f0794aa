"""Mosaic, MixUp, and CutMix of samples, with others that the caller supplies."""

import numpy as np
import pytest
from support.images import encode, photo

from imagearchive import transforms as T
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.transforms import Compose, Key, compile_pipeline
from imagearchive.transforms.fields import Boxes, Image, Keypoints, Label, Mask, Sample


def colored(value, width=40, height=30, label=0):
    values = {
        "image": np.full((height, width, 3), value, np.uint8),
        "mask": np.full((height, width), value, np.uint8),
        "boxes": np.array([[0, 0, width, height]], np.float32),
        "people": np.array([[[width / 2, height / 2, 2]]], np.float32),
        "classes": np.array([value]),
        "label": label,
    }
    kinds = {
        "image": Image(), "mask": Mask(fill=9), "boxes": Boxes(labels="classes"),
        "people": Keypoints(), "classes": Label(), "label": Label(),
    }  # fmt: skip
    return Sample(values, kinds)


def only(sample, *names):
    return Sample(
        {name: sample[name] for name in names}, {name: sample.fields[name] for name in names}
    )


def test_mosaic_puts_four_samples_around_a_point():
    def others(k):
        return colored(10 * (k + 2), 20 + 5 * k, 30), Key(1, 0, k)

    pipeline = compile_pipeline(T.Mosaic(64, 48, interpolation="nearest"))
    assert pipeline.needs_others
    assert pipeline.shape == (48, 64, 3)
    sample = colored(10)
    for index in range(20):
        key = Key(1, 0, index)
        result = pipeline.render_sample(sample, key, others=others)
        image = result["image"]
        assert image.shape == (48, 64, 3)
        # Each value is at the same places in the image, the mask and the box.
        assert len(result["boxes"]) == len(result["classes"]) == 4
        assert result["people"].shape == (4, 1, 3)
        covered = np.zeros((48, 64), bool)
        for box, value in zip(result["boxes"], result["classes"]):
            x0, y0, x1, y1 = box.astype(int)
            assert (image[y0:y1, x0:x1] == value).all()
            assert (result["mask"][y0:y1, x0:x1] == value).all()
            covered[y0:y1, x0:x1] = True
        assert (image[~covered] == 114).all()
        assert (result["mask"][~covered] == 9).all()
        again = pipeline.render_sample(sample, key, others=others)
        np.testing.assert_array_equal(again["image"], image)
    assert sample["boxes"].shape == (1, 4)


def test_mosaic_of_encoded_images_applies_earlier_steps_to_each():
    fields = {"image": Image()}
    asked = []

    def others(k):
        asked.append(k)
        return Sample({"image": encode(photo(50, 40, seed=k))}, fields), Key(1, 0, 100 + k)

    sample = Sample({"image": encode(photo(60, 40))}, fields)
    steps = Compose([T.RandomHorizontalFlip(), T.Mosaic(32), T.Mosaic(24)])
    result = compile_pipeline(steps).render_sample(sample, Key(1), others=others)
    assert result["image"].shape == (24, 24, 3)
    assert len(set(asked)) == len(asked) == 3 + 3 + 9


def test_mixup_blends_images_and_labels():
    def others(k):
        return only(colored(200, label=3), "image", "label"), Key(1, 0, 5)

    sample = only(colored(100, label=1), "image", "label")
    pipeline = compile_pipeline(T.MixUp(0.5, num_classes=4), dtype="float32")
    shares = []
    for index in range(30):
        result = pipeline.render_sample(sample, Key(1, 0, index), others=others)
        label = result["label"]
        assert label.dtype == np.float32
        np.testing.assert_allclose(label.sum(), 1, atol=1e-6)
        assert label[0] == label[2] == 0
        np.testing.assert_allclose(result["image"], 100 * label[1] + 200 * label[3], atol=0.51)
        shares.append(label[1])
    assert 0.2 < np.mean(shares) < 0.8
    assert min(shares) < 0.1
    assert max(shares) > 0.9


def test_cutmix_labels_follow_the_visible_area():
    def others(k):
        return only(colored(200, label=3), "image", "label"), Key(1, 0, 5)

    sample = only(colored(100, label=1), "image", "label")
    pipeline = compile_pipeline(Compose([T.CutMix(num_classes=4), T.ToTensor()]))
    for index in range(30):
        result = pipeline.render_sample(sample, Key(1, 0, index), others=others)
        other = (result["image"] == 200).mean()
        np.testing.assert_allclose(result["label"], [0, 1 - other, 0, other], atol=1e-6)


@pytest.mark.parametrize(
    ("step", "names", "message"),
    [
        (T.MixUp(num_classes=4), ("image", "mask", "label"), "cannot mix masks"),
        (T.MixUp(), ("image", "label"), "needs num_classes="),
        (T.CutMix(num_classes=1), ("image", "label"), "the class 3 in 'label' is not below"),
        (T.CutMix(num_classes=4, label="cls"), ("image", "label"), "needs the field 'cls'"),
    ],
)
def test_mixing_of_unfit_samples_says_what_is_wrong(step, names, message):
    def others(k):
        return only(colored(200, label=2), *names), Key(1, 0, 5)

    sample = only(colored(100, label=3), *names)
    with pytest.raises((OptionError, OptionTypeError), match=message):
        compile_pipeline(step).render_sample(sample, Key(0), others=others)


def test_mixing_needs_images_of_one_size_and_other_samples():
    sample = only(colored(100), "image", "label")
    pipeline = compile_pipeline(T.MixUp(num_classes=2))
    with pytest.raises(OptionError, match=r"put a crop or Resize"):
        pipeline.render_sample(
            sample, Key(0), others=lambda k: (only(colored(1, 9, 9), "image", "label"), Key(0))
        )
    with pytest.raises(OptionError, match="works only in a DataLoader"):
        pipeline.render_sample(sample, Key(0))
