"""Files that belong to an archive, such as label files: beside it, inside it, or inside another."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagearchive.archive.archive import Archive
from imagearchive.archive.name_tree import encode
from imagearchive.errors import LabelError, MemberNotFoundError
from imagearchive.errors.arguments import check_path
from imagearchive.index.freshness import Signature, signatures
from imagearchive.index.names import normalize
from imagearchive.storage.location import locate

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CompanionFile"]


@dataclass(frozen=True)
class CompanionFile:
    """The path of a file on disk, or inside an archive as ``archive.tar/inner/path``.

    Attributes
    ----------
    given : str
        As the caller wrote it.
    path : str
        Absolute.
    """

    given: str
    path: str

    @classmethod
    def at(cls, argument: str, path: str | os.PathLike[str]) -> CompanionFile:
        """Return the file at a path that was passed as `argument`."""
        given = check_path(argument, path)
        return cls(given, locate(given).path)

    def __str__(self) -> str:
        return self.given

    def position_in(self, archive: Archive) -> int:
        """Return the position of the file in `archive`; -1 if it is not a member."""
        for own, opened in zip(archive.paths, archive.opened_paths):
            if self.path.startswith(own + "/"):
                position = _last_of_archive(archive, opened, self.path[len(own) + 1 :])
                if position >= 0:
                    return position
        if os.path.isabs(self.given) or self._is_on_disk():
            return -1
        # Without the path of the archive.
        lookup, name = archive.table.lookup, normalize(encode(self.given))
        position = int(lookup.find(name))
        if (
            position >= 0
            and len(archive.paths) > 1
            and (earlier := lookup.find(name, position)) >= 0
        ):
            first, last = (archive.info(one).archive for one in (earlier, position))
            raise LabelError(
                f"{self.given}: this file is in {first} and in {last}; write the path of the one "
                f"archive before it: {first}/{self.given}"
            )
        return position

    def _is_on_disk(self) -> bool:
        location = locate(self.path)
        return location.exists() and location.status().is_file

    def signatures(self, archive: Archive) -> dict[str, Signature] | None:
        """Return size and identity of the file that holds the content, by its path.

        It is `archive` or another one if the file is a member. None if there is no such file, or
        its signature is not known.
        """
        if self._is_on_disk():
            holder = self.path
        elif self.position_in(archive) >= 0:
            return dict(archive.table.file_signatures) or None
        else:
            holder = self._containing_file() or ""
        if not holder:
            return None
        seen = signatures([locate(holder)])[0]
        return None if seen is None else {holder: seen}

    def read(self, archive: Archive) -> bytes:
        """Return the content of the file.

        It is searched on disk first, then in `archive`, then in the archive whose path is the
        beginning of its own.

        Raises
        ------
        LabelError
            There is no such file.
        """
        if self._is_on_disk():
            with closing(locate(self.path).open("pread")) as storage:
                return bytes(storage.read(0, storage.size))
        position = self.position_in(archive)
        if position >= 0:
            return bytes(archive.read(position))
        other = self._containing_file()
        if other is not None and other not in archive.paths:
            with Archive(other) as opened:
                try:
                    return bytes(opened.read(self.path[len(other) + 1 :]))
                except MemberNotFoundError as error:
                    raise LabelError(f"{self.given}: {error}") from None
        raise LabelError(
            f"{self.given}: no such file, neither on disk nor in the archive as ARCHIVE/inner/path"
        )

    def _containing_file(self) -> str | None:
        """Return the file whose path is the beginning of this one, or None."""
        location = locate(self.path)
        while location.parent.path != location.path:
            location = location.parent
            if location.exists():
                return location.path if location.status().is_file else None
        return None

    def read_text(self, archive: Archive) -> str:
        """Return the content of the file as text.

        Raises
        ------
        LabelError
            There is no such file, or it is not UTF-8.
        """
        try:
            return self.read(archive).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LabelError(
                f"{self.given}: not UTF-8 text (byte {error.start}); convert it"
            ) from None

    def lines(self, archive: Archive) -> Iterator[tuple[str, str]]:
        """Yield the lines that are not blank, each with its name for messages."""
        # Not splitlines(), which also splits at characters that names may contain.
        for number, line in enumerate(self.read_text(archive).split("\n"), 1):
            stripped = line.strip()
            if stripped:
                yield stripped, f"{self.given}: line {number}"


def _last_of_archive(archive: Archive, opened: str, name: str) -> int:
    """Return the position of a member of one of the archives; -1 if there is none."""
    lookup = archive.table.lookup
    wanted = normalize(encode(name))
    position = lookup.find(wanted)
    # Several archives may have members of that name. The files of one archive begin with its path.
    while position >= 0 and len(archive.paths) > 1:
        file = archive.info(position).archive
        if file == opened or (file.startswith(opened) and file not in archive.opened_paths):
            break
        position = lookup.find(wanted, position)
    return position
