"""Keys in names, and their join, against Python's strings and dictionaries."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from random import Random
from typing import ClassVar

import numpy as np

from fuzz.harness import Harness, check
from fuzz.mutation import INTERESTING, mutate
from imagearchive.index.key_join import MOST_REPEATS, SortedKeys, match_names
from imagearchive.index.name_order import sort_names
from imagearchive.index.names import take_parts

_MOST_NAMES = 64


class KeyJoin(Harness):
    """Matches names with two patterns, and joins the keys.

    The first line of an input are options: ``d`` follows WebDataset, ``g`` tells archives apart,
    ``m`` spoils a number of the columns. The next two are patterns with ``*`` for the key, and the
    rest are names.
    """

    name = "key_join"
    smoke_runs = 60_000
    max_size = 1 << 12
    tokens: ClassVar[tuple[bytes, ...]] = (
        b"\n", b"*", b"/", b".", b"__", b"a/", b".jpg", b"__meta__/", b"\0", b"\xff", b"d", b"g",
        b"aa", b"*/*", b".JPG",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return names of images and masks in the usual layouts."""
        stems = [b"a", b"b", b"b.c", b".h", b"d/e", b"d/e.f", b"__meta__/g", b"\xc3\xbc"]
        for options in (b"", b"d", b"g", b"dg", b"m1 3", b"m2 18446744073709551615"):
            for first, second in ((b"*.jpg", b"*.png"), (b"x/*.jpg", b"y/*/*.PNG"), (b"*", b"a*")):
                names = [pattern.replace(b"*", s) for s in stems for pattern in (first, second)]
                yield b"\n".join([options, first, second, *names])

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, or shuffle, repeat, and exchange lines."""
        if rng.random() < 0.5:
            return mutate(rng, data, other, self.tokens)
        lines = data.split(b"\n")
        for _ in range(rng.choice((1, 2, 4))):
            kind, at = rng.random(), rng.randrange(len(lines))
            if kind < 0.1:
                lines[0] = b"m%d %d" % (rng.randrange(200), rng.choice(INTERESTING))
            elif kind < 0.4:
                lines.insert(rng.randrange(len(lines) + 1), lines[at])
            elif kind < 0.6:
                rest = lines[3:]
                rng.shuffle(rest)
                lines[3:] = rest
            else:
                lines[at] = mutate(rng, lines[at], rng.choice(other.split(b"\n")), self.tokens)
        return b"\n".join(lines)

    def run(self, data: bytes) -> Hashable:
        """Match and join; Python must do the same."""
        options, *lines = data.split(b"\n")
        patterns = [line.split(b"*")[: MOST_REPEATS + 1] for line in (*lines[:2], b"*", b"*")[:2]]
        patterns = [one if len(one) > 1 else [one[0], b""] for one in patterns]
        names = lines[2 : 2 + _MOST_NAMES]
        text, offsets = _columns(names)
        if options.startswith(b"m"):
            return _run_spoiled(options, text, offsets, patterns)
        first_dot = b"d" in options
        groups = np.arange(len(names), dtype=np.int64) // 3 if b"g" in options else None
        sides = []
        for literals in patterns:
            rows, starts, ends, dotted = match_names(text, offsets, literals, first_dot)
            keys, key_offsets = take_parts(text, starts, ends)
            found = [keys[start:end].tobytes() for start, end in zip(key_offsets, key_offsets[1:])]
            matched, refused = _match(names, literals, first_dot)
            check(dict(zip(rows.tolist(), found)) == matched, "other names match")
            check(len(found) == len(matched), "a name matches twice")
            check(dotted.tolist() == refused, "other names have an early dot")
            groups_of = None if groups is None else groups[rows]
            order = sort_names(keys, key_offsets)
            labeled = list(zip(found, [0] * len(found) if groups is None else groups_of.tolist()))
            sides.append((SortedKeys(keys, key_offsets, order, groups_of), labeled))
        (one, own), (other, theirs) = sides
        check(one.find_in(other).tolist() == _find(own, theirs), "the join differs")
        check(other.find_in(one).tolist() == _find(theirs, own), "the join back differs")
        pairs = sorted(map(tuple, one.repeated().tolist()))
        check(pairs == _repeated(own), "other keys are repeated")
        return first_dot, groups is None, min(len(own), 4), min(len(theirs), 4), len(pairs) > 0


def _columns(names: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(names) + 1, np.uint64)
    np.cumsum([len(name) for name in names], out=offsets[1:])
    return np.frombuffer(b"".join(names), np.uint8), offsets


def _run_spoiled(
    options: bytes, text: np.ndarray, offsets: np.ndarray, patterns: list[list[bytes]]
) -> Hashable:
    """Set one number of the columns to any value: it is refused, or nothing is read beyond them."""
    fields = [int(field) for field in options[1:].split()[:2] if field.isdigit()]
    place, value = (*fields, 0, 0)[:2]
    order = sort_names(text, offsets)
    ends = offsets[1:].copy()
    columns = [offsets, order, ends]
    column = columns[place % 3]
    if len(column):
        column[place // 3 % len(column)] = value % (1 << 64)
    take_parts(text, offsets[:-1], ends)
    rows, starts, ends, _ = match_names(text, offsets, patterns[0], bool(place & 1))
    take_parts(text, starts, ends)
    keys = SortedKeys(text, offsets, order)
    keys.find_in(keys)
    keys.repeated()
    return "spoiled", place % 3, len(rows) > 0


def _match(
    names: list[bytes], literals: list[bytes], first_dot: bool
) -> tuple[dict[int, bytes], list[int]]:
    """Return the key of each row that matches, and the rows that only an early dot excludes."""
    matched: dict[int, bytes] = {}
    refused: list[int] = []
    repeats, fixed = len(literals) - 1, sum(map(len, literals))
    for row, name in enumerate(names):
        size, rest = divmod(len(name) - fixed, repeats)
        key_end = len(literals[0]) + size
        key = name[len(literals[0]) : key_end]
        whole = key.join(literals[:-1]) + key
        if rest or size < 1 or name[: len(whole)] != whole:
            continue
        if name[len(whole) :].lower() != literals[-1].lower():
            continue
        if first_dot:
            top = name.partition(b"/")[0]
            reserved = len(top) >= 4 and top[:2] == b"__" == top[-2:]
            if name[:key_end].rpartition(b"/")[2].startswith(b".") or (
                reserved and not literals[0]
            ):
                continue
            if b"." in key.rpartition(b"/")[2][1:]:
                refused.append(row)
                continue
        matched[row] = key
    return matched, refused


def _find(own: list[tuple[bytes, int]], others: list[tuple[bytes, int]]) -> list[int]:
    places: dict[tuple[bytes, int], int] = {}
    for place, key in enumerate(others):
        places.setdefault(key, place)
    return [places.get(key, -1) for key in own]


def _repeated(keys: list[tuple[bytes, int]]) -> list[tuple[int, int]]:
    last: dict[tuple[bytes, int], int] = {}
    pairs = []
    for row, key in enumerate(keys):
        if key in last:
            pairs.append((last[key], row))
        last[key] = row
    return sorted(pairs)
