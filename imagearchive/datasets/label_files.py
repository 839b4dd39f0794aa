"""Index and label files: lines of text that number the images of an archive and label them."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from imagearchive.archive.name_tree import encode
from imagearchive.datasets.ragged_labels import RaggedLabels
from imagearchive.errors import LabelError
from imagearchive.index.names import normalize
from imagearchive.storage.location import locate

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = [
    "LabelParser",
    "inner_position",
    "parse_label_line",
    "read_index_file",
    "read_label_file",
]

logger = logging.getLogger(__name__)

#: From a line of a label file to the image, as a number or a path, and its values. None skips
#: the line.
LabelParser = Callable[[str], "tuple[int | str, Sequence[float]] | None"]


def parse_label_line(line: str) -> tuple[int | str, Sequence[float]]:
    """Parse ``image value value …``, where `image` is the number or the path of an image.

    Raises
    ------
    ValueError
        A value is not a number.
    """
    first, *values = line.split()
    key: int | str = int(first) if first.lstrip("-").isdecimal() else first
    return key, [float(value) for value in values]


def read_index_file(archive: Archive, path: str) -> Iterator[tuple[int, str, str]]:
    """Yield ``(number, path, where)`` for each line ``number path`` of an index file."""
    for line, where in _lines(archive, path):
        number, _, name = line.replace("\t", " ", 1).partition(" ")
        if not (number.isascii() and number.isdecimal() and len(number) < 19 and name.strip()):
            raise LabelError(f"{where}: expected 'number path', got {line[:80]!r}")
        yield int(number), name.strip(), where


def read_label_file(
    archive: Archive,
    path: str,
    count: int,
    resolve: Callable[[int | str], int],
    parser: LabelParser = parse_label_line,
) -> RaggedLabels:
    """Read the labels of `count` samples.

    The values of several lines for one image are appended. The number of unlabeled samples is
    logged.

    Parameters
    ----------
    archive : Archive
        May contain the file.
    path : str
        On disk, or inside the archive as ``archive.tar/inner/path``.
    count : int
        Number of samples.
    resolve : callable
        From the number or path of an image to its sample; -1 if the image is not a sample. Raises
        `LabelError` if the archive has no such image.
    parser : callable
        See `LabelParser`.

    Raises
    ------
    LabelError
        The file cannot be found or parsed, or it labels none of the samples. The message names the
        file and the line.
    """
    samples: list[int] = []
    sizes: list[int] = []
    values: list[float] = []
    for line, where in _lines(archive, path):
        try:
            parsed = parser(line)
            if parsed is None:
                continue
            key, found = parsed
            if not isinstance(key, str):
                key = operator.index(key)
            numbers = [float(value) for value in found]
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise LabelError(
                f"{where}: expected 'image value value …', got {line[:80]!r} ({error}); pass "
                f"label_parser= for lines of another form"
            ) from error
        try:
            sample = resolve(key)
        except LabelError as error:
            raise LabelError(f"{where}: {error}{_form_hint(key, numbers, line)}") from None
        if sample >= 0:
            samples.append(sample)
            sizes.append(len(numbers))
            values.extend(numbers)
    owners = np.array(samples, np.int64)
    unlabeled = count - len(np.unique(owners))
    if unlabeled == count and count:
        raise LabelError(f"{path}: none of the {count} samples is labeled in this file")
    if unlabeled:
        logger.warning("%s: %d of %d samples are not labeled in this file", path, unlabeled, count)
    return RaggedLabels.grouped(owners, np.array(sizes, np.int64), values, count)


def _form_hint(key: int | str, numbers: list[float], line: str) -> str:
    """Return what to do if a line is not of the default form, such as a line of a CSV file."""
    if numbers and "," not in str(key):
        return ""
    return (
        f"; expected 'image value value …', got {line[:80]!r}; pass label_parser= for lines of "
        f"another form, such as CSV"
    )


def _lines(archive: Archive, path: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file that are not blank, each with its name for messages."""
    text = _text(archive, path)
    # Not splitlines(), which also splits at characters that names may contain.
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped:
            yield stripped, f"{path}: line {number}"


def inner_position(archive: Archive, path: str) -> int:
    """Return the position of the member at ``archive.tar/inner/path``; -1 if there is none.

    Parameters
    ----------
    path : str
        Absolute.
    """
    for own in archive.paths:
        if path.startswith(own + "/"):
            position = _last_of_archive(archive, own, path[len(own) + 1 :])
            if position >= 0:
                return position
    return -1


def _last_of_archive(archive: Archive, own: str, name: str) -> int:
    """Return the position of a member of one of the archives; -1 if there is none."""
    lookup = archive.table.lookup
    wanted = normalize(encode(name))
    position = lookup.find(wanted)
    # Several archives may have members of that name. The files of one archive begin with its path.
    while position >= 0 and len(archive.paths) > 1:
        file = archive.info(position).archive
        if file == own or (file.startswith(own) and file not in archive.paths):
            break
        position = lookup.find(wanted, position)
    return position


def _text(archive: Archive, path: str) -> str:
    location = locate(path)
    if location.exists() and location.status().is_file:
        with closing(location.open("pread")) as storage:
            data = bytes(storage.read(0, storage.size))
    else:
        position = inner_position(archive, path)
        if position < 0:
            raise LabelError(
                f"{path}: no such file, neither on disk nor in the archive as ARCHIVE/inner/path"
            )
        data = bytes(archive.read(position))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 text (byte {error.start}); convert it") from None
