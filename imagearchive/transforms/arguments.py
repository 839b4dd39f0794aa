"""Checks of the arguments of transforms: each says which argument is wrong and what is right."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from imagearchive.errors import OptionError, OptionTypeError

__all__ = [
    "Values",
    "bytes_of",
    "choice",
    "interval",
    "is_number",
    "margins",
    "number",
    "pair",
    "probability",
    "side",
    "spread",
    "values",
    "whole",
]

#: One number for all channels, or one for each.
Values = float | tuple[float, ...]

# The native code counts in it; see Geometry.
MAX_SIDE = (1 << 24) - 1


def is_number(value: object) -> bool:
    """Whether it is a number, NumPy's scalars included and truth values not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def number(value: Any, name: str) -> float:
    """Check a finite number; whole ones stay `int`, which is how they are shown."""
    if not is_number(value):
        raise OptionTypeError(f"{name}={value!r}: needs a number")
    if not math.isfinite(value):
        raise OptionError(f"{name}={value!r}: needs a finite number")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def whole(value: Any, name: str, least: int, most: int = MAX_SIDE) -> int:
    """Check a whole number in [least, most]."""
    if not (is_number(value) and isinstance(value, numbers.Integral)):
        raise OptionTypeError(f"{name}={value!r}: needs a whole number")
    result = int(value)
    if not least <= result <= most:
        raise OptionError(f"{name}={value!r}: needs a whole number from {least} to {most}")
    return result


def side(value: Any, name: str) -> int:
    """Check a width or height in pixels."""
    if not (is_number(value) and isinstance(value, numbers.Integral)):
        hint = "; give width and height as two arguments" if isinstance(value, Sequence) else ""
        raise OptionTypeError(f"{name}={value!r}: a size is a whole number of pixels{hint}")
    return whole(value, name, 1)


def _items(value: Any, name: str, wanted: str) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)):
        raise OptionTypeError(f"{name}={value!r}: needs {wanted}")
    try:
        return tuple(value)
    except TypeError:
        raise OptionTypeError(f"{name}={value!r}: needs {wanted}") from None


def pair(value: Any, name: str) -> tuple[int, int]:
    """Check one size for both sides, or width and height."""
    if is_number(value) or isinstance(value, (bool, str, bytes)):
        return side(value, name), side(value, name)
    both = _items(value, name, "one size, or width and height")
    if len(both) != 2:
        raise OptionError(f"{name}={value!r}: needs one size, or width and height")
    return side(both[0], name), side(both[1], name)


def interval(
    value: Any, name: str, low: float = -math.inf, high: float = math.inf
) -> tuple[float, float]:
    """Check two ordered, finite numbers inside [low, high]."""
    bounds = "" if low == -math.inf else f", from {low} on"
    bounds = f", inside [{low}, {high}]" if high < math.inf else bounds
    wanted = f"two finite numbers, the smaller first{bounds}"
    both = _items(value, name, wanted)
    if not all(is_number(v) for v in both):
        raise OptionTypeError(f"{name}={value!r}: needs {wanted}")
    # Written so that NaN fails.
    if len(both) != 2 or not (low <= both[0] <= both[1] <= high and math.isfinite(sum(both))):
        raise OptionError(f"{name}={value!r}: needs {wanted}")
    return float(both[0]), float(both[1])


def probability(value: Any, name: str = "p") -> float:
    """Check a probability."""
    value = number(value, name)
    if not 0.0 <= value <= 1.0:
        raise OptionError(f"{name}={value!r}: a probability lies between 0 and 1")
    return float(value)


def choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Check one of several words."""
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"{name}={value!r}: choose one of {', '.join(map(repr, choices))}")
    return value


def values(value: Any, name: str) -> Values:
    """Check one number for all channels, or one for each of 1, 3 or 4."""
    if is_number(value):
        return number(value, name)
    wanted = "one number, or one for each channel (1, 3 or 4)"
    several = _items(value, name, wanted)
    if len(several) not in (1, 3, 4):
        raise OptionError(f"{name}={value!r}: needs {wanted}")
    return tuple(number(v, name) for v in several)


def spread(value: Values, channels: int, name: str) -> tuple[float, ...]:
    """Checked `values` as one for each channel of an image; more than it has are left out."""
    several = value if isinstance(value, tuple) else (value,)
    if len(several) == 1:
        several *= channels
    if len(several) < channels:
        raise OptionError(f"{name}={value!r}: the image has {channels} channels")
    return several[:channels]


def bytes_of(several: Sequence[float]) -> tuple[int, ...]:
    """Rounded and clipped for 8-bit pixels."""
    return tuple(min(255, max(0, round(v))) for v in several)


def margins(value: Any, name: str) -> tuple[int, int, int, int]:
    """Check padding: all sides, (left and right, top and bottom) or (left, top, right, bottom)."""
    wanted = "pixels for all sides, (left and right, top and bottom), or all four"
    several = (value,) if is_number(value) else _items(value, name, wanted)
    if len(several) not in (1, 2, 4):
        raise OptionError(f"{name}={value!r}: needs {wanted}")
    left, top, right, bottom = (whole(v, name, 0) for v in several * (4 // len(several)))
    return left, top, right, bottom
