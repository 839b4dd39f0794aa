"""Every exception that the library raises on purpose.

Each derives from `ImageArchiveError` and from the built-in exception that it resembles, so code
written against the built-in (``except KeyError``) keeps working.
"""

__all__ = [
    "ArchiveNotFoundError",
    "ClosedError",
    "CorruptArchiveError",
    "CorruptIndexError",
    "DecodeError",
    "ImageArchiveError",
    "LabelError",
    "LimitError",
    "MemberNotFoundError",
    "MissingDependencyError",
    "OptionError",
    "OptionTypeError",
    "SampleIndexError",
    "StaleIndexError",
    "StateMismatchError",
    "UnsafePathError",
    "UnsafePickleError",
    "UnsupportedArchiveError",
    "UnsupportedMemberError",
    "WorkerError",
]


class ImageArchiveError(Exception):
    """Base of all exceptions of this library."""


class ArchiveNotFoundError(ImageArchiveError, FileNotFoundError):
    """No archive lies at the given path."""


class ClosedError(ImageArchiveError, ValueError):
    """An archive, dataset or loader was used after ``close()``."""


class CorruptArchiveError(ImageArchiveError, ValueError):
    """The bytes of an archive contradict its format; the message names file and offset."""


class CorruptIndexError(ImageArchiveError, ValueError):
    """An index file is damaged; deleting it makes the next open rebuild it."""


class DecodeError(ImageArchiveError, ValueError):
    """A member was read, but its content could not be decoded."""


class LabelError(ImageArchiveError, ValueError):
    """A label file, annotation file or split does not fit the archive."""


class LimitError(ImageArchiveError, ValueError):
    """Input would exceed a limit that guards memory; the message says how to raise it."""


class MemberNotFoundError(ImageArchiveError, KeyError):
    """No member of that name; the message names the closest match."""

    # KeyError prints the repr of its argument, which hides line breaks and adds quotes.
    __str__ = Exception.__str__


class MissingDependencyError(ImageArchiveError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class OptionError(ImageArchiveError, ValueError):
    """An argument has a value that cannot be used."""


class OptionTypeError(ImageArchiveError, TypeError):
    """An argument has a type that cannot be used."""


class SampleIndexError(ImageArchiveError, IndexError):
    """A sample index lies beyond the dataset."""


class StaleIndexError(ImageArchiveError, RuntimeError):
    """The archive changed after the index that was given for it was built."""


class StateMismatchError(ImageArchiveError, ValueError):
    """A saved loader state belongs to other data or another order."""


class UnsafePathError(ImageArchiveError, ValueError):
    """A member would be written outside the target directory."""


class UnsafePickleError(ImageArchiveError, ValueError):
    """A pickle names something other than plain data; nothing of it was executed."""


class UnsupportedArchiveError(ImageArchiveError, ValueError):
    """The file is not of a kind that can be indexed; the message says what to do."""


class UnsupportedMemberError(ImageArchiveError, NotImplementedError):
    """A member is stored in a way that cannot be read (encryption, unknown compression)."""


class WorkerError(ImageArchiveError, RuntimeError):
    """A worker thread or process failed or died."""
