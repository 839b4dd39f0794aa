"""Checks of arguments: each returns a plain Python value or raises an error.

Every function takes the argument's name first, then its value. A wrong type raises
`OptionTypeError`, a wrong value `OptionError`; the message says what is allowed.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.plurals import pluralize

__all__ = [
    "check_callable",
    "check_choice",
    "check_flag",
    "check_integer",
    "check_number",
    "check_path",
    "check_sequence",
    "check_size",
    "is_number",
    "shorten",
]

_T = TypeVar("_T")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
# A message shows no more of a value than this.
_SHOWN = 200
# PATH_MAX of Linux: no file has a longer path.
MAX_PATH = 4096


def is_number(value: object) -> bool:
    """Whether `value` is a real number. NumPy scalars are numbers, booleans are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return an integer between `low` and `high`, both included."""
    # Before NumPy 2.3, its booleans are integers, with a warning.
    if isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b":
        raise OptionTypeError(f"{name} must be an integer, got {shorten(value)}")
    try:
        integer = operator.index(value)
    except TypeError:
        raise OptionTypeError(f"{name} must be an integer, got {shorten(value)}") from None
    _check_bounds(name, integer, low, high)
    return integer


def check_size(name: str, value: Any, low: int = 0) -> int:
    """Return a number of bytes, at least `low`.

    It may be text: ``"4096"``, ``"64k"``, ``"1.5MB"``, or ``"1GiB"``; units are powers of 1024.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise OptionError(
                f"{name} must be a number of bytes such as 4096, 64k, 1.5MB or 1GiB, got "
                f"{shorten(value)}"
            )
        amount, unit = match.groups()
        value = int(float(amount) * 1024 ** " kmgt".index(unit.lower() or " "))
    return check_integer(name, value, low)


def check_number(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    finite: bool = True,
) -> float:
    """Return a real number; an integer stays an `int`.

    Parameters
    ----------
    name : str
        Of the argument.
    value : object
        What the caller passed.
    low, high : float, optional
        Bounds, both included.
    above : float, optional
        A lower bound that is not included.
    finite : bool
        Whether infinity is refused. NaN always is.
    """
    if not is_number(value):
        raise OptionTypeError(f"{name} must be a number, got {shorten(value)}")
    if math.isnan(value) or (finite and math.isinf(value)):
        raise OptionError(f"{name} must be a {'finite ' if finite else ''}number, got {value!r}")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if above is not None and number <= above:
        raise OptionError(f"{name} must be greater than {above}, got {number}")
    _check_bounds(name, number, low, high)
    return number


def _check_bounds(name: str, number: float, low: float | None, high: float | None) -> None:
    if low is not None and number < low:
        raise OptionError(f"{name} must be at least {low}, got {number}")
    if high is not None and number > high:
        raise OptionError(f"{name} must be at most {high}, got {number}")


def check_choice(name: str, value: Any, choices: Sequence[_T]) -> _T:
    """Return the one of `choices` that `value` equals. True is not 1, but NumPy's 1 is."""
    for choice in choices:
        kind = numbers.Integral if type(choice) is int else type(choice)
        same_kind = isinstance(value, kind) and isinstance(value, bool) == isinstance(choice, bool)
        if same_kind and value == choice:
            return choice
    *most, last = map(repr, choices)
    allowed = f"{', '.join(most)} or {last}" if most else last
    raise OptionError(f"{name} must be {allowed}, got {shorten(value)}")


def check_flag(name: str, value: Any) -> bool:
    """Return True or False. 0 and 1 are accepted; other objects, such as "no", are not."""
    # Not imported for this: a value is NumPy's only where NumPy is imported.
    numpy_bool = getattr(sys.modules.get("numpy"), "bool_", ())
    if isinstance(value, (numbers.Integral, numpy_bool)) and value in (0, 1):
        return bool(value)
    raise OptionTypeError(f"{name} must be True or False, got {shorten(value)}")


def check_path(name: str, value: Any) -> str:
    """Return the path as text. It need not exist, and may be a pattern.

    Raises
    ------
    OptionTypeError
        It is something else, such as a file object or the content of a file.
    OptionError
        It cannot name a file.
    """
    if hasattr(value, "read") and not isinstance(value, os.PathLike):
        raise OptionTypeError(
            f"{name} must be a path, got the file object {shorten(value)}; pass the path of a file"
        )
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise OptionTypeError(f"{name} must be a path, got {shorten(value)}") from None
    if not path:
        raise OptionError(f"{name} must be a path, got an empty string")
    if isinstance(value, bytes) and ("\0" in path or len(value) > MAX_PATH):
        raise OptionTypeError(
            f"{name} must be a path, got {len(value)} bytes that begin with {value[:16]!r}; "
            f"pass the path of the file that holds them"
        )
    if len(path) > MAX_PATH and "{" not in path:
        raise OptionError(
            f"{name} must be a path, got {pluralize(len(path), 'character')}, and no path has more "
            f"than {MAX_PATH}: {shorten(path)}"
        )
    if "\0" in path:
        raise OptionError(f"{name} must be a path without null characters, got {shorten(value)}")
    return path


def check_callable(name: str, value: Any) -> Callable[..., Any]:
    """Return a function or another object that can be called; classes count."""
    if not callable(value):
        raise OptionTypeError(f"{name} must be callable, got {shorten(value)}")
    result: Callable[..., Any] = value
    return result


def check_sequence(name: str, value: Any, expected: str = "a sequence") -> tuple[Any, ...]:
    """Return the items of an iterable that is not text.

    `expected` describes the argument in the message: "names must be a sequence of names, got 3".
    """
    if not isinstance(value, (str, bytes)):
        try:
            return tuple(value)
        except TypeError:
            pass
    raise OptionTypeError(f"{name} must be {expected}, got {shorten(value)}")


def shorten(value: object) -> str:
    """Return what a message shows of a value: one line of its `repr`."""
    text = " ".join(repr(value).split("\n"))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
