"""Numbers with their nouns, as messages, reprs, and commands say them."""

from __future__ import annotations

__all__ = ["plural_of", "pluralize"]


def pluralize(number: int, singular: str, plural: str = "", *, grouped: bool = False) -> str:
    """Return a number with its noun: ``1 file``, ``2 files``.

    Parameters
    ----------
    number : int
    singular : str
        May end with what follows the noun, if `plural` does, too.
    plural : str
        By default `plural_of` the singular.
    grouped : bool
        Separate thousands by commas: ``20,000 files``.
    """
    shown = f"{number:,}" if grouped else str(number)
    return f"{shown} {singular if number == 1 else plural or plural_of(singular)}"


def plural_of(noun: str) -> str:
    """Return the plural of a regular noun: ``files``, ``classes``, ``directories``."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in set("aeiou"):
        return noun[:-1] + "ies"
    return noun + "s"
