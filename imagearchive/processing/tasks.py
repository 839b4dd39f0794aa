"""From a record to the sample that is stored: the code that worker processes run.

It is a module of its own so that a worker imports little: NumPy, Pillow, and the records.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagearchive.errors import DecodeError, LimitError
from imagearchive.errors.os_errors import OUT_OF_FILES
from imagearchive.images.pillow import decode_with_pillow
from imagearchive.processing.annotation_records import Problem, Record

__all__ = ["BoxFormat", "DecodeOptions", "Decoded", "Job", "Kind", "decode_task", "job_of"]

Kind = Literal["detector", "landmarker", "teacher"]
BoxFormat = Literal["xywh", "xyxy"]

# Added to the box around keypoints on each side, as a fraction of its extent.
KEYPOINT_MARGIN: Final = 0.1


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How images are decoded and stored.

    Attributes
    ----------
    image_size : (width, height) or None
        Size to stretch images to; None keeps their own.
    box_format : {"xywh", "xyxy"}
        How boxes are stored: as ``x, y, width, height``, or as two corners.
    folder : str
        Where relative paths of images begin; empty for the working directory.
    """

    image_size: tuple[int, int] | None = None
    box_format: BoxFormat = "xywh"
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One image to decode, and what to store with it.

    The sample gets ``boxes`` (K, 4), as ``x, y, width, height``, or ``keypoints`` (N, 3). If there
    is a `crop` (4,), the image is cropped to it first, and the sample gets the crop as its box.
    """

    path: str
    boxes: NDArray[np.float64] | None = None
    keypoints: NDArray[np.float64] | None = None
    crop: tuple[float, float, float, float] | None = None


def job_of(kind: Kind, record: Record) -> Job | str:
    """Return the job for a record, or the reason why there is none.

    Parameters
    ----------
    kind : {"detector", "landmarker", "teacher"}
        What the samples are for.
    record : Record
        An image and all that is known of it.

    Returns
    -------
    Job or str
        The job, or the reason why the image is left out.
    """
    if kind == "detector":
        if record.annotated and not len(record.boxes):
            return "annotated, but without a box"
        return Job(record.path, boxes=record.boxes)
    if kind == "landmarker":
        if record.keypoints is None:
            return "no keypoints"
        return Job(record.path, keypoints=record.keypoints)
    if len(record.boxes):
        x, y, width, height = map(float, record.boxes[0])
        return Job(record.path, crop=(x, y, width, height))
    if record.keypoints is None:
        return "neither box nor keypoints"
    return Job(record.path, crop=_around(record.keypoints))


def _around(keypoints: NDArray[np.float64]) -> tuple[float, float, float, float]:
    points = keypoints[keypoints[:, 2] > 0, :2]
    low, high = points.min(axis=0), points.max(axis=0)
    # An infinite box is clipped to the image later.
    with np.errstate(over="ignore", invalid="ignore"):
        margin = KEYPOINT_MARGIN * (high - low)
        x, y = map(float, low - margin)
        width, height = map(float, high - low + 2 * margin)
    return x, y, width, height


@dataclass(frozen=True, slots=True)
class Decoded:
    """The samples of one task, as `NpzWriter.extend` takes them.

    Attributes
    ----------
    columns : dict of str to list or ndarray
        Images of one size are one array already, which saves the writer a call for each.
    count, nbytes : int
        Number of samples, and bytes of their images.
    problems : list of Problem
        The images that could not be read.
    """

    columns: dict[str, Any]
    count: int
    nbytes: int
    problems: list[Problem]


def decode_task(jobs: Sequence[Job], options: DecodeOptions) -> Decoded:
    """Decode a few images; this is what the workers run.

    Parameters
    ----------
    jobs : sequence of Job
        What to decode.
    options : DecodeOptions
        The same for all jobs.
    """
    results = [_decode(job, options) for job in jobs]
    problems = [result for result in results if isinstance(result, Problem)]
    samples = [result for result in results if not isinstance(result, Problem)]
    columns: dict[str, Any] = {
        name: [sample[name] for sample in samples] for name in (samples[0] if samples else ())
    }
    nbytes = sum(sample["images"].nbytes for sample in samples)
    if samples and options.image_size is not None:
        columns["images"] = np.stack(columns["images"])
    return Decoded(columns, len(samples), nbytes, problems)


def _decode(job: Job, options: DecodeOptions) -> dict[str, Any] | Problem:
    image_size = options.image_size
    try:
        with open(os.path.join(options.folder, job.path), "rb") as file:
            pixels = decode_with_pillow(file.read())
    except (OSError, DecodeError, LimitError) as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
            # This is not the image's fault, and leaving it out would lose a sample.
            raise
        reason = error.strerror if isinstance(error, OSError) else None
        return Problem(job.path, f"cannot be read: {reason or error}")
    sample: dict[str, Any] = {}
    boxes = job.boxes
    if job.crop is not None:
        region = _region(job.crop, pixels.shape[1], pixels.shape[0])
        if region is None:
            return Problem(job.path, "the box is outside the image")
        left, top, right, bottom = region
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
        boxes = np.array([[left, top, right - left, bottom - top]], np.float64)
    height, width = pixels.shape[:2]
    scale = (1.0, 1.0)
    if image_size is not None and image_size != (width, height):
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize(image_size, Image.Resampling.BILINEAR))
        scale = (image_size[0] / width, image_size[1] / height)
    sample["images"] = pixels
    with np.errstate(over="ignore", invalid="ignore"):
        if boxes is not None:
            if job.crop is None:
                boxes = boxes * np.array(scale * 2)
            if options.box_format == "xyxy":
                boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            stored = boxes.astype(np.float32)
            sample["bboxes"] = stored if job.crop is None else stored[0]
        if job.keypoints is not None:
            sample["keypoints"] = (job.keypoints * np.array((*scale, 1.0))).astype(np.float32)
    for name in ("bboxes", "keypoints"):
        if not np.isfinite(sample.get(name, 0)).all():
            return Problem(job.path, f"{name}: a coordinate is larger than float32 can hold")
    sample["image_paths"] = job.path
    return sample


def _region(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[int, int, int, int] | None:
    """Return the whole pixels that a box touches, inside the image."""
    x, y, w, h = box
    edges = x, y, x + w, y + h
    if any(map(math.isnan, edges)):
        # Infinite in both directions.
        return None
    # Limited before they are rounded, as infinity cannot be.
    horizontal, vertical = (
        [min(max(edge, 0.0), limit) for edge in pair]
        for pair, limit in ((edges[0::2], width), (edges[1::2], height))
    )
    left, right = math.floor(horizontal[0]), math.ceil(horizontal[1])
    top, bottom = math.floor(vertical[0]), math.ceil(vertical[1])
    return (left, top, right, bottom) if left < right and top < bottom else None
