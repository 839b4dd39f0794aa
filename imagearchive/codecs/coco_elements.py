"""The elements of a COCO annotation file: one JSON object of images, annotations and categories."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from imagearchive.codecs.json_stream import JsonStream
from imagearchive.errors import LabelError

__all__ = ["check_id", "check_numbers", "coco_elements", "hashable"]


def coco_elements(stream: JsonStream) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the elements of the three lists that are read, each with its file and line."""
    missing = {"images", "annotations"}
    for key in stream.members():
        is_read = key in ("images", "annotations", "categories")
        missing.discard(key)
        if stream.peek() != "[":
            if is_read:
                raise LabelError(f"{stream.where()}: {key!r} is not a list; is this a COCO file?")
            stream.value()
            continue
        for item, where in stream.elements():
            if not is_read:
                continue
            if not isinstance(item, dict):
                raise LabelError(f"{where}: an element of {key!r} is not an object")
            yield key, item, where
    if missing:
        names = " and ".join(sorted(missing))
        raise LabelError(f"{stream.path}: the file has no {names}; is this a COCO file?")


def check_numbers(values: object, field: str, where: str) -> list[float]:
    """Return a list of finite numbers, or raise LabelError."""
    if not isinstance(values, list):
        raise LabelError(f"{where}: {field} is not a list")
    result: list[float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LabelError(f"{where}: {value!r:.40} in {field} is not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise LabelError(f"{where}: a value in {field} is not a finite number")
        result.append(number)
    return result


def check_id(value: object, field: str, where: str) -> int | str:
    """Return an id, or raise LabelError."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise LabelError(f"{where}: {field} must be an integer or a string, got {value!r:.40}")
    return hashable(value)


def hashable(value: int | str) -> int | str:
    """Return an identity whose hash others share only by chance: a large integer as its digits."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    return value
