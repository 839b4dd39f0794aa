"""What an earlier run of `DataProcessor` has written, and which of it can be kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.errors import ImageArchiveError
from imagearchive.processing.annotation_records import Problem
from imagearchive.processing.tasks import Job
from imagearchive.storage.location import Location

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["fingerprint", "load_report", "load_side", "save_report", "save_side"]

# Changes when other bytes are written for the same images and options.
_VERSION: Final = 1
_BYTES: Final = 8
# What reading a JSON file that is damaged, or of another version, raises.
_DAMAGED: Final = (OSError, ValueError, KeyError, TypeError, RecursionError)


def fingerprint(jobs: Mapping[str, Iterable[Job]], options: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that identify what is going to be written.

    Parameters
    ----------
    jobs : mapping of str to iterable of Job
        For each file, its images in order. Their files are identified by size and time.
    options : mapping of str to object
        Everything else that the content depends on.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode("utf-8", "surrogatepass"))

    add(_VERSION, sorted(options.items()))
    for side, of_side in jobs.items():
        add(side)
        for job in of_side:
            try:
                status = os.stat(job.path)
                seen: tuple[int, ...] = status.st_size, status.st_mtime_ns
            except OSError:
                # Decoding it says what is wrong.
                seen = ()
            add(job.path, seen, job.crop)
            for array in (job.boxes, job.keypoints):
                add(None if array is None else array.shape)
                if array is not None:
                    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_report(path: str, report: DataclassInstance, mark: str, sizes: Mapping[str, int]) -> None:
    """Write the report of a run.

    Parameters
    ----------
    path : str
    report : dataclass
    mark : str
        What `fingerprint` returned.
    sizes : mapping of str to int
        Bytes of each file, by its name.
    """
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**asdict(report), "fingerprint": mark, "sizes": dict(sizes)}, file, indent=1)
        file.write("\n")


def load_report(folder: Location, name: str, mark: str) -> dict[str, Any] | None:
    """Return what an earlier run reported, or None if its files are not the ones to write.

    Parameters
    ----------
    folder : Location
        Where the files are.
    name : str
        Of the report.
    mark : str
        What `fingerprint` returned.
    """
    try:
        with closing(folder.join(name).open("memory")) as file:
            saved = json.loads(bytes(file.read(0, file.size)))
        if saved.pop("fingerprint") != mark:
            return None
        for written, size in saved.pop("sizes").items():
            status = folder.join(written).status()
            if not status.is_file or status.size != size:
                return None
        saved["skipped"] = _problems(saved["skipped"])
    except (ImageArchiveError, *_DAMAGED, AttributeError):
        # There is none, or it is of another version, or damaged.
        return None
    return dict(saved)


def save_side(path: str, count: int, problems: Iterable[Problem]) -> None:
    """Write how many samples a file has, and what was left out of it."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"count": count, "skipped": [asdict(one) for one in problems]}, file)
        file.flush()
        os.fsync(file.fileno())


def load_side(path: str) -> tuple[int, tuple[Problem, ...]] | None:
    """Return what `save_side` wrote, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
        return int(saved["count"]), _problems(saved["skipped"])
    except _DAMAGED:
        return None


def _problems(saved: Any) -> tuple[Problem, ...]:
    return tuple(Problem(str(one["path"]), str(one["reason"])) for one in saved)
