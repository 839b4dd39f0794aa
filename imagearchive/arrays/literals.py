"""Parses the Python literals in ``.npy`` headers, in one pass and without `ast`.

Only what headers consist of is accepted: dicts, lists, tuples, strings, whole numbers, and the
constants. Time and memory are proportional to the length of the text, and nothing recurses.
"""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = ["parse_literal"]

# Deepest nesting of brackets. Each nested dtype takes three.
_MAX_DEPTH: Final = 48
# No length has more digits, and Python refuses to convert very long numbers.
_MAX_DIGITS: Final = 20

_STRING = r"""[uU]?(?:'[^'\\\n]*(?:\\[^\n][^'\\\n]*)*'|"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*")"""
# Python 2 wrote lengths as 3L.
_TOKEN: Final = re.compile(
    rf"(?P<space>[ \t\r\n]+)|(?P<string>{_STRING})|(?P<open>[\[({{])|(?P<close>[\])}}])"
    r"|(?P<comma>,)|(?P<colon>:)|(?P<number>0|[1-9][0-9]*)[lL]?(?![0-9A-Za-z_.'\"])"
    r"|(?P<constant>True|False|None)(?![0-9A-Za-z_.'\"])"
)
_CONSTANTS: Final = {"True": True, "False": False, "None": None}
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
# The escapes that Python writes.
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<plain>[\\'\"nrt])|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"
    r"|U(?P<U>000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|(?P<other>))"
)
_PLAIN: Final = {"n": "\n", "r": "\r", "t": "\t"}


def parse_literal(text: str) -> Any:
    """Return the value of a Python literal.

    Raises
    ------
    ValueError
        The text is not a literal, or not one of those that headers consist of.
    """
    # The values of the innermost open bracket, those of a dict with their keys before them.
    values: list[Any] = []
    closing = ""
    around: list[tuple[list[Any], str]] = []
    previous = "start"
    position = 0
    while (token := _TOKEN.match(text, position)) is not None:
        kind = token.lastgroup
        if not _may_follow(kind, token[0], previous, values, closing):
            break
        position = token.end()
        if kind == "space":
            continue
        if kind == "string":
            values.append(_string(token[0]))
        elif kind == "number":
            if len(token["number"]) > _MAX_DIGITS:
                raise ValueError(f"the number {token['number']:.30}... is too large")
            values.append(int(token["number"]))
        elif kind == "constant":
            values.append(_CONSTANTS[token[0]])
        elif kind == "open":
            around.append((values, closing))
            if len(around) > _MAX_DEPTH:
                raise ValueError(f"brackets are nested more than {_MAX_DEPTH} deep")
            values, closing = [], _CLOSING[token[0]]
        elif kind == "close":
            value = _bracket(values, closing, previous)
            values, closing = around.pop()
            values.append(value)
        previous = kind if kind in ("open", "comma", "colon") else "value"
    if position != len(text) or around or len(values) != 1:
        raise ValueError(
            f"unexpected text at character {position}: {text[position : position + 20]!r}"
        )
    return values[0]


def _may_follow(
    kind: str | None, token: str, previous: str, values: list[Any], closing: str
) -> bool:
    """Whether a token may come after the previous one that is not space."""
    if kind == "space":
        return True
    if kind == "close":
        ends_with_value = closing != "}" or len(values) % 2 == 0
        return token == closing and previous != "colon" and ends_with_value
    if kind in ("comma", "colon"):
        after_key = closing == "}" and len(values) % 2 == 1
        return previous == "value" and closing != "" and after_key == (kind == "colon")
    return previous != "value"


def _bracket(values: list[Any], closing: str, previous: str) -> Any:
    if closing == "]":
        return values
    if closing == ")":
        return values[0] if len(values) == 1 and previous == "value" else tuple(values)
    # Others could be chosen to have equal hashes.
    if not all(isinstance(key, str) for key in values[::2]):
        raise ValueError("a key of a dict is not a string")
    return dict(zip(values[::2], values[1::2], strict=True))


def _string(token: str) -> str:
    text = token[2:-1] if token[0] in "uU" else token[1:-1]
    return _ESCAPE.sub(_unescape, text) if "\\" in text else text


def _unescape(match: re.Match[str]) -> str:
    if match["plain"]:
        return _PLAIN.get(match["plain"], match["plain"])
    digits = match["x"] or match["u"] or match["U"]
    if digits is None:
        raise ValueError(f"unsupported escape in a string: {match.string[match.start() :][:10]!r}")
    return chr(int(digits, 16))
