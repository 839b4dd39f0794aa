"""Writes members of any archive into a new TAR, ZIP, or NPZ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from imagearchive.archive.checked_read import iter_chunks
from imagearchive.arrays.npy import HeaderBudget
from imagearchive.errors import OptionError, UnsafePathError
from imagearchive.storage.changes import changes_first

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["FileKind", "write_members"]

FileKind = Literal["tar", "zip", "npz"]


def write_members(
    archive: Archive,
    path: str,
    kind: FileKind,
    positions: Iterable[int],
    *,
    overwrite: bool,
    index: bool,
    sync: bool,
    step: Callable[[int], object],
) -> None:
    """Write the members at these positions, in this order; arguments and errors as of `convert`."""
    if kind == "tar":
        from imagearchive.archive.writers import TarWriter

        with (
            changes_first(archive),
            TarWriter(path, overwrite=overwrite, index=index, sync=sync) as tar,
        ):
            for position in positions:
                entry = archive.table.entries[position]
                seconds = int(entry["mtime"]) // 1_000_000_000
                tar.add_chunks(
                    archive.table.name_bytes(position),
                    iter_chunks(archive, position),
                    int(entry["size"]),
                    mtime=seconds,
                    mode=int(entry["mode"]) & 0o777 or 0o644,
                )
                step(1)
        return
    from imagearchive.archive.writers import IndexedZipWriter

    budget = HeaderBudget()
    with (
        changes_first(archive),
        IndexedZipWriter(path, overwrite=overwrite, index=index, sync=sync) as packed,
    ):
        for position in positions:
            entry = archive.table.entries[position]
            name = archive.name(position)
            if kind == "npz":
                _check_array(archive, position, name, budget)
            packed.add_chunks(
                name,
                iter_chunks(archive, position),
                mtime=0 if kind == "npz" else int(entry["mtime"]) // 1_000_000_000,
                mode=int(entry["mode"]) & 0o777 or 0o644,
            )
            step(1)


def _check_array(archive: Archive, position: int, name: str, budget: HeaderBudget) -> None:
    if not name.endswith(".npy"):
        raise OptionError(
            f"{name!r} is not a .npy array, as every member of an NPZ must be; convert to .tar or "
            f".zip"
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise UnsafePathError(f"{name!r} leads out of the archive")
    budget.parse(archive.member(position), archive.info(position).stored_size, name)
