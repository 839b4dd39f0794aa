"""`StagedFiles`: a set of files that get their names together."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from imagearchive.storage.closing import Closable
from imagearchive.storage.disk_sync import sync_files, sync_folder
from imagearchive.storage.location import PublishingLocation, locate
from imagearchive.storage.outputs import temporary_folder, upload_name
from imagearchive.storage.temporary import LockedDirectory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["StagedFiles"]


class StagedFiles(Closable):
    """Files that are made in a hidden directory and then get their names together.

    The directory is in the folder of the targets, or in that of temporary files if the targets are
    on a server. It is locked while its process lives; those that killed processes left are removed.
    At the end of the block it vanishes with all that was not published.

    Parameters
    ----------
    folder : str
        The folder of the targets, as `imagearchive.storage.outputs.output_folder` returns it.
    prefix : str
        Beginning of the directory's name; runs that use the same one remove each other's remains.
    fingerprint : str
        Identifies the content of the files. Those that are there when a run is killed, interrupted,
        or leaves the block by an error are found by the next run with the same fingerprint, and so
        are its notes. A file should appear in its place when it is whole.
    """

    def __init__(self, folder: str, prefix: str, fingerprint: str = "") -> None:
        location = locate(folder)
        self._remote = location if isinstance(location, PublishingLocation) else None
        self._folder = folder
        if self._remote is not None:
            folder = temporary_folder(self._remote.join("file").path)
            prefix = f"{upload_name(location.path)}{prefix}"
        self._keep = bool(fingerprint)
        self._staging = LockedDirectory(folder, prefix, fingerprint)

    def path(self, name: str) -> str:
        """Return where to make the file that is going to have this name."""
        # A search for the targets below the folder must not find the staged ones.
        return self._staging.file(f"new-{name}")

    def note(self, name: str) -> str:
        """Return where to make a file for the next run, which is worth nothing by itself."""
        return self._staging.file(f"note-{name}")

    def holds(self, name: str) -> bool:
        """Whether a file has been made, by this run or an earlier one, and was not published."""
        return os.path.exists(self.path(name))

    def discard(self) -> None:
        """Keep nothing for the next run."""
        self._keep = False

    def publish(self, names: Sequence[str], obsolete: Collection[str] = ()) -> None:
        """Put the files on disk, then move them to the folder in this order.

        A reader that goes by the last of the names never sees a mixture: where there are several
        files, or obsolete ones, the last name vanishes first and appears again last. A single
        file replaces its predecessor at once. An interrupt waits until all is done, but not until
        files are uploaded.

        Parameters
        ----------
        names : sequence of str
            The files, all of which have been made.
        obsolete : collection of str
            Files of the folder that do not belong to the new ones. They need not exist.
        """
        if self._remote is None:
            sync_files(self.path(name) for name in names)
        try:
            self._move(names, obsolete)
        except KeyboardInterrupt:
            # Half of it done would be neither the old files nor the new ones.
            if self._remote is None:
                self._move(names, obsolete)
            raise
        self.discard()

    def _move(self, names: Sequence[str], obsolete: Collection[str]) -> None:
        """Move the files; goes on where an earlier call was interrupted."""
        staged = [name for name in names if os.path.lexists(self.path(name))]
        if staged and (len(names) > 1 or obsolete):
            self._remove([names[-1]])
            self._sync()
            # The first one is replaced; the others would be beside files of another set.
            self._remove([*obsolete, *(name for name in staged if name != names[0])])
        for name in staged:
            if name == names[-1] and len(names) > 1:
                self._sync()
            self._move_one(name)
        self._sync()

    def _move_one(self, name: str) -> None:
        path = self.path(name)
        if self._remote is None:
            os.replace(path, os.path.join(self._folder, name))
            return
        target = self._remote.join(name)
        if isinstance(target, PublishingLocation):
            target.publish(path)
        os.unlink(path)

    def _sync(self) -> None:
        if self._remote is None:
            sync_folder(self._folder)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if self._remote is not None:
                self._remote.join(name).remove()
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, name))

    def close(self) -> None:
        """Remove the directory. Takes no descriptor unless there is something unexpected in it."""
        super().close()
        if self._keep and any(name.startswith("new-") for name in self._made()):
            self._staging.release()
        else:
            self._staging.close()

    def _made(self) -> list[str]:
        try:
            return os.listdir(self._staging.path)
        except OSError:
            return []
