"""Changes inputs at random, whatever their format."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

# Around the limits of integers of every width, and of the sizes that the package compares with.
INTERESTING = tuple(
    sorted(
        {
            (1 << bits) + delta
            for bits in (0, 3, 7, 8, 9, 15, 16, 20, 24, 26, 30, 31, 32, 33, 40, 47, 62, 63, 64)
            for delta in (-1, 0, 1)
        }
    )
)
_DIGITS = re.compile(rb"[0-9]+")


def flip_bit(rng: Random, data: bytearray) -> None:
    """Flip one bit."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_byte(rng: Random, data: bytearray) -> None:
    """Set one byte to any value."""
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def set_integer(rng: Random, data: bytearray) -> None:
    """Write an integer near a limit."""
    width = rng.choice((1, 2, 4, 4, 8, 8))
    at = rng.randrange(len(data))
    if rng.random() < 0.7:
        at -= at % width
    value = rng.choice(INTERESTING) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def add_to_integer(rng: Random, data: bytearray) -> None:
    """Change an integer by a little."""
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data))
    if rng.random() < 0.7:
        at -= at % width
    order = rng.choice(("little", "big"))
    value = int.from_bytes(data[at : at + width], order)
    value += rng.choice((-1, 1)) * rng.choice((1, 2, 3, 8, 16, 64, 512))
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)


def set_number(rng: Random, data: bytearray) -> None:
    """Replace decimal digits by another number."""
    found = [match.span() for match in _DIGITS.finditer(data)]
    if not found:
        return set_byte(rng, data)
    start, end = rng.choice(found)
    text = b"%d" % rng.choice(INTERESTING)
    if rng.random() < 0.5:
        # The same length, which fields of fixed width need.
        text = text[: end - start].rjust(end - start, b"0")
    elif rng.random() < 0.2:
        text = rng.choice((b"-1", b"1e999", b"nan", b"0x10", b"1_0", b"9" * 30, b""))
    data[start:end] = text
    return None


def remove_range(rng: Random, data: bytearray) -> None:
    """Remove some bytes."""
    start, end = _range(rng, len(data))
    del data[start:end]


def truncate(rng: Random, data: bytearray) -> None:
    """Remove the end."""
    del data[rng.randrange(len(data)) :]


def repeat_range(rng: Random, data: bytearray) -> None:
    """Insert some bytes of the input again, a few times or many."""
    start, end = _range(rng, len(data))
    times = rng.choice((1, 1, 2, 3, 50, 1000))
    at = rng.choice((start, end, rng.randrange(len(data) + 1)))
    data[at:at] = bytes(data[start:end]) * min(times, 1 + (1 << 15) // max(1, end - start))


def overwrite_range(rng: Random, data: bytearray) -> None:
    """Overwrite some bytes by others of the input, zeros or noise."""
    start, end = _range(rng, len(data))
    size = end - start
    source = rng.randrange(len(data))
    new = rng.choice((bytes(size), rng.randbytes(size), bytes(data[source : source + size])))
    data[start : start + len(new)] = new


def insert_bytes(rng: Random, data: bytearray) -> None:
    """Insert zeros or noise."""
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 2, 4, 8, 100))
    data[at:at] = rng.choice((bytes(size), rng.randbytes(size), b"\xff" * size))


_CHANGES: Sequence[Callable[[Random, bytearray], None]] = (
    flip_bit,
    flip_bit,
    set_byte,
    set_byte,
    set_integer,
    set_integer,
    add_to_integer,
    set_number,
    remove_range,
    truncate,
    repeat_range,
    overwrite_range,
    insert_bytes,
)


def _range(rng: Random, length: int) -> tuple[int, int]:
    start = rng.randrange(length)
    longest = length - start
    size = rng.choice((1, 2, 4, 8, 16, 64, 512, longest))
    return start, start + min(size, longest)


def mutate(rng: Random, data: bytes, other: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """Return a copy of `data` with one to eight changes, some of which take parts of `other`."""
    changed = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        kind = rng.random()
        if not changed:
            changed += other or b"\0"
        elif tokens and kind < 0.2:
            token = rng.choice(tokens)
            at = rng.randrange(len(changed) + 1)
            changed[at : at + rng.choice((0, len(token)))] = token
        elif kind < 0.25 and other:
            start, end = _range(rng, len(other))
            at = rng.randrange(len(changed) + 1)
            changed[at : at + rng.choice((0, end - start))] = other[start:end]
        else:
            rng.choice(_CHANGES)(rng, changed)
    return bytes(changed)
