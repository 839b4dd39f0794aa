"""From folders of annotated images to NPZ files."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support.annotated_images import (
    COCO,
    digests,
    make_detector,
    make_landmarker,
    number,
    process,
    rows,
    write_image,
)
from support.scripts import script

from imagearchive.errors import (
    ArchiveNotFoundError,
    LabelError,
    OptionError,
    OptionTypeError,
)
from imagearchive.processing.processor import DataProcessor


def test_processor_detector_scales_images_and_boxes(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "deep" / "out"
    sizes, boxes = make_detector(raw, 11)
    report = process(raw, out, image_size=(32, 48), num_workers=2).process_detector(0.75)
    assert (report.train, report.val, report.skipped) == (int(11 * 0.75), 3, ())
    assert report.train_path == str(out / "train_detector.npz")
    train, val = rows(out / "train_detector.npz"), rows(out / "val_detector.npz")
    assert set(train) == {"images", "bboxes", "image_paths"}
    seen = train["image_paths"] + val["image_paths"]
    assert sorted(map(number, seen)) == list(range(11))
    assert seen != sorted(seen)
    for side in (train, val):
        for image, found, path in zip(side["images"], side["bboxes"], side["image_paths"]):
            k = number(path)
            assert os.path.isfile(path)
            assert image.shape == (48, 32, 3)
            assert image.dtype == np.uint8
            expected = Image.open(path).resize((32, 48), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(image, np.asarray(expected))
            scale = np.array([32 / sizes[k][0], 48 / sizes[k][1]] * 2)
            assert found.dtype == np.float32
            np.testing.assert_allclose(
                found, np.array(boxes[k]).reshape(-1, 4) * scale, rtol=1e-6, atol=1e-6
            )
    saved = json.loads((out / "report_detector.json").read_text())
    assert (saved["train"], saved["val"], saved["skipped"]) == (8, 3, [])
    assert sorted(os.listdir(out)) == [
        "report_detector.json",
        "train_detector.npz",
        "val_detector.npz",
    ]


def test_processor_output_is_read_by_lazy_npz(tmp_path):
    from imagearchive.datasets.npz.dataset import LazyNPZDataset

    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw)
    make_landmarker(raw)
    process(raw, out, image_size=16).process_all(train_split=0.5)
    keys = {"detector": "bboxes", "landmarker": "keypoints", "teacher": "bboxes"}
    for kind, key in keys.items():
        expected = rows(out / f"train_{kind}.npz")
        with LazyNPZDataset(out / f"train_{kind}.npz") as dataset:
            assert len(dataset) == len(expected["images"])
            sample = dataset[-1]
            assert list(sample) == ["image", key, "image_path"]
            np.testing.assert_array_equal(sample["image"], expected["images"][-1])
            np.testing.assert_array_equal(sample[key], expected[key][-1])
            assert sample["image_path"] == expected["image_paths"][-1]
            batch = dataset.get_batch([0, 1])
            assert batch["images"].shape == (2, 16, 16, 3)
            shapes = {"detector": (2,), "landmarker": (2, 3, 3), "teacher": (2, 4)}
            assert batch[key].shape == shapes[kind]


def test_processor_xyxy_stores_corners(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    _, boxes = make_detector(raw)
    process(raw, out, image_size=None, box_format="xyxy").process_detector()
    data = rows(out / "train_detector.npz")
    for found, path in zip(data["bboxes"], data["image_paths"]):
        xywh = np.array(boxes[number(path)], np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(found[:, :2], xywh[:, :2])
        np.testing.assert_array_equal(found[:, 2:] - found[:, :2], xywh[:, 2:])


def test_processor_without_image_size_keeps_each_size(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    sizes, boxes = make_detector(raw)
    process(raw, out, image_size=None).process_detector()
    data = rows(out / "train_detector.npz")
    for image, found, path in zip(data["images"], data["bboxes"], data["image_paths"]):
        k = number(path)
        np.testing.assert_array_equal(image, np.asarray(Image.open(path)))
        assert image.shape == (sizes[k][1], sizes[k][0], 3)
        np.testing.assert_array_equal(found, np.array(boxes[k], np.float32).reshape(-1, 4))


def test_processor_landmarker_scales_keypoints(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    points = make_landmarker(raw)
    report = process(raw, out, image_size=30).process_landmarker()
    assert (report.train, report.val) == (4, 2)
    data = rows(out / "train_landmarker.npz")
    assert set(data) == {"images", "keypoints", "image_paths"}
    for found, path in zip(data["keypoints"], data["image_paths"]):
        assert found.shape == (3, 3)
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found[:, :2], np.array(points[number(path)]) * [30 / 60, 30 / 40], rtol=1e-6
        )
        np.testing.assert_array_equal(found[:, 2], 2)


def test_processor_landmarker_numbers_of_points_may_differ(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_landmarker(raw, 3)
    folder = raw / "landmarker" / "hands_coco" / "test"
    write_image(folder / "9.png", 9, (20, 20))
    marks = [{"image_id": 9, "keypoints": [1, 2, 2, 3, 4, 1]}]
    images = [{"id": 9, "file_name": "9.png"}]
    (folder / COCO).write_text(json.dumps({"images": images, "annotations": marks}))
    process(raw, out, image_size=10).process_landmarker(1)
    data = rows(out / "train_landmarker.npz")
    shapes = {number(path): row.shape for path, row in zip(data["image_paths"], data["keypoints"])}
    assert shapes == {0: (3, 3), 1: (3, 3), 2: (3, 3), 9: (2, 3)}
    (found,) = [row for row in data["keypoints"] if len(row) == 2]
    np.testing.assert_array_equal(found, [[0.5, 1, 2], [1.5, 2, 1]])


def test_processor_teacher_crops_to_the_first_box(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    folder = raw / "teacher" / "coco" / "valid"
    write_image(folder / "1.png", 1, (50, 40))
    write_image(folder / "2.png", 2, (50, 40))
    write_image(folder / "3.png", 3, (50, 40))
    write_image(folder / "4.png", 4, (50, 40))
    marks = [
        {"image_id": 1, "bbox": [10.5, 5, 20, 10.25]},
        {"image_id": 1, "bbox": [0, 0, 50, 40]},
        {"image_id": 2, "bbox": [-5, 30, 100, 100]},
        {"image_id": 3, "bbox": [60, 0, 5, 5]},
        {"image_id": 4, "keypoints": [10, 10, 2, 30, 20, 1, 0, 0, 0]},
    ]
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(1, 5)]
    (folder / COCO).write_text(json.dumps({"images": images, "annotations": marks}))
    report = process(raw, out, image_size=None).process_teacher(1.0)
    assert report.val_path is None
    assert not (out / "val_teacher.npz").exists()
    (problem,) = report.skipped
    assert problem.path.endswith("3.png")
    assert "outside" in problem.reason
    data = rows(out / "train_teacher.npz")
    expected = {1: (10, 5, 21, 11), 2: (0, 30, 50, 10), 4: (8, 9, 24, 12)}
    assert len(data["images"]) == 3
    for image, box, path in zip(data["images"], data["bboxes"], data["image_paths"]):
        x, y, w, h = expected[number(path)]
        assert box.tolist() == [x, y, w, h]
        np.testing.assert_array_equal(image, np.asarray(Image.open(path))[y : y + h, x : x + w])


def test_processor_teacher_without_folder_crops_the_others(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 6)
    make_landmarker(raw, 3)
    reports = process(raw, out, image_size=8).process_all()
    # Of six images of the detector, two have no boxes.
    assert reports["teacher"].train + reports["teacher"].val == 4 + 3
    assert rows(out / "train_teacher.npz")["bboxes"][0].shape == (4,)


def test_processor_missing_folders_are_skipped_or_raise(tmp_path, caplog):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_landmarker(raw)
    reports = process(raw, out, image_size=8).process_all(include_teacher=False)
    assert list(reports) == ["landmarker"]
    assert "no folder detector" in caplog.text
    with pytest.raises(ArchiveNotFoundError, match="detector: no such folder"):
        process(raw, out).process_detector()
    with pytest.raises(ArchiveNotFoundError, match="none of the folders"):
        process(tmp_path, out).process_all()


def test_processor_any_number_of_workers_writes_the_same_bytes(tmp_path):
    raw = tmp_path / "raw"
    make_detector(raw, 30)
    outs = []
    for k, options in enumerate(
        [
            {"num_workers": 0, "batch_size": 7, "flush_every": 1},
            {"num_workers": 1},
            {"num_workers": 3, "batch_size": 2},
            {"executor": ThreadPoolExecutor(2)},
            {"num_workers": 0, "seed": 1},
        ]
    ):
        out = tmp_path / str(k)
        process(raw, out, image_size=20, **options).process_detector()
        outs.append(digests(out))
    assert outs[0] == outs[1] == outs[2] == outs[3]
    assert outs[0].keys() == outs[4].keys()
    assert outs[0] != outs[4]


def test_processor_unreadable_images_are_reported(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 12)
    broken = raw / "detector" / "more" / "9.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (raw / "detector" / "more" / "10.png").write_bytes(b"no image")
    (raw / "detector" / "more" / "11.png").unlink()
    report = process(raw, out, image_size=16, num_workers=2).process_detector(0.8)
    # 11 existed when they were listed and split.
    assert report.train + report.val == 9
    saved = json.loads((out / "report_detector.json").read_text())["skipped"]
    assert sorted(number(entry["path"]) for entry in saved) == [9, 10, 11]
    assert all(entry["reason"] for entry in saved)


def test_processor_without_usable_images_raises(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_landmarker(raw, 2)
    (raw / "detector").mkdir()
    with pytest.raises(LabelError, match="no annotations found; expected"):
        process(raw, out).process_detector()
    for path in (raw / "landmarker" / "points").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(LabelError, match="no usable image; 1 image was left out"):
        process(raw, out).process_landmarker()
    assert os.listdir(out) == []


def test_processor_annotation_outside_the_folder_raises(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw)
    write_image(tmp_path / "secret.png", 1, (8, 8))
    (raw / "detector" / "evil_annotations.csv").write_text(
        "filename,x,y,w,h\n../../secret.png,0,0,4,4\n"
    )
    with pytest.raises(LabelError, match=r"line 2: .*is outside"):
        process(raw, out).process_detector()


def test_processor_empty_side_removes_the_old_file(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_landmarker(raw)
    process(raw, out, image_size=8).process_landmarker(0.5)
    assert (out / "val_landmarker.npz").exists()
    process(raw, out, image_size=8).process_landmarker(1)
    assert sorted(os.listdir(out)) == ["report_landmarker.json", "train_landmarker.npz"]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"num_workers": -1},
        {"flush_every": 0},
        {"flush_every": 1.5},
        {"image_size": 0},
        {"image_size": (3,)},
        {"seed": -1},
        {"seed": 1 << 32},
        {"box_format": "cxcywh"},
        {"executor": 2},
    ],
)
def test_processor_wrong_options_raise(tmp_path, options):
    with pytest.raises((OptionError, OptionTypeError)):
        DataProcessor(tmp_path, tmp_path, **options)


@pytest.mark.parametrize("split", [-0.1, 1.1, float("nan")])
def test_processor_wrong_train_split_raises(tmp_path, split):
    make_landmarker(tmp_path)
    with pytest.raises(OptionError, match="train_split"):
        process(tmp_path, tmp_path / "out").process_landmarker(split)


def test_processor_progress_shows_images_per_second(tmp_path, capsys):
    make_landmarker(tmp_path)
    process(tmp_path, tmp_path / "out", progress=True).process_landmarker()
    shown = capsys.readouterr().err
    assert "train landmarker: 100%" in shown
    assert " images/s" in shown
    process(tmp_path, tmp_path / "out").process_landmarker()
    assert capsys.readouterr().err == ""


# As it is used
BASIC = """
from imagearchive import DataProcessor

# Create processor
processor = DataProcessor(
    raw_data_dir='data/raw',
    output_dir='data/preprocessed',
    batch_size=500,
    num_workers=8,
    flush_every=5  # Flush to disk every 5 batches
)

# Process all datasets
processor.process_all(train_split=0.8, include_teacher=True)
"""
PIPELINE = """
from imagearchive import DataProcessor
from imagearchive import LazyNPZDataset
from torch.utils.data import DataLoader

# Step 1: Process raw data (with background disk writing)
processor = DataProcessor(flush_every=5)
processor.process_all()

# Step 2: Create lazy datasets
train_ds = LazyNPZDataset('data/preprocessed/train_detector.npz', cache_size=100)
val_ds = LazyNPZDataset('data/preprocessed/val_detector.npz', cache_size=50)

# Step 3: Create data loaders
train_loader = DataLoader(train_ds, batch_size=32, shuffle=True, num_workers=4)
val_loader = DataLoader(val_ds, batch_size=32, shuffle=False, num_workers=2)

# Step 4: Train
for epoch in range(100):
    for batch in train_loader:
        # Only current batch is in memory!
        images = batch['image']
        bboxes = batch['bboxes']
        # ... training code
"""


def test_processor_seed_script_runs_without_a_guard(tmp_path):
    """As it stands: without a guard, which spawned processes would need."""
    make_detector(tmp_path / "data" / "raw")
    make_landmarker(tmp_path / "data" / "raw")
    done = subprocess.run(
        script(tmp_path, BASIC), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # What was left out is said once, even to a program that has not set up logging: here, the
    # images of the detector that have no box to crop.
    (line,) = done.stderr.splitlines()
    assert line.startswith("teacher: 9 train, 3 val, 4 left out, ")
    assert sorted(os.listdir(tmp_path / "data" / "preprocessed")) == sorted(
        f"{part}_{kind}.{'json' if part == 'report' else 'npz'}"
        for part in ("train", "val", "report")
        for kind in ("detector", "landmarker", "teacher")
    )
    data = rows(tmp_path / "data" / "preprocessed" / "train_detector.npz")
    assert data["image_paths"][0].startswith("data/raw/detector/")
    assert len(data["images"]) == 8


# The example asks for more workers than the machine may have.
@pytest.mark.needs_torch
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_processor_seed_pipeline_runs(tmp_path, monkeypatch):
    make_detector(tmp_path / "data" / "raw", 9)
    make_landmarker(tmp_path / "data" / "raw", 3)
    monkeypatch.chdir(tmp_path)
    # A hundred epochs of starting four processes show nothing that two do not.
    code = PIPELINE.replace("range(100)", "range(2)")
    names = {}
    exec(compile(code, "pipeline", "exec"), names)
    assert names["images"].shape == (7, 224, 224, 3)
    assert len(names["bboxes"]) == 7
