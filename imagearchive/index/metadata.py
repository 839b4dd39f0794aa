"""The metadata of an index: which files it describes, and the container format of each.

The key ``containers`` lists runs: one dict for each range of consecutive files of one format, with
the format's ``name`` and ``version`` and the number of the ``first_file``.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.container import Container
from imagearchive.containers.derived import DerivedFile
from imagearchive.containers.left_out import LeftOut
from imagearchive.containers.registry import container_named
from imagearchive.errors import CorruptIndexError
from imagearchive.index.nesting import MAX_DEPTH

__all__ = [
    "CHECKPOINTS",
    "add_container_runs",
    "changed_scanner",
    "check_metadata",
    "container_of_file",
    "containers_of",
    "derived_files",
    "file_sizes",
    "shard_sizes",
]

#: The section that holds the checkpoints of compressed files.
CHECKPOINTS: Final = "file_checkpoints"

# How deep views are inside each other: two for each level of archives.
MAX_VIEWS_DEEP: Final = 2 * MAX_DEPTH

# The index of the original ImageArchive does not name a format; its archives are TAR files.
_ORIGINAL_RUNS: Final = [{"name": "tar", "version": 0, "first_file": 0}]


def check_metadata(ipath: str, meta: dict[str, Any]) -> None:
    """Raise CorruptIndexError unless the metadata name files, directories, and formats."""
    archives, directories = meta.get("archives"), meta.get("directories", [])
    if not (
        isinstance(archives, list)
        and all(isinstance(a, dict) and isinstance(a.get("path"), str) for a in archives)
        and isinstance(directories, list)
        and all(isinstance(name, str) for name in directories)
        and _are_runs(meta.get("containers"))
        and _is_nested(meta.get("nested", {"archives": 0, "deepest": 0}))
    ):
        raise CorruptIndexError(f"{ipath}: the metadata do not name an archive; delete it")
    try:
        LeftOut.from_metadata(meta.get("left_out"))
    except ValueError as error:
        raise CorruptIndexError(f"{ipath}: {error}; delete it") from error
    for archive in archives:
        if not _is_inside(archive["path"]):
            raise CorruptIndexError(
                f"{ipath}: the file {archive['path']!r:.200} is outside the directory of the "
                f"archive; delete the index file and open the archive again"
            )


def file_sizes(ipath: str, archives: Sequence[dict[str, Any]]) -> list[int]:
    """Return the size in bytes of each file that the metadata name.

    Raises
    ------
    CorruptIndexError
        No file is named, or one has no size.
    """
    sizes = [archive.get("size") for archive in archives]
    if not sizes or not all(type(size) is int and 0 <= size < 1 << 63 for size in sizes):
        raise CorruptIndexError(f"{ipath}: the metadata do not name files with sizes; delete it")
    return [int(size) for size in sizes if size is not None]


def derived_files(ipath: str | None, meta: dict[str, Any]) -> dict[int, DerivedFile]:
    """Return the files that are compressed, by number.

    Raises
    ------
    CorruptIndexError
        They are not described as this library does.
    """
    try:
        derived = {
            int(number): DerivedFile.from_json(found)
            for number, found in meta.get("derived", {}).items()
        }
        if min(derived, default=0) < 0:
            raise ValueError("a negative number")  # noqa: TRY301
    except (ValueError, AttributeError) as error:
        raise CorruptIndexError(
            f"{ipath}: the metadata do not describe the compressed files; delete it"
        ) from error
    return derived


def shard_sizes(
    ipath: str, files: npt.ArrayLike, derived: Mapping[int, DerivedFile]
) -> npt.NDArray[np.uint64]:
    """Return the length of what each shard refers to in bytes.

    Parameters
    ----------
    ipath : str
    files : array-like of int
        The sizes of the files.
    derived : mapping of int to DerivedFile

    Raises
    ------
    CorruptIndexError
        A view is not within its parent, or is not numbered after it.
    """
    known = np.asarray(files, np.uint64)
    if not derived:
        return known
    sizes: list[int] = known.tolist()
    count = len(sizes)
    depths = [0] * len(sizes)
    for number, one in sorted(derived.items()):
        if one.parent is None:
            if number < count:
                sizes[number] = one.size
            continue
        if number != len(sizes) or one.parent >= number or depths[one.parent] == MAX_VIEWS_DEEP:
            raise CorruptIndexError(
                f"{ipath}: the archives inside the archive are not numbered in order; delete it"
            )
        outer = sizes[one.parent]
        if one.offset + one.stored_size > outer:
            raise CorruptIndexError(
                f"{ipath}: an archive inside the archive is not within it; delete it"
            )
        depths.append(depths[one.parent] + 1)
        sizes.append(one.size if one.format else outer)
    return np.array(sizes, np.uint64)


def _is_inside(path: str) -> bool:
    """Whether a relative path cannot lead outside the directory that it is relative to."""
    parts = path.replace("\\", "/").split("/")
    return parts[0] != "" and ".." not in parts and "\0" not in path and "://" not in path


def _runs(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the formats of consecutive files."""
    runs: list[dict[str, Any]] = meta.get("containers", _ORIGINAL_RUNS)
    return runs


def containers_of(meta: dict[str, Any]) -> list[Container]:
    """Return each format once, in the order of the files."""
    found: list[Container] = []
    for run in _runs(meta):
        container = container_named(run["name"])
        if container is not None and container not in found:
            found.append(container)
    return found


def container_of_file(ipath: str | None, meta: dict[str, Any], shard: int) -> Container:
    """Return the format of one file.

    Raises
    ------
    CorruptIndexError
        The index does not name its format, or the format is unknown.
    """
    runs = _runs(meta)
    number = bisect.bisect_right(runs, shard, key=lambda run: run["first_file"]) - 1
    container = container_named(runs[number]["name"]) if number >= 0 else None
    if container is None:
        raise CorruptIndexError(f"{ipath}: the format of file {shard} is unknown; delete the index")
    return container


def changed_scanner(meta: dict[str, Any]) -> str | None:
    """Return the name of a format whose scanner is not the one that built the index, or None."""
    for run in _runs(meta):
        container = container_named(run["name"])
        if container is None or container.version != run["version"]:
            return str(run["name"])
    return None


def add_container_runs(
    runs: list[dict[str, Any]], others: list[dict[str, Any]], first_file: int
) -> None:
    """Append the formats of further files, which begin at `first_file`; equal neighbors merge."""
    for run in others:
        last = runs[-1] if runs else {}
        if (last.get("name"), last.get("version")) != (run["name"], run["version"]):
            runs.append({**run, "first_file": run["first_file"] + first_file})


def _are_runs(runs: object) -> bool:
    return (
        isinstance(runs, list)
        and len(runs) > 0
        and all(
            isinstance(run, dict)
            and isinstance(run.get("name"), str)
            and not _is_listed(run["name"])
            and isinstance(run.get("first_file"), int)
            and "version" in run
            for run in runs
        )
        and runs[0]["first_file"] == 0
        and all(one["first_file"] < other["first_file"] for one, other in pairwise(runs))
    )


def _is_nested(nested: object) -> bool:
    return isinstance(nested, dict) and all(
        type(nested.get(key)) is int and 0 <= nested[key] < 1 << 62
        for key in ("archives", "deepest")
    )


def _is_listed(name: str) -> bool:
    """Whether a format has no index file, because its files are listed at every open."""
    container = container_named(name)
    return container is not None and container.members_are_files
