"""The documentation: its Python blocks run, its links and names exist, its reference is complete.

All ``python`` blocks of a page run as one script, in a temporary directory that contains:

``train.tar``, ``val.tar``
    Images in the class directories ``bird``, ``cat``, and ``dog``: 24 JPEG and 8 PNG files, at
    least 24 pixels wide and high.
``train-0000.tar`` to ``train-0002.tar``
    Such images in three shards, 8 JPEG and 3 PNG files each.
``train.npz``, ``val.npz``
    ``images`` uint8 (16, 32, 32, 3) and ``labels`` int64 (16,), written by `numpy.savez`.
``compressed.npz``
    The same, written by `numpy.savez_compressed`.
``data/raw/``
    Annotated images as `DataProcessor` reads them: ``detector`` (COCO and CSV) and ``landmarker``
    (PTS), 12 images each.
``data/preprocessed/``
    The output of `DataProcessor`: ``train_X.npz`` and ``val_X.npz``.

A block that cannot run there has the comment ``<!-- not run: why -->`` on the line before it.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT

import imagearchive

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
CLASSES = ("bird", "cat", "dog")

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+|:::+)(?P<language>.*)$")
NOT_RUN = re.compile(r"^ *<!-- not run: \S.* -->$")


def script_of(page: Path) -> str:
    """Return the blocks of a page; line numbers match the page, for tracebacks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    result = [""] * len(lines)
    fence = indent = ""
    runs = False
    for number, line in enumerate(lines):
        found = FENCE.match(line)
        if not fence and found:
            before = next((text for text in reversed(lines[:number]) if text.strip()), "")
            fence, indent = found["fence"], found["indent"]
            runs = found["language"].strip() == "python" and not NOT_RUN.match(before)
        elif fence and line.strip() == fence:
            fence = ""
        elif fence and runs:
            result[number] = line.removeprefix(indent)
    return "\n".join(result) + "\n"


def image(generator: np.random.Generator, extension: str) -> bytes:
    width, height = (int(side) for side in generator.integers(24, 64, 2))
    pixels = generator.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    data = io.BytesIO()
    kind = "JPEG" if extension == "jpg" else "PNG"
    Image.fromarray(pixels).resize((width, height)).save(data, kind)
    return data.getvalue()


def write_tar(path: Path, generator: np.random.Generator, jpegs: int, pngs: int, first=0) -> None:
    extensions = ["jpg"] * jpegs + ["png"] * pngs
    with tarfile.open(path, "w") as archive:
        for number, extension in enumerate(extensions, first):
            label = CLASSES[number % len(CLASSES)]
            member = tarfile.TarInfo(f"{label}/{number:04}.{extension}")
            data = image(generator, extension)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_pairs(path: Path, generator: np.random.Generator) -> None:
    """Write images, each with a mask of its size and a caption."""
    with imagearchive.TarWriter(path) as writer:
        for number in range(16):
            picture = image(generator, "jpg")
            width, height = Image.open(io.BytesIO(picture)).size
            mask = io.BytesIO()
            classes = generator.integers(0, 3, (height, width), np.uint8)
            Image.fromarray(classes).save(mask, "PNG")
            writer.add(f"images/{number:04}.jpg", picture)
            writer.add(f"masks/{number:04}.png", mask.getvalue())
            writer.add(f"text/{number:04}.txt", b"a caption")


def write_raw(folder: Path, generator: np.random.Generator) -> None:
    coco = folder / "detector" / "ears_coco" / "train"
    wild = folder / "detector" / "wild"
    points = folder / "landmarker" / "collectionA"
    for part in (coco, wild, points):
        part.mkdir(parents=True)
        for number in range(12 if part is points else 6):
            (part / f"{number}.jpg").write_bytes(image(generator, "jpg"))
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(6)]
    marks = [
        {"image_id": number, "category_id": 1, "bbox": [2, 3, 10 + number, 12]}
        for number in (0, 1, 2, 3, 3, 4, 5)
    ]
    categories = [{"id": 1, "name": "ear"}]
    (coco / "_annotations.coco.json").write_text(
        json.dumps({"images": images, "annotations": marks, "categories": categories})
    )
    rows = [f"{number}.jpg,ear,1,2,{12 + number},20" for number in range(6)]
    (wild / "2024_annotations.csv").write_text(
        "\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows])
    )
    for number in range(12):
        (points / f"{number}.pts").write_text(
            "version: 1\nn_points: 3\n{\n3 4\n10.5 12\n20 21\n}\n"
        )


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The files that every page can use, created once."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    write_tar(folder / "train.tar", generator, 24, 8)
    write_tar(folder / "val.tar", generator, 24, 8)
    write_pairs(folder / "segmentation.tar", generator)
    for shard in range(3):
        write_tar(folder / f"train-{shard:04}.tar", generator, 8, 3, 11 * shard)
    for name in ("train", "val"):
        images = generator.integers(0, 255, (16, 32, 32, 3), np.uint8)
        labels = np.arange(16) % 3
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
        np.savez_compressed(folder / "compressed.npz", images=images, labels=labels)
    write_raw(folder / "data" / "raw", generator)
    processor = imagearchive.DataProcessor(
        folder / "data" / "raw", folder / "data" / "preprocessed", num_workers=0, image_size=32
    )
    processor.process_all()
    return folder


# The blocks of this page read datasets that `test_recipes.py` makes.
RECIPES = ROOT / "docs" / "guides" / "datasets.md"
RUN = [page for page in PAGES if page != RECIPES and script_of(page).strip()]


@pytest.mark.parametrize("page", RUN, ids=[str(page.relative_to(ROOT)) for page in RUN])
def test_page_python_blocks_run(page, files, tmp_path):
    if re.search(r"^\s*(?:import|from) torch\b", script_of(page), re.M):
        pytest.importorskip("torch")
    folder = tmp_path / "folder"
    shutil.copytree(files, folder)
    script = tmp_path / page.with_suffix(".py").name
    # The blocks have no guard for children that import the script.
    fork = 'import multiprocessing; multiprocessing.set_start_method("fork"); '
    script.write_text(f"{fork}{script_of(page)}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{page}, same line:\n{done.stderr}"


def test_page_links_exist():
    for page in LINKED:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


PUBLIC = [
    importlib.import_module(name)
    for name in (
        "imagearchive",
        "imagearchive.transforms",
        "imagearchive.codecs",
        "imagearchive.errors",
    )
]
COMPATIBLE = ["barecat", "splitdataloader", "turboloader"]
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
DIRECTIVE = re.compile(r"^\.\. auto(?:class|exception|function|module):: ([\w.]+)$", re.M)
SUMMARY = re.compile(r"^\| `([\w.]+)` \| \S.* \|$", re.M)
DOTTED = re.compile(r"`(imagearchive(?:\.\w+)+)`")
FOLDERS = "benchmarks|docs(?!/_build)|examples|imagearchive|tests"
REPOSITORY_PATH = re.compile(rf"`((?:{FOLDERS})/[\w/.]+)`")


def resolve(name: str) -> object:
    """Import the object that a dotted name stands for."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            value = getattr(value, part)
        return value
    raise AssertionError(name)


def test_reference_lists_every_public_name_once():
    public = {
        id(getattr(module, name)): f"{module.__name__}.{name}"
        for module in PUBLIC
        for name in module.__all__
    }
    public[id(imagearchive.open)] = "imagearchive.open"
    for name in COMPATIBLE:
        module = importlib.import_module(f"imagearchive.compat.{name}")
        public[id(module)] = module.__name__
    names = [name for page in REFERENCE for name in DIRECTIVE.findall(page.read_text())]
    described = [id(resolve(name)) for name in names]
    missing = [name for value, name in public.items() if value not in described]
    twice = [name for name, value in zip(names, described) if described.count(value) > 1]
    assert (missing, twice) == ([], [])


def test_reference_names_outside_results_come_from_public_modules():
    modules = {module.__name__ for module in PUBLIC} | {"imagearchive.compat"}
    for page in REFERENCE:
        text = page.read_text().partition("\n## Results\n")[0]
        assert {name.rpartition(".")[0] for name in DIRECTIVE.findall(text)} <= modules


@pytest.mark.parametrize("page", REFERENCE, ids=[page.stem for page in REFERENCE])
def test_reference_page_summarizes_what_it_describes(page):
    text = page.read_text()
    summarized = [name.rpartition(".")[2] for name in SUMMARY.findall(text)]
    assert summarized == [name.rpartition(".")[2] for name in DIRECTIVE.findall(text)]


def test_architecture_lists_every_module_once():
    package = ROOT / "imagearchive"
    modules = {
        str(path.relative_to(package))
        for suffix in ("py", "pyx")
        for path in package.glob(f"*/**/*.{suffix}")
        if path.name != "__init__.py"
    }
    page = (ROOT / "docs" / "development" / "architecture.md").read_text()
    listed = re.findall(r"^\| `([\w/]+\.pyx?)` \|", page, re.M)
    assert sorted(listed) == sorted(modules)


def test_paths_in_the_documentation_exist():
    for page in LINKED:
        for name in REPOSITORY_PATH.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page}: {name}"


def test_dotted_names_in_the_documentation_can_be_imported():
    for page in LINKED:
        for name in DOTTED.findall(page.read_text(encoding="utf-8")):
            assert resolve(name) is not None, f"{page}: {name}"


def test_dotted_names_in_public_docstrings_can_be_imported():
    for page in REFERENCE:
        for public in DIRECTIVE.findall(page.read_text()):
            value = resolve(public)
            members = vars(value).values() if isinstance(value, type) else ()
            for text in filter(None, map(inspect.getdoc, (value, *members))):
                for name in DOTTED.findall(text):
                    assert resolve(name) is not None, f"{public}: {name}"
