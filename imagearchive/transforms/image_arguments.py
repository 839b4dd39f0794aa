"""Checks of arguments that only images have: sizes, padding, fill values, random bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_integer, check_number, check_sequence, is_number
from imagearchive.errors.plurals import pluralize

__all__ = [
    "MAX_SIDE",
    "ChannelValues",
    "Fill",
    "check_channel_values",
    "check_interval",
    "check_margins",
    "check_probability",
    "check_side",
    "check_size",
    "expand_channels",
    "four_values",
    "round_to_bytes",
]

#: One number for all channels, or one for each: as checked, and as the caller passes it.
ChannelValues = float | tuple[float, ...]
Fill = float | Sequence[float]

#: The longest side in pixels that the native code can count; see `Geometry`.
MAX_SIDE = (1 << 24) - 1


def check_side(name: str, value: Any) -> int:
    """Check a width or height in pixels."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        raise OptionTypeError(
            f"{name} must be an integer, got {value!r}; pass width and height as two arguments"
        )
    return check_integer(name, value, 1, MAX_SIDE)


def check_size(name: str, value: Any) -> tuple[int, int]:
    """Check the length of both sides, or (width, height)."""
    if is_number(value):
        return check_side(name, value), check_side(name, value)
    expected = "an integer or (width, height)"
    both = check_sequence(name, value, expected)
    if len(both) != 2:
        raise OptionError(f"{name} must be {expected}, got {value!r}")
    return check_side(name, both[0]), check_side(name, both[1])


def check_interval(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf
) -> tuple[float, float]:
    """Check two finite numbers in ascending order, neither outside [low, high]."""
    bounds = "" if low == -math.inf else f" of at least {low}"
    bounds = f" from {low} to {high}" if high < math.inf else bounds
    expected = f"two numbers{bounds}, the smaller first"
    both = check_sequence(name, value, expected)
    if not all(is_number(v) for v in both):
        raise OptionTypeError(f"{name} must be {expected}, got {value!r}")
    # Written so that NaN fails.
    if len(both) != 2 or not (low <= both[0] <= both[1] <= high and math.isfinite(sum(both))):
        raise OptionError(f"{name} must be {expected}, got {value!r}")
    return float(both[0]), float(both[1])


def check_probability(name: str, value: Any) -> float:
    """Check a probability."""
    return float(check_number(name, value, 0, 1))


def check_channel_values(name: str, value: Any) -> ChannelValues:
    """Check one number for all channels, or one for each of 1, 3 or 4 channels."""
    if is_number(value):
        return check_number(name, value)
    expected = "one number, or one for each channel (1, 3 or 4)"
    numbers = check_sequence(name, value, expected)
    if len(numbers) not in (1, 3, 4):
        raise OptionError(f"{name} must be {expected}, got {value!r}")
    return tuple(check_number(name, v) for v in numbers)


def check_margins(name: str, value: Any) -> tuple[int, int, int, int]:
    """Check padding; return it as (left, top, right, bottom).

    Accepted are one number for all sides, (left and right, top and bottom), or all four.
    """
    expected = "one, two or four integers"
    numbers = (value,) if is_number(value) else check_sequence(name, value, expected)
    if len(numbers) not in (1, 2, 4):
        raise OptionError(f"{name} must be {expected}, got {value!r}")
    left, top, right, bottom = (
        check_integer(name, v, 0, MAX_SIDE) for v in numbers * (4 // len(numbers))
    )
    return left, top, right, bottom


def expand_channels(name: str, values: ChannelValues, channels: int) -> tuple[float, ...]:
    """Return one number for each channel of an image; values beyond its channels are left out."""
    numbers = values if isinstance(values, tuple) else (values,)
    if len(numbers) == 1:
        numbers *= channels
    if len(numbers) < channels:
        raise OptionError(
            f"{name} has {pluralize(len(numbers), 'value')}, but the image has "
            f"{pluralize(channels, 'channel')}"
        )
    return numbers[:channels]


def round_to_bytes(values: Sequence[float]) -> tuple[int, ...]:
    """Round and clip numbers for 8-bit pixels."""
    return tuple(min(255, max(0, round(v))) for v in values)


def four_values(fill: ChannelValues) -> tuple[float, ...]:
    """Return one number for each of four channels, or as many as the caller passed."""
    values = fill if isinstance(fill, tuple) else (fill,)
    return values * 4 if len(values) == 1 else values
