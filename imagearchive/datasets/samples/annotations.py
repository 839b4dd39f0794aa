"""Annotations of samples, in a COCO file or a table, and how they are added to a pairing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.samples.pairing import SHOWN, SKIP_OR_NONE, Missing, Pairing
from imagearchive.errors import LabelError

if TYPE_CHECKING:
    from imagearchive.datasets.samples.annotation_part import AnnotationPart
    from imagearchive.datasets.samples.sample_members import SampleMembers

__all__ = ["Annotations", "add_annotations"]


class Annotations:
    """A file of annotations, or a table.

    Attributes
    ----------
    parts : list of AnnotationPart
    classes : dict of str to list of str
        For each entry that has numbers of classes, their names.
    description : str
        The options that the rows depend on.
    identity : str
        What changes if the rows may have changed. It needs no reading.
    fingerprint : str
        The same, but it depends on the content only.
    """

    parts: Sequence[AnnotationPart]
    classes: Mapping[str, list[str]]
    description: str
    identity: str
    fingerprint: str

    def keys(self) -> list[str] | None:
        """Return the keys of the samples, in order; None if the annotations do not say them."""
        return None

    def selects(self) -> bool:
        """Whether `select` leaves out samples."""
        return False

    def select(self, positions: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which samples are asked for; the others are left out.

        Parameters
        ----------
        positions : ndarray, shape (F, N)
            Of the members of all samples.
        """
        return np.ones(positions.shape[1], np.bool_)

    def rows(self, members: SampleMembers, pairing: Pairing) -> list[npt.NDArray[np.int64]]:
        """Return for each part the row of each sample, -1 where it is missing.

        Raises
        ------
        LabelError
            The annotations do not fit the samples.
        """
        raise NotImplementedError


def add_annotations(
    members: SampleMembers, pairing: Pairing, sources: Sequence[Annotations], missing: Missing
) -> Pairing:
    """Return a pairing that also says which row is which part of which sample.

    Raises
    ------
    LabelError
        The annotations do not fit the samples, or a part is missing.
    """
    parts = [part for source in sources for part in source.parts]
    found = [row for source in sources for row in source.rows(members, pairing)]
    if not parts:
        return pairing
    rows = np.stack(found)
    absent = rows < 0
    lacking = absent.any(axis=1)
    if missing == "none":
        numbers = np.flatnonzero(lacking) + len(members.parts)
        incomplete = (*pairing.incomplete, *numbers.tolist())
        return Pairing(_stack(pairing.positions, rows), pairing.skipped, incomplete)
    whole = ~absent.any(axis=0)
    if lacking.any() and (missing == "error" or not whole.any()):
        texts = []
        for part, mask in zip(parts, absent):
            lost = np.flatnonzero(mask).tolist()
            if lost:
                keys = [members.key(number) for number in lost[:SHOWN]]
                texts.append(part.describe_missing(len(lost), len(mask), keys))
        raise LabelError("; ".join(texts), hints=SKIP_OR_NONE)
    positions = _stack(pairing.positions, rows)
    if not whole.all():
        positions = np.ascontiguousarray(positions[:, whole])
    return Pairing(positions, pairing.skipped + int((~whole).sum()), pairing.incomplete)


def _stack(positions: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    small = positions.dtype == np.int32 and (not rows.size or int(rows.max()) < 1 << 31)
    return np.concatenate([positions, rows], axis=0, dtype=np.int32 if small else np.int64)
