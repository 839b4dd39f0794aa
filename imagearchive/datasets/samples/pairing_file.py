"""Saves a pairing beside the index of its archive, so that it is computed once and then mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from imagearchive.datasets.samples.pairing import Pairing
from imagearchive.datasets.samples.saved_arrays import SavedArrays, content_of, open_saved

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.storage.protocol import FileStorage

__all__ = ["open_pairing"]

POSITIONS: Final = "positions"


def open_pairing(
    archives: Iterable[Archive],
    description: str,
    annotations: str,
    count: int,
    pair: Callable[[], Pairing],
) -> tuple[Pairing, FileStorage | None]:
    """Map the saved pairing if it is of these archives as they are now; else compute and save it.

    Parameters
    ----------
    archives : iterable of Archive
        Each once; the first is the one whose index the file is beside.
    description : str
        The options that the pairing depends on.
    annotations : str
        The identity of the files that are not archives.
    count : int
        Number of parts.
    pair : callable
        Computes the pairing.

    Returns
    -------
    pairing : Pairing
    storage : FileStorage or None
        The mapped file.
    """
    archives = list(archives)
    content = content_of(archives)

    def compute() -> SavedArrays:
        pairing = pair()
        meta = {"skipped": pairing.skipped, "incomplete": list(pairing.incomplete)}
        return SavedArrays({POSITIONS: pairing.positions}, meta)

    saved = open_saved(
        archives,
        "\0".join(["pairing", *(path for one in archives for path in one.paths), description]),
        None if content is None else f"{content}\0{annotations}",
        compute,
        lambda found: _is_pairing(found, count),
    )
    meta = saved.meta
    pairing = Pairing(saved.sections[POSITIONS], meta["skipped"], tuple(meta["incomplete"]))
    return pairing, saved.file


def _is_pairing(found: SavedArrays, count: int) -> bool:
    positions = found.sections.get(POSITIONS)
    skipped, incomplete = found.meta.get("skipped"), found.meta.get("incomplete")
    return (
        positions is not None
        and positions.ndim == 2
        and len(positions) == count
        and positions.dtype in (np.int32, np.int64)
        and isinstance(skipped, int)
        and isinstance(incomplete, list)
        and all(number in range(count) for number in incomplete)
    )
