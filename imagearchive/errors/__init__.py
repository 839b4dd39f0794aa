"""Every exception that the library raises on purpose.

Each derives from `ImageArchiveError` and from the built-in exception that it resembles, so code
written against the built-in (``except KeyError``) keeps working.

A message says what is wrong and where. Where an argument of the call would help, it is a
`Hint`, not a part of the message, so that the command line can name its own option instead::

    raise TargetExistsError(f"{path} exists", hints=[Hint("overwrite=True", "to replace it")])

``str(error)`` is then ``"a.tar exists; pass overwrite=True to replace it"``, and the command line
prints "a.tar exists; use --overwrite to replace it". To raise an error again with more context,
keep its hints::

    raise type(error)(f"{name}: {error.message}", hints=error.hints) from error
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import ClassVar

from imagearchive.errors.hints import Hint, with_hints

__all__ = [
    "ArchiveNotFoundError",
    "ClosedError",
    "CorruptArchiveError",
    "CorruptIndexError",
    "DecodeError",
    "ImageArchiveError",
    "IncompleteError",
    "LabelError",
    "LimitError",
    "MemberNotFoundError",
    "MissingDependencyError",
    "OptionError",
    "OptionTypeError",
    "RemoteAccessError",
    "RemoteError",
    "SampleIndexError",
    "StaleIndexError",
    "StateMismatchError",
    "TargetExistsError",
    "TransformError",
    "UnsafePathError",
    "UnsafePickleError",
    "UnsupportedArchiveError",
    "UnsupportedMemberError",
    "WorkerError",
]


class ImageArchiveError(Exception):
    """Base class of all exceptions of this library.

    Parameters
    ----------
    *args
        The message. The middle of what is longer than 2,000 characters is left out.
    hints : iterable of Hint, optional
        The arguments that would help, each an alternative to the others.
    message : str, optional
        The same as the first of `args`.

    Attributes
    ----------
    hints : tuple of Hint
        Survive pickling and copying, as `args` does.
    """

    # A message may quote what it was given: a name, a header, the content of a file.
    _max_message: ClassVar[int] = 2000

    def __init__(
        self, *args: object, hints: Iterable[Hint] = (), message: str | None = None
    ) -> None:
        # PyTorch raises the error of a worker process again by calling its class with `message=`.
        args = args if message is None else (message, *args)
        super().__init__(*(self._shorten(part) if isinstance(part, str) else part for part in args))
        self.hints = tuple(hints)

    @property
    def message(self) -> str:
        """What is wrong and where, without the hints."""
        # Not that of the built-in parent: KeyError prints the repr of its argument.
        return self._shorten(Exception.__str__(self))

    def __str__(self) -> str:
        return with_hints(self.message, self.hints)

    def _shorten(self, message: str) -> str:
        if len(message) <= self._max_message:
            return message
        # The end often says what to do.
        half = self._max_message // 2 - 30
        left_out = len(message) - 2 * half
        return f"{message[:half]} ... {left_out} characters left out ... {message[-half:]}"


class ArchiveNotFoundError(ImageArchiveError, FileNotFoundError):
    """There is no archive at the given path."""


class ClosedError(ImageArchiveError, ValueError):
    """An archive, dataset or loader was used after ``close()``."""


class CorruptArchiveError(ImageArchiveError, ValueError):
    """The bytes of an archive contradict its format; the message names file and offset."""


class CorruptIndexError(ImageArchiveError, ValueError):
    """An index file is damaged; if it is deleted, the next open builds it again."""


class DecodeError(ImageArchiveError, ValueError):
    """A member was read, but its content could not be decoded."""


class IncompleteError(ImageArchiveError, RuntimeError):
    """Some of many archives failed, and all others were done.

    Attributes
    ----------
    failures : tuple of (str, Exception)
        The name of each that failed, and why.
    summary : str
        How many failed.
    """

    failures: tuple[tuple[str, BaseException], ...] = ()
    summary: str = ""

    @classmethod
    def of(
        cls, failures: Sequence[tuple[str, BaseException]], total: int, what: str
    ) -> IncompleteError:
        """Make the error from failures of some of `total` tasks."""
        name, first = failures[0]
        reason = first.message if isinstance(first, ImageArchiveError) else str(first)
        reason = reason.removeprefix(f"{name}: ") or type(first).__name__
        summary = f"{len(failures)} of {total} {what} failed, the others are done"
        error = cls(f"{summary}; the first that failed: {name}: {reason}")
        error.failures = tuple(failures)
        error.summary = summary
        return error


class LabelError(ImageArchiveError, ValueError):
    """A label file, annotation file or split does not fit the archive."""


class LimitError(ImageArchiveError, ValueError):
    """Input exceeds a limit that protects memory; the message says how to raise the limit."""


class MemberNotFoundError(ImageArchiveError, KeyError):
    """No member has that name; the message suggests the closest one."""


class MissingDependencyError(ImageArchiveError, ImportError):
    """An optional package is missing; the message names the extra that installs it."""


class OptionError(ImageArchiveError, ValueError):
    """An argument has an invalid value."""


class OptionTypeError(ImageArchiveError, TypeError):
    """An argument has a wrong type."""


class RemoteError(ImageArchiveError, OSError):
    """A server cannot be reached, or does not answer as it should, after all retries."""

    _number: ClassVar[int] = errno.EIO

    def __init__(
        self, *args: object, hints: Iterable[Hint] = (), message: str | None = None
    ) -> None:
        super().__init__(*args, hints=hints, message=message)
        # An outage is not damage in an archive, which has no number.
        self.errno = self._number
        self.strerror = self.message


class RemoteAccessError(RemoteError, PermissionError):
    """A server refuses access: the credentials are missing, wrong, or have expired."""

    _number: ClassVar[int] = errno.EACCES


class SampleIndexError(ImageArchiveError, IndexError):
    """A sample index is out of range."""


class StaleIndexError(ImageArchiveError, RuntimeError):
    """The archive has changed since its index was built, or while it was open."""


class StateMismatchError(ImageArchiveError, ValueError):
    """A saved loader state belongs to other data or another order."""


class TargetExistsError(ImageArchiveError, FileExistsError):
    """The file or directory to write exists, and the call does not allow replacing it."""


class TransformError(ImageArchiveError, ValueError):
    """An image cannot be transformed as asked, for example because it is smaller than the crop."""


class UnsafePathError(ImageArchiveError, ValueError):
    """A member would be written outside the target directory."""


class UnsafePickleError(ImageArchiveError, ValueError):
    """A pickle contains something other than plain data; none of it was executed."""


class UnsupportedArchiveError(ImageArchiveError, ValueError):
    """The format of the file is not supported; the message says what to do."""


class UnsupportedMemberError(ImageArchiveError, NotImplementedError):
    """A member is stored in a way that cannot be read, such as encrypted."""


class WorkerError(ImageArchiveError, RuntimeError):
    """A worker thread or process failed or died."""

    # Its traceback is part of the message.
    _max_message = 1 << 17
