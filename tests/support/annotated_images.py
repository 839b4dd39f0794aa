"""Directories of annotated images, and the rows of the NPZ files made of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os

import numpy as np
from PIL import Image

from imagearchive.arrays import ragged
from imagearchive.processing.processor import DataProcessor

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
