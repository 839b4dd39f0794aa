"""A large JSON object, read piece by piece with the standard library's decoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, TextIO

from imagearchive.errors import LabelError

__all__ = ["JsonStream"]

# Characters that are read at a time.
WINDOW: Final = 1 << 20
# A guard against files that are not what their name says; far above any real value.
MAX_VALUE: Final = 1 << 25


class JsonStream:
    """Reads a JSON object member by member, and its lists element by element.

    Parameters
    ----------
    path : str
        What to call the file in messages.
    file : text file
        Where to read; the caller closes it.

    Raises
    ------
    LabelError
        By every method: the text is not JSON, not UTF-8, or nested too deeply, or one of its values
        is longer than any annotation.
    """

    def __init__(self, path: str, file: TextIO) -> None:
        self.path = path
        self._file = file
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        # The line of the character at `_line_at`.
        self._line = 1
        self._line_at = 0
        self._end = False

    def where(self, position: int | None = None) -> str:
        """File and line, for messages."""
        self._line += self._text.count("\n", self._line_at, self._at)
        self._line_at = self._at
        beyond = 0 if position is None else self._text.count("\n", self._at, position)
        return f"{self.path}, line {self._line + beyond}"

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end of the file."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in " \t\r\n":
                at += 1
            self._at = at
            if at < len(text) or not self._fill(WINDOW):
                return text[at : at + 1] if at < len(text) else ""

    def members(self) -> Iterator[str]:
        """Yield the keys of the object; the caller takes each value before it goes on."""
        self._take("{", "an object")
        if self.peek() == "}":
            self._at += 1
        else:
            while True:
                if self.peek() != '"':
                    raise self._broken("a quoted key")
                key = self.value()
                self._take(":", "':'")
                yield key
                if self._separator("}"):
                    break
        if self.peek():
            raise self._broken("the end of the file")

    def elements(self) -> Iterator[tuple[Any, str]]:
        """Yield the elements of the list that comes next, each with its file and line."""
        self._take("[", "a list")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            self.peek()
            where = self.where()
            yield self.value(), where
            if self._separator("]"):
                return

    def value(self) -> Any:
        """Return the value that comes next, whole."""
        self.peek()
        window = WINDOW
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Either broken or cut by the window; only the end of the file tells.
                if self._grow(window):
                    window *= 2
                    continue
                raise LabelError(
                    f"{self.where(error.pos)}: not valid JSON: {error.msg}; the file is broken or "
                    f"incomplete"
                ) from None
            except (RecursionError, ValueError) as error:
                raise LabelError(f"{self.where()}: not usable JSON: {error}") from None
            # A number at the end of the window may go on behind it: "1" is also what "1e+" gives.
            if end + 3 > len(self._text) and self._grow(window):
                continue
            self._at = end
            return value

    def _separator(self, closing: str) -> bool:
        char = self.peek()
        if char not in (",", closing) or not char:
            raise self._broken(f"',' or '{closing}'")
        self._at += 1
        return char == closing

    def _take(self, char: str, what: str) -> None:
        if self.peek() != char:
            raise self._broken(what)
        self._at += 1

    def _broken(self, expected: str) -> LabelError:
        char = self.peek()
        found = repr(char) if char else "the end of the file"
        return LabelError(
            f"{self.where()}: not valid JSON: expected {expected}, got {found}; the file is broken "
            f"or incomplete"
        )

    def _grow(self, count: int) -> bool:
        if len(self._text) - self._at > MAX_VALUE:
            raise LabelError(
                f"{self.where()}: one value is longer than {MAX_VALUE} characters; is this "
                f"an annotation file?"
            )
        return self._fill(count)

    def _fill(self, count: int) -> bool:
        if self._end:
            return False
        try:
            more = self._file.read(count)
        except UnicodeDecodeError as error:
            raise LabelError(f"{self.where()}: not UTF-8: {error}") from None
        if not more:
            # Positions stay as they are: a caller may hold one.
            self._end = True
            return False
        self._line += self._text.count("\n", self._line_at, self._at)
        self._text = self._text[self._at :] + more
        self._at = self._line_at = 0
        return True
