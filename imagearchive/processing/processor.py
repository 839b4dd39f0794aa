"""Annotated images -> ``train_X.npz`` and ``val_X.npz``, decoded by processes, written by a thread.

Every image is listed and assigned to its side of the split before the first is decoded. What is
decoded is therefore written at once and in order, and nothing is held in memory to be shuffled.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.errors import (
    ArchiveNotFoundError,
    LabelError,
    OptionError,
    WorkerError,
)
from imagearchive.processing.annotations import Annotations, Problem, read_annotations
from imagearchive.processing.process_pool import WorkerPool
from imagearchive.processing.tasks import BoxFormat, Decoded, Job, Kind, decode_task, job_of
from imagearchive.storage.atomic import StagedFiles

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["BoxFormat", "DataProcessor", "ProcessReport"]

logger = logging.getLogger(__name__)

Side = Literal["train", "val"]

# A task's result and a write are bounded in bytes, not in images, so that memory does not depend
# on batch_size, flush_every or the number of images. Larger ones were measured to be no faster.
TASK_BYTES: Final = 4 << 20
FLUSH_BYTES: Final = 24 << 20
# How many pixels an image of unknown size may be expected to have.
USUAL_BYTES: Final = 3 << 20
# Tasks in flight for each worker: one that runs, and one that is ready when it is done.
TASKS_PER_WORKER: Final = 2


@dataclass(frozen=True)
class ProcessReport:
    """What one run did; also saved as ``report_X.json``.

    Attributes
    ----------
    kind : {"detector", "landmarker", "teacher"}
        Which data.
    train, val : int
        Number of samples in each file.
    train_path, val_path : str or None
        The files; None where a side of the split has no samples, and then there is no file.
    skipped : tuple of Problem
        Everything that was left out, each with its path and the reason.
    seconds : float
        How long it took.
    """

    kind: Kind
    train: int
    val: int
    train_path: str | None
    val_path: str | None
    skipped: tuple[Problem, ...]
    seconds: float

    def __str__(self) -> str:
        rate = (self.train + self.val) / max(self.seconds, 1e-9)
        return (
            f"{self.kind}: {self.train} train, {self.val} val, {len(self.skipped)} left out, "
            f"{self.seconds:.1f} s, {rate:.0f} images/s"
        )


class DataProcessor:
    """Turns folders of annotated images into NPZ files that `LazyNPZDataset` opens.

    ``raw_data_dir`` holds a folder ``detector``, ``landmarker`` or ``teacher`` for each kind of
    data, each with any mixture of COCO, CSV and PTS annotations (see
    `imagearchive.processing.annotations`).
    Written are ``train_X.npz``, ``val_X.npz`` and ``report_X.json`` in ``output_dir``:

    ========== ===================================== ==========================================
    X          columns                               one row
    ========== ===================================== ==========================================
    detector   ``images``, ``bboxes``,               all boxes of the image, float32 (K, 4)
               ``image_paths``
    landmarker ``images``, ``keypoints``,            ``x, y, visibility``, float32 (N, 3)
               ``image_paths``
    teacher    ``images``, ``bboxes``,               the image is cropped to its first box, or to
               ``image_paths``                       its visible keypoints and 10 % around them;
                                                     the box is what was cropped, float32 (4,),
                                                     in pixels of the whole image
    ========== ===================================== ==========================================

    Images are uint8 (H, W, 3). Boxes and keypoints are in pixels of the stored image, that is,
    scaled with it (teacher boxes excepted, as above). An image of a detector without any
    annotation is a negative example and has no boxes; a landmarker takes the first annotation
    that labels a point.

    The same folder, seed and options give the same bytes, whatever the number of workers.
    Outputs appear under their names one right after the other, once all are whole: after a crash
    the files of the run before are still there, and the next run clears away what was left and
    starts anew.

    One instance may be used from one thread at a time. No script guard
    (``if __name__ == "__main__"``) is needed.

    Parameters
    ----------
    raw_data_dir, output_dir : path-like
        Where to read and write; `output_dir` is made if need be.
    batch_size : int
        Images in a batch.
    num_workers : int
        Processes that decode; 0 decodes in this one. With `executor`, how many of its workers to
        keep busy.
    flush_every : int
        Batches that the background thread writes at a time while the next are processed. It
        writes sooner where they would hold more than 24 MiB, so memory stays the same.
    image_size : int, (width, height) or None
        Size to which images are stretched, boxes and keypoints with them. Equal sizes are what
        lets torch stack images into a batch. None keeps every image as large as it is.
    seed : int
        Chooses which samples are for training, and the order in both files.
    box_format : {"xywh", "xyxy"}
        ``x, y, width, height`` as COCO has it, or the two corners as torchvision wants them.
    compress : bool
        Deflate the files: smaller, and slower to write and to read.
    executor : concurrent.futures.Executor, optional
        Decodes instead of processes of our own, for instance on a cluster:
        ``dask.distributed.Client(...).get_executor()``, ``mpi4py.futures.MPIPoolExecutor()``. Its
        workers must see `raw_data_dir` under the same path. It is not shut down.
    progress : bool, optional
        Whether to show progress bars; by default where standard error is a terminal.

    Raises
    ------
    OptionError
        An argument is out of range.
    """

    def __init__(
        self,
        raw_data_dir: str | os.PathLike[str] = "data/raw",
        output_dir: str | os.PathLike[str] = "data/preprocessed",
        batch_size: int = 500,
        num_workers: int = 8,
        flush_every: int = 5,
        *,
        image_size: int | tuple[int, int] | None = 224,
        seed: int = 0,
        box_format: BoxFormat = "xywh",
        compress: bool = False,
        executor: Executor | None = None,
        progress: bool | None = None,
    ) -> None:
        self.raw_data_dir = os.fspath(raw_data_dir)
        self.output_dir = os.fspath(output_dir)
        self.batch_size = _at_least(1, batch_size, "batch_size")
        self.num_workers = _at_least(0, num_workers, "num_workers")
        self.flush_every = _at_least(1, flush_every, "flush_every")
        self.image_size = _size(image_size)
        self.seed = _at_least(0, seed, "seed")
        if self.seed >= 1 << 32:
            raise OptionError(f"seed={seed}: give a number below 2**32")
        if box_format not in get_args(BoxFormat):
            raise OptionError(f"box_format={box_format!r}: choose 'xywh' or 'xyxy'")
        self.box_format = box_format
        self.compress = compress
        self.executor = executor
        self.progress = progress

    def process_all(
        self, train_split: float = 0.8, include_teacher: bool = True
    ) -> dict[str, ProcessReport]:
        """Process every kind of data that is there.

        Parameters
        ----------
        train_split : float
            Fraction of the samples that are for training.
        include_teacher : bool
            Whether to write teacher data, too.

        Returns
        -------
        dict of str to ProcessReport
            By kind. A kind whose folder is missing is logged and left out.

        Raises
        ------
        ArchiveNotFoundError
            None of the folders is there.
        LabelError, WorkerError, OSError
            As `process_detector`. Kinds that were done before stay.
        """
        _split_count(0, train_split)
        kinds: list[Kind] = ["detector", "landmarker"]
        if include_teacher:
            kinds.append("teacher")
        there = [kind for kind in kinds if self._folders(kind)]
        if not there:
            raise ArchiveNotFoundError(
                f"{self.raw_data_dir}: none of the folders {', '.join(kinds)} is there"
            )
        for kind in kinds:
            if kind not in there:
                logger.warning("%s: no folder %s, so none is written", self.raw_data_dir, kind)
        with ExitStack() as stack:
            executor = self._start(stack)
            return {kind: self._process(kind, train_split, executor) for kind in there}

    def process_detector(self, train_split: float = 0.8) -> ProcessReport:
        """Write ``train_detector.npz`` and ``val_detector.npz``.

        Parameters
        ----------
        train_split : float, 0 to 1
            Of n samples, ``int(n * train_split)`` are for training and the rest for validation.
            Images that turn out to be unreadable are missing from their side of it.

        Returns
        -------
        ProcessReport
            Counts, and what was left out.

        Raises
        ------
        ArchiveNotFoundError
            The folder is missing.
        LabelError
            An annotation file is broken, or no usable image is left.
        WorkerError
            A worker died or failed.
        OSError
            Writing failed, for instance because the disk is full.
        OptionError
            `train_split` is not between 0 and 1.
        """
        return self._run("detector", train_split)

    def process_landmarker(self, train_split: float = 0.8) -> ProcessReport:
        """Write ``train_landmarker.npz`` and ``val_landmarker.npz``; see `process_detector`."""
        return self._run("landmarker", train_split)

    def process_teacher(self, train_split: float = 0.8) -> ProcessReport:
        """Write ``train_teacher.npz`` and ``val_teacher.npz``; see `process_detector`.

        Where there is no folder ``teacher``, the images of ``detector`` and ``landmarker`` are
        cropped.
        """
        return self._run("teacher", train_split)

    def _run(self, kind: Kind, train_split: float) -> ProcessReport:
        _split_count(0, train_split)
        if not self._folders(kind):
            folder = os.path.join(self.raw_data_dir, kind)
            raise ArchiveNotFoundError(f"{folder}: no such folder; put the annotated images there")
        with ExitStack() as stack:
            return self._process(kind, train_split, self._start(stack))

    def _start(self, stack: ExitStack) -> Executor | None:
        if self.executor is not None:
            return self.executor
        if self.num_workers == 0:
            return None
        pool = WorkerPool(self.num_workers)
        stack.callback(pool.shutdown, cancel_futures=True)
        return pool

    def _folders(self, kind: Kind) -> list[str]:
        names: list[str] = [kind]
        if kind == "teacher" and not os.path.isdir(os.path.join(self.raw_data_dir, kind)):
            names = ["detector", "landmarker"]
        folders = [os.path.join(self.raw_data_dir, name) for name in names]
        return [folder for folder in folders if os.path.isdir(folder)]

    def _process(self, kind: Kind, train_split: float, executor: Executor | None) -> ProcessReport:
        started = time.monotonic()
        jobs, skipped = self._list(kind)
        count = _split_count(len(jobs), train_split)
        # RandomState is the one generator whose permutations NumPy promises never to change.
        order = np.random.RandomState(self.seed).permutation(len(jobs))
        sides: dict[Side, NDArray[np.intp]] = {"train": order[:count], "val": order[count:]}
        os.makedirs(self.output_dir, exist_ok=True)
        # A side that is empty is no file: there would be nothing to tell its shapes from.
        chosen = {
            side: [jobs[i] for i in indices] for side, indices in sides.items() if len(indices)
        }
        names: dict[Side, str] = {side: f"{side}_{kind}.npz" for side in sides}
        with StagedFiles(self.output_dir, f".processing_{kind}.") as staged:
            places = {side: staged.path(names[side]) for side in chosen}
            written = self._write(kind, chosen, places, executor, skipped)
            paths = {side: os.path.join(self.output_dir, names[side]) for side in chosen}
            report = ProcessReport(
                kind,
                written.get("train", 0),
                written.get("val", 0),
                paths.get("train"),
                paths.get("val"),
                tuple(skipped),
                time.monotonic() - started,
            )
            summary = f"report_{kind}.json"
            with open(staged.path(summary), "w", encoding="utf-8") as file:
                json.dump(asdict(report), file, indent=1)
                file.write("\n")
            staged.publish(
                [*(names[side] for side in chosen), summary],
                [names[side] for side in sides if side not in chosen],
            )
        logger.log(logging.WARNING if skipped else logging.INFO, "%s", report)
        return report

    def _list(self, kind: Kind) -> tuple[list[Job], list[Problem]]:
        parts = [read_annotations(folder, self.raw_data_dir) for folder in self._folders(kind)]
        found = Annotations(
            [record for part in parts for record in part.records],
            [problem for part in parts for problem in part.problems],
        )
        jobs: list[Job] = []
        seen: set[str] = set()
        for record in found.records:
            answer = job_of(kind, record)
            if isinstance(answer, str):
                found.problems.append(Problem(record.path, answer))
            elif record.path not in seen:
                seen.add(record.path)
                jobs.append(answer)
        if not jobs:
            raise LabelError(_nothing(" and ".join(self._folders(kind)), found.problems))
        return jobs, found.problems

    def _write(
        self,
        kind: Kind,
        chosen: dict[Side, list[Job]],
        places: dict[Side, str],
        executor: Executor | None,
        skipped: list[Problem],
    ) -> dict[Side, int]:
        """Decode the jobs of all sides and write their samples; return how many there were."""
        written: dict[Side, int] = {}
        # Whatever the first rows look like, both sides of the split are written alike.
        ragged = ["bboxes"] * (kind == "detector") + ["images"] * (self.image_size is None)
        # One stream of tasks for all, so that the workers go on while a file is completed.
        tasks = (task for jobs in chosen.values() for task in self._tasks(jobs))
        with ExitStack() as stack:
            results = stack.enter_context(closing(self._decoded(tasks, executor)))
            threads: list[_Background] = []
            for side, jobs in chosen.items():
                thread = _Background(places[side], compress=self.compress, ragged=ragged)
                threads.append(stack.enter_context(thread))
                with self._bar(f"{side} {kind}", len(jobs)) as bar:
                    written[side] = self._feed(thread, results, len(jobs), bar, skipped)
                if not written[side]:
                    raise LabelError(_nothing(os.path.basename(places[side]), skipped))
                thread.end()
            for thread in threads:
                thread.finish()
        return written

    def _feed(
        self,
        thread: _Background,
        results: Iterator[tuple[int, Decoded]],
        total: int,
        bar: tqdm[Any],
        skipped: list[Problem],
    ) -> int:
        """Give one side's results to its thread; return the number of samples."""
        written = done = size = 0
        limit = self.batch_size * self.flush_every
        group: list[Decoded] = []
        while done < total:
            count, decoded = next(results)
            skipped += decoded.problems
            bar.update(count)
            done += count
            if decoded.count:
                written += decoded.count
                size += decoded.nbytes
                group.append(decoded)
            if group and (done % limit == 0 or done == total or size >= FLUSH_BYTES):
                thread.put(group)
                group, size = [], 0
        return written

    def _tasks(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        """Cut each batch into tasks of a bounded size."""
        expected = 3 * math.prod(self.image_size) if self.image_size else USUAL_BYTES
        count = max(1, TASK_BYTES // expected)
        for start in range(0, len(jobs), self.batch_size):
            batch = jobs[start : start + self.batch_size]
            for first in range(0, len(batch), count):
                yield batch[first : first + count]

    def _decoded(
        self, tasks: Iterator[Sequence[Job]], executor: Executor | None
    ) -> Generator[tuple[int, Decoded], None, None]:
        """Sizes and results of the tasks in their order, a bounded number of them in flight."""
        options = (self.image_size, self.box_format)
        if executor is None:
            for task in tasks:
                yield len(task), decode_task(task, *options)
            return
        ahead = TASKS_PER_WORKER * max(1, self.num_workers)
        waiting: deque[tuple[Sequence[Job], Future[Decoded]]] = deque()
        try:
            for task in tasks:
                waiting.append((task, _submit(executor, task, *options)))
                if len(waiting) > ahead:
                    first, future = waiting.popleft()
                    yield len(first), _result(first, future)
            while waiting:
                first, future = waiting.popleft()
                yield len(first), _result(first, future)
        finally:
            for _, future in waiting:
                future.cancel()

    def _bar(self, what: str, total: int) -> tqdm[Any]:
        from tqdm import tqdm

        # None shows a bar only on a terminal.
        hide = None if self.progress is None else not self.progress
        return tqdm(total=total, desc=what, unit=" images", disable=hide, file=sys.stderr)


def _submit(executor: Executor, task: Sequence[Job], *options: Any) -> Future[Decoded]:
    try:
        return executor.submit(decode_task, task, *options)
    except WorkerError:
        raise
    except RuntimeError as error:
        # What executors raise that are broken or shut down.
        raise WorkerError(f"the executor takes no more tasks: {error}") from error


def _result(task: Sequence[Job], future: Future[Decoded]) -> Decoded:
    try:
        error = future.exception()
    except CancelledError as cancelled:
        error = cancelled
    if error is None:
        return future.result()
    if isinstance(error, WorkerError):
        raise error
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    raise WorkerError(
        f"a worker failed on one of the {len(task)} images from {task[0].path} on: {what}"
    ) from error


# --------------------------------------------------------------------------------------------
# Writing, in the background


class _Background:
    """A thread that writes one NPZ from groups of samples.

    At most one group waits while another is written; `put` then blocks, and with it everything
    before it. After an error the thread goes on taking groups, and drops them, so that nobody
    waits for it for ever; the error is raised at the next call.
    """

    def __init__(self, path: str, **options: Any) -> None:
        self._path = path
        self._options = options
        self._groups: queue.Queue[list[Decoded] | None] = queue.Queue(maxsize=1)
        self._error: Exception | None = None
        self._ended = self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="npz-writer", daemon=True)

    def put(self, group: list[Decoded]) -> None:
        """Hand over a group; the caller must not keep it."""
        self._check()
        self._groups.put(group)

    def end(self) -> None:
        """Say that there are no more groups; the thread completes the file."""
        if not self._ended:
            self._groups.put(None)
            self._ended = True

    def finish(self) -> None:
        """Wait until the file is whole."""
        self.end()
        self._thread.join()
        self._check()

    def __enter__(self) -> _Background:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandoned = kind is not None
        self.end()
        self._thread.join()

    def _check(self) -> None:
        error = self._error
        if error is None:
            return
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            # Which file it was is not in the error of a write.
            raise OSError(error.errno, error.strerror, self._path) from error
        raise error

    def _run(self) -> None:
        groups = iter(self._groups.get, None)
        try:
            with NpzWriter(self._path, **self._options) as writer:
                for group in groups:
                    for decoded in group:
                        writer.extend(**decoded.columns)
                    # Not held while waiting for the next.
                    del group, decoded
                if self._abandoned:
                    writer.abort()
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread
            self._error = error
            # An iterator that has met the end stays there, so this never waits for another.
            for _ in groups:
                pass


# --------------------------------------------------------------------------------------------
# Arguments


def _at_least(least: int, value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise OptionError(f"{name}={value!r}: give a whole number, at least {least}")
    return int(value)


def _size(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise OptionError(f"image_size={value!r}: give a number, (width, height) or None")
        return _at_least(1, value[0], "image_size"), _at_least(1, value[1], "image_size")
    side = _at_least(1, value, "image_size")
    return side, side


def _split_count(count: int, train_split: float) -> int:
    if not 0 <= train_split <= 1:
        raise OptionError(f"train_split={train_split!r}: give a fraction from 0 to 1")
    return int(count * train_split)


def _nothing(where: str, problems: Sequence[Problem]) -> str:
    if not problems:
        return (
            f"{where}: no annotations found; expected are *coco*/train/_annotations.coco.json, "
            f"*_annotations.csv, or NAME.pts beside NAME.jpg"
        )
    return (
        f"{where}: not one usable image; {len(problems)} were left out, the last because of "
        f"{problems[-1].path}: {problems[-1].reason}"
    )
