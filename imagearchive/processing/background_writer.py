"""Write an NPZ file in a thread, while the next samples are decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.processing.tasks import Decoded
from imagearchive.storage.task_threads import Task, TaskThreads

__all__ = ["BackgroundWriter"]

# Groups in the hands of the thread: one that it writes, and one that waits.
MAX_GROUPS: Final = 2


class BackgroundWriter:
    """A thread that writes one NPZ file from groups of samples.

    At most one group waits while another is written; `put` then blocks, and with it everything
    before it, so memory stays bounded. An error of the thread is raised by the next call.

    Parameters
    ----------
    path : str
        The file to write.
    compress : bool
        Whether to deflate it.
    ragged : sequence of str
        Columns whose rows may differ in shape, even if the first ones do not.
    """

    def __init__(self, path: str, *, compress: bool, ragged: Sequence[str]) -> None:
        self._path = path
        self._writer = NpzWriter(path, compress=compress, ragged=ragged)
        self._thread = TaskThreads(1)
        self._pending: deque[Task[None]] = deque()

    def put(self, group: list[Decoded]) -> None:
        """Hand over a group; the caller must not keep it."""
        self._wait(MAX_GROUPS - 1)
        self._pending.append(self._thread.submit(self._write, group))

    def end(self) -> None:
        """Let the thread complete the file after the last group; waits like `put`."""
        self._wait(MAX_GROUPS - 1)
        self._pending.append(self._thread.submit(self._close))

    def finish(self) -> None:
        """Wait until the file is complete."""
        self._wait(0)

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.close()
        # Does nothing if the file is complete.
        self._writer.abort()

    def _wait(self, count: int) -> None:
        """Wait until no more than `count` groups are in the hands of the thread."""
        while len(self._pending) > count:
            self._pending.popleft().result()

    def _write(self, group: list[Decoded]) -> None:
        with os_errors_for(self._path):
            for decoded in group:
                self._writer.extend(**decoded.columns)

    def _close(self) -> None:
        with os_errors_for(self._path):
            self._writer.close()
