"""`StagedFiles`: a set of files that get their names together."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from imagearchive.storage.closing import Closable
from imagearchive.storage.disk_sync import sync_files, sync_folder
from imagearchive.storage.temporary import LockedDirectory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["StagedFiles"]


class StagedFiles(Closable):
    """Files that are made in a hidden directory and then get their names together.

    The directory is in the folder of the targets and locked while its process lives; those that
    killed processes left are removed. At the end of the block it vanishes with all that was not
    published.

    Parameters
    ----------
    folder : str
        The folder of the targets.
    prefix : str
        Beginning of the directory's name; runs that use the same one remove each other's remains.
    """

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder = folder
        self._staging = LockedDirectory(folder, prefix)

    def path(self, name: str) -> str:
        """Return where to make the file that is going to have this name."""
        # A search for the targets below the folder must not find the staged ones.
        return self._staging.file(f"new-{name}")

    def publish(self, names: Sequence[str], obsolete: Collection[str] = ()) -> None:
        """Put the files on disk, then move them to the folder in this order.

        A reader that goes by the last of the names never sees a mixture: where there are several
        files, or obsolete ones, the last name vanishes first and appears again last. A single
        file replaces its predecessor at once. An interrupt waits until all is done.

        Parameters
        ----------
        names : sequence of str
            The files, all of which have been made.
        obsolete : collection of str
            Files of the folder that do not belong to the new ones. They need not exist.
        """
        sync_files(self.path(name) for name in names)
        try:
            self._move(names, obsolete)
        except KeyboardInterrupt:
            # Half of it done would be neither the old files nor the new ones.
            self._move(names, obsolete)
            raise

    def _move(self, names: Sequence[str], obsolete: Collection[str]) -> None:
        """Move the files; goes on where an earlier call was interrupted."""
        staged = [name for name in names if os.path.lexists(self.path(name))]
        if staged and (len(names) > 1 or obsolete):
            self._remove([names[-1]])
            sync_folder(self._folder)
            # The first one is replaced; the others would be beside files of another set.
            self._remove([*obsolete, *(name for name in staged if name != names[0])])
        for name in staged:
            if name == names[-1] and len(names) > 1:
                sync_folder(self._folder)
            os.replace(self.path(name), os.path.join(self._folder, name))
        sync_folder(self._folder)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, name))

    def close(self) -> None:
        """Remove the directory. Takes no descriptor unless there is something unexpected in it."""
        super().close()
        self._staging.close()
