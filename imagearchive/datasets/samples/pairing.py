"""Pairs the members of several fields by their keys: which member is which part of which sample."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import decode, encode
from imagearchive.errors import LabelError
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.index.key_join import SortedKeys, match_names
from imagearchive.index.name_order import sort_names
from imagearchive.index.names import take_parts

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.samples.patterns import Pattern

__all__ = ["FieldMembers", "Missing", "Pairing", "matching_members", "pair_members"]

logger = logging.getLogger(__name__)

Missing = Literal["error", "skip", "none"]
Select = Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]]

# How many keys or names a message lists.
SHOWN: Final = 5

SKIP_OR_NONE: Final = [
    Hint("missing='skip'", "to leave such samples out"),
    Hint("missing='none'", "to have None there"),
]


@dataclass(frozen=True)
class FieldMembers:
    """Where the members of a field are.

    Attributes
    ----------
    name : str
        Of the field.
    archive : Archive
    pattern : Pattern
    """

    name: str
    archive: Archive
    pattern: Pattern


@dataclass(frozen=True)
class Pairing:
    """Which member is which part of which sample.

    Attributes
    ----------
    positions : ndarray of int32 or int64, shape (F, N)
        The position of each part in the archive of its field; -1 for a part that is missing.
    skipped : int
        How many samples were left out, because a part is missing.
    incomplete : tuple of int
        The numbers of the fields that some samples lack.
    kept : ndarray of int64 or None
        The numbers of the samples among all that were found, or among ``keys=``. None for all.
    """

    positions: npt.NDArray[Any]
    skipped: int = 0
    incomplete: tuple[int, ...] = ()
    kept: npt.NDArray[np.int64] | None = None


class _Keys:
    """Keys as flat bytes, and the order that sorts them."""

    text: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.uint64]
    order: npt.NDArray[np.uint64]
    #: Which of several archives each is from.
    groups: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sorted_keys(self, grouped: bool) -> SortedKeys:
        groups = self.groups if grouped else None
        return SortedKeys(self.text, self.offsets, self.order, groups)

    def key(self, number: int) -> str:
        low, high = self.offsets[number : number + 2].tolist()
        return decode(self.text[low:high].tobytes())


class _Candidates(_Keys):
    """The members that the pattern of a field matches, and their keys."""

    def __init__(self, field: FieldMembers, first_dot: bool) -> None:
        table = field.archive.table
        found = [
            match_names(table.names, table.name_offsets, list(literals), first_dot)
            for literals in field.pattern.alternatives
        ]
        # Most often only one alternative occurs, and then its columns are taken as they are.
        matched = [columns for columns in found if len(columns[0])] or found[:1]
        rows, starts, ends = (np.concatenate(parts) for parts in zip(*(c[:3] for c in matched)))
        dotted = np.concatenate([columns[3] for columns in found])
        if len(matched) > 1:
            # A member that fits two alternatives belongs to the first of them.
            rows, first = np.unique(rows, return_index=True)
            starts, ends = starts[first], ends[first]
        if len(dotted) and len(found) > 1:
            dotted = np.setdiff1d(dotted, rows)
        self.field = field
        self.rows: npt.NDArray[np.uint64] = rows
        self.dotted: npt.NDArray[np.uint64] = dotted
        self._starts, self._ends = starts, ends
        self.take_keys()

    def take_keys(self) -> None:
        names = self.field.archive.table.names
        self.text, self.offsets = take_parts(names, self._starts, self._ends)
        self.groups = archive_numbers(self.field.archive, self.rows)
        self.order = sort_names(self.text, self.offsets)

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the members for which `mask` is false."""
        self.rows, self._starts, self._ends = (
            column[mask] for column in (self.rows, self._starts, self._ends)
        )
        self.take_keys()

    def name(self, number: int) -> str:
        return self.field.archive.name(int(self.rows[number]))

    def archive_path(self, number: int) -> str:
        return self.field.archive.info(int(self.rows[number])).archive


def matching_members(field: FieldMembers) -> npt.NDArray[np.int64]:
    """Return the positions of all members that a pattern matches, ascending."""
    table = field.archive.table
    found = [
        match_names(table.names, table.name_offsets, list(literals), False)[0]
        for literals in field.pattern.alternatives
    ]
    return np.unique(np.concatenate(found)).astype(np.int64)


def archive_numbers(archive: Archive, rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64] | None:
    """Return which of several archives each row is from, ascending; None for one archive.

    One archive in several files, such as Barecat, counts as one.
    """
    if len(archive.paths) < 2:
        return None
    # The rows of each archive follow those of the one before.
    shards = np.maximum.accumulate(archive.table.files_of_members())
    return shards[rows.astype(np.int64)].astype(np.int64)


def pair_members(
    fields: Sequence[FieldMembers],
    keys: Sequence[str] | None,
    missing: Missing,
    first_dot: bool,
    select: Select | None = None,
) -> Pairing:
    """Find the members of all samples.

    Parameters
    ----------
    fields : sequence of FieldMembers
        At least one. Those of the first give the samples, in archive order, unless there are
        `keys`. The parts of a sample that are in the same archives must be in the same one.
    keys : sequence of str, optional
        The samples, in this order.
    missing : {"error", "skip", "none"}
        What to do where a part is missing.
    first_dot : bool
        Whether keys end at the first dot of the name, as WebDataset has it, where the pattern of
        the first field has an extension.
    select : callable, optional
        From the positions of all samples, shape (F, N), to which of them are asked for. Whether
        the others lack a part does not matter.

    Raises
    ------
    LabelError
        A part is missing, or there are several members for one part.
    """
    first = fields[0]
    rule = keys is None and first_dot and first.pattern.follows_webdataset
    candidates = [_Candidates(first, rule), *(_Candidates(field, False) for field in fields[1:])]
    if keys is None:
        for other in candidates[1:]:
            _drop_members_of(candidates[0], other)
    _check_any(candidates[0])
    samples = candidates[0] if keys is None else _GivenKeys(keys)
    if not len(samples):
        raise LabelError("keys= has no keys; is it the right file?")
    columns = [_find(samples, 0, candidates[0], candidates[0], keys is None)]
    if keys is not None:
        samples.groups = _groups_of(candidates[0], columns[0])
    elif rule:
        _warn_of_dots(candidates[0])
    for number, other in enumerate(candidates[1:], 1):
        columns.append(_find(samples, number, other, candidates[0], False))
        if keys is None:
            _log_unused(other, columns[-1])
    return _assemble(fields, samples, columns, missing, select)


class _GivenKeys(_Keys):
    """Keys that were given, in the place of those of the members."""

    def __init__(self, keys: Sequence[str]) -> None:
        encoded = [encode(key) for key in keys]
        self.text = np.frombuffer(b"".join(encoded), np.uint8)
        self.offsets = np.zeros(len(encoded) + 1, np.uint64)
        np.cumsum([len(key) for key in encoded], out=self.offsets[1:])
        self.order = sort_names(self.text, self.offsets)
        self.groups = None
        repeated = self.sorted_keys(False).repeated()
        if len(repeated):
            raise LabelError(
                f"keys= has {pluralize(len(repeated), 'key', grouped=True)} twice, such as "
                f"{self.key(int(repeated[0][0]))!r}; list each key once"
            )


def _drop_members_of(first: _Candidates, other: _Candidates) -> None:
    """Leave to another field what is one of its parts: of ``{key}.png``, what is ``{key}_m.png``.

    Only if the sample that it is then a part of exists.
    """
    a, b = first.field, other.field
    if (
        a.archive is not b.archive
        or b.pattern.text_size <= a.pattern.text_size
        or not a.pattern.may_share_names(b.pattern)
    ):
        return
    shared = np.isin(other.rows, first.rows)
    if shared.any():
        found = other.sorted_keys(True).find_in(first.sorted_keys(True))
        first.keep(~np.isin(first.rows, other.rows[shared & (found >= 0)]))


def _find(
    samples: _Keys,
    number: int,
    other: _Candidates,
    first: _Candidates,
    is_itself: bool,
) -> npt.NDArray[np.int64]:
    """Return the position of the member of one field for each sample, or -1."""
    grouped = number == 0 or other.field.archive is first.field.archive
    within = grouped and (is_itself or number > 0)
    keys = other.sorted_keys(within)
    found = np.arange(len(other)) if is_itself else samples.sorted_keys(within).find_in(keys)
    repeated = keys.repeated()
    if len(repeated):
        asked = np.zeros(len(other), np.bool_)
        asked[found[found >= 0]] = True
        repeated = repeated[asked[repeated[:, 0].astype(np.int64)]]
    if len(repeated):
        raise _several_members(other, repeated)
    if not grouped and not is_itself and samples.groups is not None:
        _check_unique(samples, other)
    positions = np.full(len(samples), -1, np.int64)
    present = found >= 0
    positions[present] = other.rows[found[present]]
    return positions


def _check_unique(samples: _Keys, other: _Candidates) -> None:
    """Raise if samples of several archives share a key, for a field of yet another archive."""
    repeated = samples.sorted_keys(False).repeated()
    if len(repeated):
        key = samples.key(int(repeated[0][0]))
        raise LabelError(
            f"{pluralize(len(repeated), 'key occurs', 'keys occur', grouped=True)} in several "
            f"archives, such as {key!r}, so the field {other.field.name!r} of "
            f"{other.field.archive.path} cannot be assigned; open the archives one by one, each "
            "with its own, and use CombinedLazyDataset"
        )


def _groups_of(
    first: _Candidates, positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64] | None:
    """Return the archive of each sample, -1 where the first field is missing."""
    present = positions >= 0
    numbers = archive_numbers(first.field.archive, positions[present].astype(np.uint64))
    if numbers is None:
        return None
    groups = np.full(len(positions), -1, np.int64)
    groups[present] = numbers
    return groups


def _several_members(candidates: _Candidates, repeated: npt.NDArray[np.uint64]) -> LabelError:
    field = candidates.field
    one, other = (int(number) for number in repeated[0])
    where = [candidates.archive_path(number) for number in (one, other)]
    names = [candidates.name(number) for number in (one, other)]
    if where[0] != where[1]:
        names = [f"{path}: {name}" for path, name in zip(where, names)]
    return LabelError(
        f"{pluralize(len(repeated), 'sample has', 'samples have', grouped=True)} several members "
        f"for the field {field.name!r} ({field.pattern.text!r}): {candidates.key(one)!r} has "
        f"{names[0]!r} and {names[1]!r}; make the pattern narrower"
    )


def _check_any(first: _Candidates) -> None:
    if len(first):
        return
    field, table = first.field, first.field.archive.table
    shown = ", ".join(repr(field.archive.name(i)) for i in range(min(SHOWN, len(table))))
    dotted = ""
    if len(first.dotted):
        name = field.archive.name(int(first.dotted[0]))
        dotted = (
            f". {pluralize(len(first.dotted), 'name', grouped=True)} such as {name!r} would, but "
            "for an earlier dot, at which WebDataset's keys end; pass first_dot=False"
        )
    raise LabelError(
        f"{field.archive.path}: no member matches the pattern {field.pattern.text!r} of the field "
        f"{field.name!r}; its members are {shown or 'none'}{', ...' * (len(table) > SHOWN)}{dotted}"
    )


def _warn_of_dots(first: _Candidates) -> None:
    """Log the members that are in no sample, because their names have an earlier dot."""
    if not len(first.dotted):
        return
    table, rows = first.field.archive.table, first.dotted.astype(np.int64)
    # Those that are other files of a sample, such as 1.seg.png of 1, are as they should be.
    from imagearchive.index.sample_keys import key_ends

    begins = table.name_offsets[rows]
    sizes = key_ends(table.names, table.name_offsets)[rows]
    skip = np.uint64(len(first.field.pattern.alternatives[0][0]))
    text, offsets = take_parts(table.names, begins + skip, begins + np.maximum(sizes, skip))
    groups = archive_numbers(first.field.archive, first.dotted)
    keys = SortedKeys(text, offsets, sort_names(text, offsets), groups)
    lost = np.flatnonzero(keys.find_in(first.sorted_keys(True)) < 0)
    if len(lost):
        logger.warning(
            "%s: %s such as %r would match the pattern %r, but for an earlier dot in the name, at "
            "which WebDataset's keys end, and no sample has them. Pass first_dot=False if keys "
            "end at the last dot",
            first.field.archive.path,
            pluralize(len(lost), "member", grouped=True),
            first.field.archive.name(int(rows[lost[0]])),
            first.field.pattern.text,
        )


def _log_unused(candidates: _Candidates, positions: npt.NDArray[np.int64]) -> None:
    unused = len(candidates) - int((positions >= 0).sum())
    if unused > 0:
        logger.info(
            "%s: no sample has %s of the field %r (%r)",
            candidates.field.archive.path,
            pluralize(unused, "member", grouped=True),
            candidates.field.name,
            candidates.field.pattern.text,
        )


def _assemble(
    fields: Sequence[FieldMembers],
    samples: _Keys,
    columns: list[npt.NDArray[np.int64]],
    missing: Missing,
    select: Select | None,
) -> Pairing:
    largest = max(len(field.archive.table) for field in fields)
    positions = np.empty((len(columns), len(samples)), np.int32 if largest < 1 << 31 else np.int64)
    for number, column in enumerate(columns):
        positions[number] = column
    kept = None
    if select is not None:
        kept = np.flatnonzero(select(positions))
        positions = np.ascontiguousarray(positions[:, kept])
    absent = positions < 0
    if not absent.any():
        return Pairing(positions, kept=kept)
    numbers = np.arange(len(samples)) if kept is None else kept
    if missing == "error":
        raise _missing_parts(fields, samples, numbers, absent)
    if missing == "skip":
        whole = ~absent.any(axis=0)
        if not whole.any():
            raise _missing_parts(fields, samples, numbers, absent)
        positions = np.ascontiguousarray(positions[:, whole])
        return Pairing(positions, skipped=int((~whole).sum()), kept=numbers[whole])
    nothing = absent.all(axis=0)
    if nothing.any():
        key = samples.key(int(numbers[np.flatnonzero(nothing)[0]]))
        raise LabelError(
            f"no field has a member for {pluralize(int(nothing.sum()), 'key', grouped=True)} of "
            f"keys=, such as {key!r}; is the right prefix in the pattern "
            f"{fields[0].pattern.text!r}?"
        )
    incomplete = tuple(np.flatnonzero(absent.any(axis=1)).tolist())
    return Pairing(positions, incomplete=incomplete, kept=kept)


def _missing_parts(
    fields: Sequence[FieldMembers],
    samples: _Keys,
    numbers: npt.NDArray[np.int64],
    absent: npt.NDArray[np.bool_],
) -> LabelError:
    parts = []
    for field, mask in zip(fields, absent):
        lost = np.flatnonzero(mask)
        if len(lost):
            keys = ", ".join(repr(samples.key(int(number))) for number in numbers[lost[:SHOWN]])
            parts.append(
                f"the field {field.name!r} ({field.pattern.text!r} in {field.archive.path}) has no "
                f"member for {len(lost):,} of {pluralize(len(numbers), 'sample', grouped=True)}, "
                f"such as {keys}"
            )
    return LabelError("; ".join(parts), hints=SKIP_OR_NONE)
