"""Patterns of member names with ``{key}``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from imagearchive.archive.name_tree import decode, encode
from imagearchive.errors import OptionError
from imagearchive.index.key_join import MOST_REPEATS

__all__ = ["Pattern"]

PLACEHOLDER: Final = "{key}"
_OTHER_BRACES: Final = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Pattern:
    """A pattern of names: alternatives, each with at least one ``{key}``.

    Attributes
    ----------
    text : str
        As given.
    alternatives : tuple of tuple of bytes
        Of each alternative, the text before the first key, between each two, and after the last.
    """

    text: str
    alternatives: tuple[tuple[bytes, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parse a pattern such as ``"images/{key}.jpg|png"``.

        An alternative without ``{key}`` takes the place of what follows the last dot of the first
        one.

        Raises
        ------
        OptionError
            The pattern has no ``{key}``, or other braces.
        """
        first, *others = text.split("|")
        if PLACEHOLDER not in first:
            raise OptionError(
                f"the pattern {text!r} has no {{key}}; write it where the names of the members "
                f"differ, as in 'images/{{key}}.jpg'"
            )
        whole = [first]
        for other in others:
            if PLACEHOLDER in other:
                whole.append(other)
                continue
            stem, dot, _ = first.rpartition(".")
            if not other.strip(".") or not dot or PLACEHOLDER not in stem:
                raise OptionError(
                    f"the alternative {other!r} of the pattern {text!r} must be an extension or "
                    f"have a {{key}} of its own, as in '{{key}}.jpg|png'"
                )
            whole.append(f"{stem}.{other.lstrip('.')}")
        return cls(text, tuple(_literals(one, text) for one in whole))

    @property
    def follows_webdataset(self) -> bool:
        """Whether the key ends where an extension begins, in every alternative."""
        return all(literals[-1].startswith(b".") for literals in self.alternatives)

    @property
    def text_size(self) -> int:
        """How many bytes of a name the pattern fixes at most, the keys left out."""
        return max(sum(map(len, literals)) for literals in self.alternatives)

    def may_share_names(self, other: Pattern) -> bool:
        """Whether a name may match both patterns."""
        return any(
            (a[0].startswith(b[0]) or b[0].startswith(a[0]))
            and (_end(a).endswith(_end(b)) or _end(b).endswith(_end(a)))
            for a in self.alternatives
            for b in other.alternatives
        )

    def key_of(self, name: bytes) -> str | None:
        """Return the key in a name; None if the name does not match."""
        for literals in self.alternatives:
            repeats = len(literals) - 1
            size, rest = divmod(len(name) - sum(map(len, literals)), repeats)
            if size < 1 or rest:
                continue
            start = len(literals[0])
            key = name[start : start + size]
            wanted = key.join(literals)
            end = len(wanted) - len(literals[-1])
            if wanted[:end] == name[:end] and wanted[end:].lower() == name[end:].lower():
                return decode(key)
        return None

    def key_below(self, name: bytes) -> str | None:
        """Return the key in a name that may lack directories at the beginning of the pattern."""
        for literals in self.alternatives:
            start = literals[0]
            while True:
                key = Pattern(self.text, ((start, *literals[1:]),)).key_of(name)
                if key is not None:
                    return key
                _, slash, start = start.partition(b"/")
                if not slash:
                    break
        return None


def _end(literals: tuple[bytes, ...]) -> bytes:
    return literals[-1].lower()


def _literals(text: str, pattern: str) -> tuple[bytes, ...]:
    """Split one alternative at its keys."""
    clean = text
    while clean.startswith(("./", "/")):
        clean = clean.partition("/")[2]
    parts = clean.split(PLACEHOLDER)
    if len(parts) - 1 > MOST_REPEATS:
        raise OptionError(f"the pattern {pattern!r} has more than {MOST_REPEATS} {{key}}")
    braces = next((found for part in parts if (found := _OTHER_BRACES.search(part))), None)
    if braces:
        raise OptionError(
            f"the pattern {pattern!r} has {braces.group()}; {{key}} is the only placeholder, and "
            f"it may hold slashes"
        )
    return tuple(encode(part) for part in parts)
