"""The recipes of `docs/guides/datasets.md`, run with small archives of the same layouts."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from support.layouts import LAYOUTS
from support.paths import ROOT

from imagearchive import ImageArchive, LazyNPZDataset, SampleArchive

PAGE = (ROOT / "docs" / "guides" / "datasets.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
IMPORTS = BLOCK.findall(PAGE.partition("\n### ")[0])
# From the title of a section to its blocks.
SECTIONS = {
    text.partition("\n")[0]: BLOCK.findall(text)
    for text in re.split(r"^### ", PAGE, flags=re.M)[1:]
}
# For sections that say what is not read.
NO_RECIPE = {"PCam"}
# Where a recipe needs more lines, the library lacks something.
MAX_LINES = 8


def number_of(pixels):
    """The number of an image whose pixels have the value ``8 * number``."""
    return round(float(np.asarray(pixels).mean()) / 8)


def run(title, folder, monkeypatch):
    """Run the blocks of a section in a folder with its files; return variables and the truth."""
    truth = LAYOUTS[title](folder)
    monkeypatch.chdir(folder)
    variables = {}
    for block in (*IMPORTS, *SECTIONS[title]):
        for package in re.findall(r"^(?:import|from) (pandas|scipy)", block, re.M):
            pytest.importorskip(package)
        if ".parquet" in block:
            pytest.importorskip("pyarrow")
        exec(compile(block, title, "exec"), variables)
    return variables, truth


def test_recipes_and_layouts_belong_together():
    assert set(SECTIONS) - NO_RECIPE == set(LAYOUTS)
    assert len(LAYOUTS) >= 30
    for title in NO_RECIPE:
        assert SECTIONS[title] == []


@pytest.mark.parametrize("title", LAYOUTS)
def test_recipe_is_short(title):
    for block in SECTIONS[title]:
        assert len([line for line in block.split("\n") if line.strip()]) <= MAX_LINES


def label_of(dataset, label):
    """A label as a name, if classes have names."""
    if dataset.classes and isinstance(label, int):
        return dataset.classes[label]
    return label.tolist() if isinstance(label, np.ndarray) else label


@pytest.mark.parametrize("title", LAYOUTS)
def test_recipe_finds_every_image_and_its_label(title, tmp_path, monkeypatch, caplog):
    variables, truth = run(title, tmp_path, monkeypatch)
    assert not [record for record in caplog.records if "left out" not in record.getMessage()]
    for name, expected in truth.items():
        found = variables[name]
        if isinstance(found, ImageArchive):
            labels = [(number_of(image), label) for image, label in found]
            if all(isinstance(label, int) for label in expected.values()):
                assert labels == list(expected.items())
            else:
                named = [(number, label_of(found, label)) for number, label in labels]
                assert named == list(expected.items())
        elif isinstance(found, SampleArchive):
            check_samples(found, expected)
        else:
            assert list(found) == expected
            images = variables["images"]
            assert images.shape[0] == len(expected)
            assert title == "STL-10" or [number_of(one) for one in images] == [*range(len(images))]


def check_samples(dataset, expected):
    samples = {number_of(sample["image"]): sample for sample in dataset}
    assert list(samples) == list(expected)
    for number, fields in expected.items():
        for name, value in fields.items():
            found = samples[number][name]
            if name == "mask":
                assert found.shape == samples[number]["image"].shape[:2]
                found = [int(found[0, 0]), int(found[0, -1])]
            elif isinstance(found, np.ndarray):
                found = number_of(found) if found.ndim == 3 else found.tolist()
            assert found == value


def test_recipe_of_stl_10_has_rows_before_columns(tmp_path, monkeypatch):
    variables, _ = run("STL-10", tmp_path, monkeypatch)
    images = variables["images"]
    assert images.shape == (2, 96, 96, 3)
    assert (images[0, 0] == 200).all()
    assert not images[0, 1:].any()


def test_recipe_of_arrays_makes_samples(tmp_path, monkeypatch):
    variables, _ = run("Arrays as a dataset", tmp_path, monkeypatch)
    assert isinstance(variables["dataset"], LazyNPZDataset)
    assert variables["dataset"][3]["labels"] == 3


def test_layouts_make_images_that_pillow_reads(tmp_path):
    from support.layouts import picture

    assert number_of(Image.open(io.BytesIO(picture(31)))) == 31
