"""From folders of annotated images to NPZ files, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support.scripts import script

from imagearchive.arrays import ragged
from imagearchive.errors import (
    ArchiveNotFoundError,
    LabelError,
    OptionError,
    OptionTypeError,
    WorkerError,
)
from imagearchive.processing import background_writer
from imagearchive.processing import processor as module
from imagearchive.processing.process_pool import WorkerPool
from imagearchive.processing.processor import DataProcessor
from imagearchive.storage.staged_files import StagedFiles

COCO = "_annotations.coco.json"


def write_image(path, number, size):
    """A PNG whose every pixel tells which image it is and where in it."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([np.full_like(x, number % 256), x % 256, y % 256], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, compress_level=1)


def make_detector(raw, count=10, size=None):
    """COCO in one folder and CSV in another; image k has k % 3 boxes and an own size."""
    sizes = [size or (40 + k, 30 + 2 * k) for k in range(count)]
    boxes = [[[k, b, 10 + b, 5.5] for b in range(k % 3)] for k in range(count)]
    coco = raw / "detector" / "ears_coco" / "train"
    half = count // 2
    images, marks, rows = [], [], ["image_path,x,y,w,h,class"]
    for k in range(count):
        if k < half:
            write_image(coco / f"{k}.png", k, sizes[k])
            images.append({"id": k, "file_name": f"{k}.png"})
            marks += [{"image_id": k, "bbox": box, "category_id": 1} for box in boxes[k]]
        else:
            write_image(raw / "detector" / "more" / f"{k}.png", k, sizes[k])
            rows += [f"{k}.png," + ",".join(map(str, box)) + ",ear" for box in boxes[k]]
            rows += [f"{k}.png,,,,,"] * (not boxes[k])
    coco.mkdir(parents=True, exist_ok=True)
    (coco / COCO).write_text(json.dumps({"images": images, "annotations": marks}))
    (raw / "detector" / "more").mkdir(exist_ok=True)
    (raw / "detector" / "more" / "x_annotations.csv").write_text("\n".join(rows))
    return sizes, boxes


def make_landmarker(raw, count=6):
    points = []
    for k in range(count):
        write_image(raw / "landmarker" / "points" / f"{k}.png", 100 + k, (60, 40))
        points.append([[10 + k, 5], [30, 25.5], [20, 10]])
        lines = "\n".join(f"{x} {y}" for x, y in points[k])
        (raw / "landmarker" / "points" / f"{k}.pts").write_text(
            f"version: 1\nn_points: 3\n{{\n{lines}\n}}\n"
        )
    return points


def rows(path):
    """The columns of a file as lists of rows, read by NumPy alone."""
    with np.load(path) as data:
        result = {}
        for name, column in ragged.columns(data.files).items():
            values = data[column.data]
            if column.offsets is None:
                result[name] = list(values)
                continue
            offsets = data[column.offsets]
            parts = [values[a:b] for a, b in itertools.pairwise(offsets)]
            if column.shapes is not None:
                parts = [part.reshape(s) for part, s in zip(parts, data[column.shapes])]
            if column.kind == "utf8":
                parts = [part.tobytes().decode("utf-8", "surrogatepass") for part in parts]
            result[name] = parts
    result["image_paths"] = [str(name) for name in result["image_paths"]]
    return result


def number(path):
    return int(os.path.basename(path).split(".")[0])


def digests(folder):
    return {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()
        for entry in folder.iterdir()
        if entry.suffix == ".npz"
    }


def process(raw, out, **options):
    options.setdefault("num_workers", 0)
    return DataProcessor(raw, out, **options)


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
    with pytest.raises(LabelError, match="no usable image; 1 were left out"):
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


# --------------------------------------------------------------------------------------------
# What goes wrong while it runs


class Failing(Executor):
    """Runs tasks at once, and from a certain one on does something else."""

    def __init__(self, after, action):
        self.left = after
        self.action = action

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.left -= 1
        if self.left < 0:
            self.action(future)
        else:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("how", ["cancelled", "broken", "unexpected"])
def test_processor_failing_worker_raises(tmp_path, how):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 12)
    actions = {
        "cancelled": lambda future: (future.cancel(), future.set_running_or_notify_cancel()),
        "broken": lambda future: future.set_exception(MemoryError()),
        "unexpected": lambda future: future.set_exception(ZeroDivisionError("bug")),
    }
    with pytest.raises(WorkerError, match="a worker failed on one of the 2 images from"):
        process(
            raw, out, image_size=8, batch_size=2, executor=Failing(2, actions[how])
        ).process_detector()
    assert os.listdir(out) == []


def test_processor_executor_that_is_shut_down_raises(tmp_path):
    make_detector(tmp_path / "raw")
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(WorkerError, match="accepts no more tasks: cannot schedule"):
        process(tmp_path / "raw", tmp_path / "out", executor=pool).process_detector()


def killer(pool):
    """An executor that kills one of the pool's processes at its fourth task."""

    class Killing(Executor):
        count = 0

        def submit(self, fn, /, *args, **kwargs):
            self.count += 1
            if self.count == 4:
                pids = pool.pids if isinstance(pool, WorkerPool) else list(pool._processes)
                os.kill(pids[0], signal.SIGKILL)
            return pool.submit(fn, *args, **kwargs)

    return Killing()


@pytest.mark.parametrize("kind", ["ours", "concurrent.futures"])
def test_processor_killed_worker_raises_and_keeps_old_files(tmp_path, kind):
    import multiprocessing

    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 40)
    process(raw, out, image_size=8).process_detector()
    before = digests(out)
    context = multiprocessing.get_context("spawn")
    pool = WorkerPool(2) if kind == "ours" else ProcessPoolExecutor(2, mp_context=context)
    with pool, pytest.raises(WorkerError, match=r"died|terminated"):
        process(
            raw, out, image_size=8, batch_size=1, num_workers=2, executor=killer(pool), seed=3
        ).process_detector()
    # What was there before is there still, and nothing else.
    assert digests(out) == before
    assert len(os.listdir(out)) == 3


def test_processor_full_disk_raises_with_the_file(tmp_path):
    """A limit on the size of files makes writing fail in the same way."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 40)
    code = f"""
        import errno, resource, signal
        from imagearchive.processing.processor import DataProcessor
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        processor = DataProcessor({str(raw)!r}, {str(out)!r}, 2, 1, 1, image_size=200)
        try:
            processor.process_detector()
        except OSError as error:
            print(error.errno == errno.EFBIG, error)
    """
    done = subprocess.run(script(tmp_path, code), capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("True ")
    assert "train_detector" in done.stdout
    assert os.listdir(out) == []


def test_processor_error_of_the_writer_is_raised(tmp_path, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 40)

    class Broken(background_writer.NpzWriter):
        count = 0

        def extend(self, **columns):
            self.count += 1
            if self.count == 7:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().extend(**columns)

    monkeypatch.setattr(background_writer, "NpzWriter", Broken)
    with pytest.raises(OSError, match="No space left") as caught:
        process(raw, out, batch_size=1, flush_every=1).process_detector()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith("train_detector.npz")
    assert os.listdir(out) == []
    assert not [thread for thread in threading.enumerate() if "npz-writer" in thread.name]


def test_processor_images_in_memory_are_bounded(tmp_path, monkeypatch):
    """With a slow disk, the number of images in memory does not grow with the dataset."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 120, size=(20, 20))
    state = {"submitted": 0, "written": 0, "most": 0}

    class Slow(background_writer.NpzWriter):
        def extend(self, **columns):
            time.sleep(0.005)
            super().extend(**columns)
            state["written"] += len(columns["images"])

    class Counting(Executor):
        def submit(self, fn, jobs, *args):
            state["submitted"] += len(jobs)
            state["most"] = max(state["most"], state["submitted"] - state["written"])
            future = Future()
            future.set_result(fn(jobs, *args))
            return future

    monkeypatch.setattr(background_writer, "NpzWriter", Slow)
    process(
        raw, out, image_size=8, batch_size=2, flush_every=2, executor=Counting(), num_workers=2
    ).process_detector()
    # Tasks of two images: five in flight; groups of four: filling, waiting, being written, and
    # one more of the file before, while that is completed.
    assert 0 < state["most"] <= 5 * 2 + 4 * 4
    state.update(submitted=0, written=0, most=0)
    monkeypatch.setattr(module, "FLUSH_BYTES", 3 * 8 * 8 * 4)
    process(
        raw, out, image_size=8, batch_size=2, flush_every=99, executor=Counting(), num_workers=2
    ).process_detector()
    assert 0 < state["most"] <= 5 * 2 + 4 * 4


def test_processor_killed_at_any_moment_leaves_complete_files(tmp_path):
    """A file under its final name is complete, and the next run removes the others."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_detector(raw, 60)
    code = f"""
        from imagearchive.processing.processor import DataProcessor
        processor = DataProcessor({str(raw)!r}, {str(out)!r}, 4, 1, 1, image_size=64)
        print("ready", flush=True)
        for seed in range(100):
            processor.seed = seed
            processor.process_detector()
    """
    command = script(tmp_path, code)
    generator = random.Random(5)
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0.0, 1.0))
            child.kill()
        for name in ("train_detector.npz", "val_detector.npz"):
            if (out / name).exists():
                data = rows(out / name)
                assert len(data["images"]) == (48 if name.startswith("train") else 12)
    process(raw, out, image_size=8).process_detector()
    assert sorted(os.listdir(out)) == [
        "report_detector.json",
        "train_detector.npz",
        "val_detector.npz",
    ]


def test_processor_run_keeps_files_of_a_running_one(tmp_path):
    make_detector(tmp_path / "raw", 6)
    out = tmp_path / "out"
    out.mkdir()
    with StagedFiles(str(out), ".processing_detector.") as other:
        process(tmp_path / "raw", out, image_size=8).process_detector()
        assert os.path.isdir(os.path.dirname(other.path("x")))
    assert len(os.listdir(out)) == 3


# --------------------------------------------------------------------------------------------
# Executors


def test_processor_dask_executor_writes_the_same_bytes(tmp_path):
    raw = tmp_path / "raw"
    make_detector(raw, 30)
    make_landmarker(raw)
    process(raw, tmp_path / "here", image_size=20).process_all()
    code = f"""
        import warnings
        from distributed import Client, LocalCluster
        from imagearchive.processing.processor import DataProcessor

        if __name__ == "__main__":
            with LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster, Client(cluster) as client:
                processor = DataProcessor(
                    {str(raw)!r}, {str(tmp_path / "there")!r}, 3, 2, image_size=20,
                    executor=client.get_executor(),
                )
                processor.process_all()
                # The executor is still usable.
                assert client.get_executor().submit(divmod, 7, 2).result() == (3, 1)
                workers = client.run(lambda: __import__("os").getpid())
            print(len(set(workers.values())))
    """
    done = subprocess.run(script(tmp_path, code), capture_output=True, text=True, timeout=120)
    assert done.stdout == "2\n", done.stderr
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


# --------------------------------------------------------------------------------------------
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
