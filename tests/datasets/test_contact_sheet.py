"""Contact sheets: which samples of which data are shown, and how."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as PillowImage
from support.archives import encoded, write_tar
from support.images import noise
from support.paths import ROOT

import imagearchive
from imagearchive import (
    CombinedLazyDataset,
    DataLoader,
    Image,
    ImageArchive,
    LazyNPZDataset,
    Mask,
    Mixture,
    SampleArchive,
    contact_sheet,
)
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.transforms import Compose, ImageNetNormalize, Resize, ToTensor

CAPTION = 18
MARGIN = 4
#: One color for each class.
COLORS = {"bird": (200, 0, 0), "cat": (0, 200, 0), "dog": (0, 0, 200)}


def flat_png(color, side=32):
    return encoded(np.full((side, side, 3), color, np.uint8))


@pytest.fixture
def pets(tmp_path):
    members = {
        f"{name}/{number}.png": flat_png(color)
        for name, color in COLORS.items()
        for number in range(6)
    }
    return write_tar(tmp_path / "pets.tar", members)


def cells(sheet, columns, count, size=32, caption=CAPTION):
    """Return the color in the middle of each image."""
    pixels = np.asarray(sheet)
    step = size + MARGIN
    return [
        tuple(
            pixels[
                number // columns * (step + caption) + size // 2,
                number % columns * step + size // 2,
            ].tolist()
        )
        for number in range(count)
    ]


def same(first, second):
    return first.size == second.size and (np.asarray(first) == np.asarray(second)).all()


def test_contact_sheet_of_image_archive_shows_labels_below_images(pets):
    sheet = contact_sheet(ImageArchive(pets), columns=6, size=32)
    assert sheet.size == (6 * 36 - MARGIN, 3 * (36 + CAPTION) - MARGIN)
    assert cells(sheet, 6, 18) == [color for color in COLORS.values() for _ in range(6)]
    assert (np.asarray(sheet)[32:50, :32] < 50).any()


def test_contact_sheet_of_chosen_classes_shows_equally_many_of_each(pets):
    dataset = ImageArchive(pets)
    sheet = contact_sheet(dataset, classes=["dog", "bird"], n=6, columns=3, size=32)
    assert cells(sheet, 3, 6) == [COLORS["dog"]] * 3 + [COLORS["bird"]] * 3
    assert same(sheet, contact_sheet(dataset, classes=[2, 0], n=6, columns=3, size=32))
    with pytest.raises(OptionError, match="classes has 'fish', but the classes are bird, cat, dog"):
        contact_sheet(dataset, classes=["fish"])
    with pytest.raises(OptionTypeError, match="classes must be a list"):
        contact_sheet(dataset, classes="dog")
    with pytest.raises(OptionError, match="classes must name at least one class, got none"):
        contact_sheet(dataset, classes=[])


def test_contact_sheet_of_equal_seed_is_equal_and_of_another_is_not(tmp_path):
    members = {f"a/{number}.png": flat_png(number) for number in range(64)}
    dataset = ImageArchive(write_tar(tmp_path / "a.tar", members))
    first, again, other = (contact_sheet(dataset, n=4, seed=seed, size=32) for seed in (1, 1, 2))
    assert same(first, again)
    assert cells(first, 4, 4) != cells(other, 4, 4)


def test_contact_sheet_with_broken_image_shows_the_error_in_gray(tmp_path):
    members = {"a/0.png": flat_png(9), "a/1.png": b"not an image", "a/2.png": flat_png(9)[:60]}
    dataset = ImageArchive(write_tar(tmp_path / "a.tar", members))
    pixels = np.asarray(contact_sheet(dataset, size=128))
    assert (pixels[:128, :128] == 9).all()
    for left in (132, 264):
        box = pixels[:128, left : left + 128]
        assert (box[-1] == 224).all()
        assert (box < 100).any()


def test_contact_sheet_of_empty_dataset_says_so(tmp_path):
    sheet = contact_sheet(ImageArchive(write_tar(tmp_path / "a.tar", {})), size=100)
    assert sheet.size == (100, 100)
    assert (np.asarray(sheet) < 100).any()


def test_contact_sheet_of_npz_shows_arrays_with_and_without_channels(tmp_path):
    for shape in ((10, 16, 16), (10, 16, 16, 3)):
        path = tmp_path / f"{len(shape)}.npz"
        images = np.full(shape, 70, np.uint8)
        np.savez(path, images=images, labels=np.arange(10) % 2)
        with LazyNPZDataset(path) as dataset:
            sheet = contact_sheet(dataset, classes=[1], columns=5, size=32)
            assert cells(sheet, 5, 5) == [(70, 70, 70)] * 5


def test_contact_sheet_of_groups_shows_samples_of_their_datasets(pets, tmp_path):
    other = write_tar(tmp_path / "other.tar", {f"{name}/x.png": flat_png(50) for name in COLORS})
    parts = [ImageArchive(pets), ImageArchive(other)]
    for group in (CombinedLazyDataset(parts), Mixture(parts, [1, 1])):
        sheet = contact_sheet(group, classes=["dog"], columns=4, n=7, size=32)
        assert {COLORS["dog"], (50, 50, 50)} == set(cells(sheet, 4, 7))
    assert same(group.show(n=4), contact_sheet(group, n=4))


def test_contact_sheet_undoes_the_normalization_of_each_dataset(pets):
    transform = Compose([Resize(32, 32), ImageNetNormalize(), ToTensor()])
    plain = contact_sheet(ImageArchive(pets), size=32)
    normalized = CombinedLazyDataset([ImageArchive(pets, transform=transform)])
    assert same(contact_sheet(normalized, size=32), plain)


def test_contact_sheet_of_samples_draws_their_masks(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 1
    members = {f"{n}.png": flat_png(90) for n in range(3)}
    members |= {f"{n}.seg.png": encoded(mask) for n in range(3)}
    path = write_tar(tmp_path / "a.tar", members)
    fields = {"image": "{key}.png", "mask": imagearchive.Mask("{key}.seg.png")}
    sheet = SampleArchive(path, fields).show(size=32)
    (middle, *_) = cells(sheet, 3, 3)
    assert middle != (90, 90, 90)
    assert tuple(np.asarray(sheet)[2, 2]) == (90, 90, 90)


def test_contact_sheet_of_webdataset_samples_decodes_their_members(tmp_path):
    members = {}
    for number in range(4):
        members |= {f"{number}.png": flat_png(60), f"{number}.cls": b"%d" % (number % 2)}
    with imagearchive.open(write_tar(tmp_path / "a.tar", members)) as archive:
        for samples in (archive.samples(), archive.samples("png", "cls")):
            assert cells(contact_sheet(samples, size=32), 4, 4) == [(60, 60, 60)] * 4
        chosen = contact_sheet(archive.samples("png", "cls"), classes=[1], size=32)
        assert cells(chosen, 2, 2) == [(60, 60, 60)] * 2


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_contact_sheet_of_batch_shows_its_samples_with_their_own_colors(pets, layout):
    steps = [Resize(32, 32), ImageNetNormalize()] + ([ToTensor()] if layout == "CHW" else [])
    transform = Compose(steps)
    loader = DataLoader(pets, batch_size=18, shuffle=False, transform=transform, output="numpy")
    (batch,) = loader
    sheet = contact_sheet(batch, columns=6, size=32, transform=transform)
    assert cells(sheet, 6, 18) == [color for color in COLORS.values() for _ in range(6)]
    assert same(contact_sheet(list(batch), columns=6, size=32, transform=transform), sheet)
    columns = {"image": batch[0], "label": batch[1]}
    assert same(contact_sheet(columns, columns=6, size=32, transform=transform), sheet)


@pytest.mark.needs_torch
def test_contact_sheet_of_tensors_equals_that_of_arrays(pets):
    torch = pytest.importorskip("torch")
    images = noise(8, 8)[None].repeat(3, axis=0)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert same(contact_sheet((tensors, torch.arange(3))), contact_sheet((images, np.arange(3))))


def test_contact_sheet_of_list_of_samples_shows_each():
    image = np.full((8, 8, 3), 40, np.uint8)
    samples = [{"image": image, "label": 1}, (image, 2), PillowImage.fromarray(image)]
    assert cells(contact_sheet(samples, columns=3, size=32), 3, 3) == [(40, 40, 40)] * 3


def test_contact_sheet_of_subclass_shows_its_own_samples(pets):
    class Inverted(ImageArchive):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return 255 - np.asarray(image), label

    sheet = Inverted(pets).show(classes=["dog"], size=32)
    assert cells(sheet, 6, 6) == [(255, 255, 55)] * 6


def test_contact_sheet_of_dataset_with_a_method_locate_does_not_call_it():
    class Located(list):
        def locate(self, index):
            raise AssertionError("this is not the method of a group")

    image = np.full((8, 8, 3), 40, np.uint8)
    assert cells(contact_sheet(Located([image] * 2), size=32), 2, 2, caption=0) == [(40,) * 3] * 2


def test_contact_sheet_reads_no_more_samples_than_it_shows():
    class Counting:
        classes = ("a", "b")
        targets = np.arange(1000) % 2

        def __init__(self):
            self.read = []

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            self.read.append(index)
            return np.zeros((8, 8, 3), np.uint8), self.targets[index]

    dataset = Counting()
    contact_sheet(dataset, n=5, classes=["b"])
    assert len(dataset.read) == 5
    assert all(index % 2 for index in dataset.read)


@pytest.mark.parametrize("data", [3, "train.tar", iter([])])
def test_contact_sheet_of_anything_else_raises(data):
    with pytest.raises(OptionTypeError, match=r"data must be a dataset, .* or a batch"):
        contact_sheet(data)


def test_contact_sheet_of_archive_says_what_to_open(pets):
    with (
        imagearchive.open(pets) as archive,
        pytest.raises(OptionTypeError, match="such as ImageArchive"),
    ):
        contact_sheet(archive)


def test_contact_sheet_needs_neither_matplotlib_nor_torch(pets):
    script = (
        "import sys; sys.modules['matplotlib'] = sys.modules['torch'] = None\n"
        "import imagearchive\n"
        "print(imagearchive.ImageArchive(sys.argv[1]).show(n=4).size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, pets], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.split() == ["(524,", "146)"], done.stderr


def test_contact_sheet_of_an_encoded_palette_mask_shows_its_indices():
    indices = np.zeros((16, 16), np.uint8)
    indices[4:] = 1
    mask = PillowImage.fromarray(indices).convert("P")
    # Both indices have the same color, so that only the index tells them apart.
    mask.putpalette([9, 9, 9] * 2)
    file = io.BytesIO()
    mask.save(file, "PNG")
    image = np.full((16, 16, 3), 100, np.uint8)
    fields = {"image": Image(), "mask": Mask()}
    given, decoded = (
        np.asarray(contact_sheet([{"image": image, "mask": value}], size=16, fields=fields))
        for value in (file.getvalue(), indices)
    )
    np.testing.assert_array_equal(given, decoded)
