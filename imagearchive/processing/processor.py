"""Annotated images -> ``train_X.npz`` and ``val_X.npz``, decoded by processes, written by a thread.

Every image is listed and assigned to its side of the split before the first is decoded. So each
sample is written as soon as it is decoded, and none is held in memory to be shuffled.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imagearchive.errors import (
    ArchiveNotFoundError,
    LabelError,
    OptionError,
    OptionTypeError,
)
from imagearchive.errors.arguments import check_choice, check_integer, check_number
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.processing.annotation_records import Annotations, Problem
from imagearchive.processing.annotations import read_annotations
from imagearchive.processing.background_writer import BackgroundWriter
from imagearchive.processing.decode_stream import decode_in_order, split_tasks
from imagearchive.processing.earlier_run import (
    fingerprint,
    load_report,
    load_side,
    save_report,
    save_side,
)
from imagearchive.processing.tasks import BoxFormat, Decoded, DecodeOptions, Job, Kind, job_of
from imagearchive.storage.location import local_path, locate
from imagearchive.storage.outputs import output_folder
from imagearchive.storage.process_pool import WorkerPool
from imagearchive.storage.staged_files import StagedFiles

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["BoxFormat", "DataProcessor", "ProcessReport"]

logger = logging.getLogger(__name__)

Side = Literal["train", "val"]

# A write is bounded in bytes, not in images, so that memory does not depend on flush_every.
# Larger ones were measured to be no faster.
FLUSH_BYTES: Final = 24 << 20
# Of NumPy's RandomState.
MAX_SEED: Final = (1 << 32) - 1


@dataclass(frozen=True)
class ProcessReport:
    """The result of one run; also saved as ``report_X.json``.

    Attributes
    ----------
    kind : {"detector", "landmarker", "teacher"}
        The kind of data.
    train, val : int
        Number of samples in each file.
    train_path, val_path : str or None
        The files; None if that side of the split has no samples and therefore no file.
    skipped : tuple of Problem
        Everything that was left out, with its path and the reason.
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

    ``raw_data_dir`` holds a folder ``detector``, ``landmarker``, or ``teacher`` for each kind of
    data, each with any mixture of COCO, CSV, and PTS annotations (see
    `imagearchive.processing.annotations`). The processor writes ``train_X.npz``, ``val_X.npz``
    and ``report_X.json`` in ``output_dir``:

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

    Images are uint8 (H, W, 3). Boxes and keypoints are in pixels of the stored image: they are
    scaled with it (except teacher boxes, as above). In detector data, an image without any
    annotation is a negative example and has no boxes. Landmarker data takes the first annotation
    that labels a point.

    The same folder, seed, and options give the same bytes, whatever the number of workers.
    The outputs of a kind appear under their names once all of them are complete: after a crash the
    files of the previous run are still there.

    The same call again does only what is missing: a kind whose outputs are there is not processed
    again unless an option, an annotation, or the size or time of an image has changed. If a run was
    interrupted or killed after one of the two files was complete, that file is kept.

    One instance may be used from one thread at a time. No script guard
    (``if __name__ == "__main__"``) is needed.

    Parameters
    ----------
    raw_data_dir, output_dir : path-like
        Where to read and write; `output_dir` is created if it does not exist. It may be a URL, such
        as ``s3://bucket/preprocessed``.
    batch_size : int
        Images in a batch.
    num_workers : int
        Processes that decode; 0 decodes in the calling process. With `executor`, how many of its
        workers to keep busy.
    flush_every : int
        Batches that the background thread writes at a time while the next are decoded. It writes
        sooner if they would take more than 24 MiB, so memory stays bounded.
    image_size : int, (width, height) or None
        Size to which images are stretched, boxes and keypoints with them. PyTorch can only stack
        images of equal size into a batch. None keeps every image at its own size.
    seed : int
        Chooses which samples are for training, and the order in both files.
    box_format : {"xywh", "xyxy"}
        ``x, y, width, height`` as in COCO, or two corners as in torchvision.
    compress : bool
        Deflate the files, which are then smaller, and slower to write and to read.
    executor : concurrent.futures.Executor, optional
        Decodes instead of local processes, for instance on a cluster:
        ``dask.distributed.Client(...).get_executor()``, ``mpi4py.futures.MPIPoolExecutor()``. Its
        workers must see `raw_data_dir` under the same path. It is not shut down.
    progress : bool, optional
        Whether to show progress bars; by default if standard error is a terminal.
    storage_options, filesystem : optional
        How to reach `output_dir`, as in `open`.

    Raises
    ------
    OptionError, OptionTypeError
        An argument has a wrong value or type.
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
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
    ) -> None:
        self.raw_data_dir = local_path("raw_data_dir", raw_data_dir)
        self.output_dir = output_folder("output_dir", output_dir, storage_options, filesystem)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.num_workers = check_integer("num_workers", num_workers, 0)
        self.flush_every = check_integer("flush_every", flush_every, 1)
        self.image_size = _check_image_size(image_size)
        self.seed = check_integer("seed", seed, 0, MAX_SEED)
        self.box_format: BoxFormat = check_choice("box_format", box_format, get_args(BoxFormat))
        self.compress = compress
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise OptionTypeError(
                f"executor must have a method submit, as concurrent.futures.Executor, got "
                f"{type(executor).__name__}; num_workers is the number of local processes"
            )
        self.executor = executor
        self.progress = progress

    def process_all(
        self, train_split: float = 0.8, include_teacher: bool = True
    ) -> dict[str, ProcessReport]:
        """Process every kind of data that has a folder.

        Parameters
        ----------
        train_split : float
            Fraction of the samples that are for training.
        include_teacher : bool
            Whether to write teacher data as well.

        Returns
        -------
        dict of str to ProcessReport
            By kind. A kind without a folder is logged and left out.

        Raises
        ------
        ArchiveNotFoundError
            There is none of the folders.
        LabelError, WorkerError, OSError
            As `process_detector`. The files of kinds that were complete before are kept.
        """
        _split_count(0, train_split)
        kinds: list[Kind] = ["detector", "landmarker"]
        if include_teacher:
            kinds.append("teacher")
        present = [kind for kind in kinds if self._folders(kind)]
        if not present:
            raise ArchiveNotFoundError(
                f"{self.raw_data_dir}: none of the folders {', '.join(kinds)} exists"
            )
        for kind in kinds:
            if kind not in present:
                logger.warning("%s: no folder %s; skipping it", self.raw_data_dir, kind)
        with ExitStack() as stack:
            executor = self._start(stack)
            return {kind: self._process(kind, train_split, executor) for kind in present}

    def process_detector(self, train_split: float = 0.8) -> ProcessReport:
        """Write ``train_detector.npz`` and ``val_detector.npz``.

        Parameters
        ----------
        train_split : float, 0 to 1
            Of n samples, ``int(n * train_split)`` are for training and the rest for validation.
            Images that turn out to be unreadable are missing from their side of the split.

        Returns
        -------
        ProcessReport
            Counts, and what was left out.

        Raises
        ------
        ArchiveNotFoundError
            There is no folder of that name.
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

        Without a folder ``teacher``, it crops the images of ``detector`` and ``landmarker``.
        """
        return self._run("teacher", train_split)

    def _run(self, kind: Kind, train_split: float) -> ProcessReport:
        _split_count(0, train_split)
        if not self._folders(kind):
            folder = os.path.join(self.raw_data_dir, kind)
            raise ArchiveNotFoundError(f"{folder}: no such folder; put the annotated images there")
        with ExitStack() as stack:
            return self._process(kind, train_split, self._start(stack))

    def _start(self, stack: ExitStack) -> Executor | WorkerPool | None:
        if self.executor is not None:
            return self.executor
        if self.num_workers == 0:
            return None
        return stack.enter_context(WorkerPool(self.num_workers))

    def _folders(self, kind: Kind) -> list[str]:
        names: list[str] = [kind]
        if kind == "teacher" and not os.path.isdir(os.path.join(self.raw_data_dir, kind)):
            names = ["detector", "landmarker"]
        folders = [os.path.join(self.raw_data_dir, name) for name in names]
        return [folder for folder in folders if os.path.isdir(folder)]

    def _process(
        self, kind: Kind, train_split: float, executor: Executor | WorkerPool | None
    ) -> ProcessReport:
        started = time.monotonic()
        jobs, skipped = self._list(kind)
        count = _split_count(len(jobs), train_split)
        # RandomState is the one generator whose permutations NumPy promises never to change.
        order = np.random.RandomState(self.seed).permutation(len(jobs))
        sides: dict[Side, NDArray[np.intp]] = {"train": order[:count], "val": order[count:]}
        # An empty side gets no file: the shapes of its columns would be unknown.
        chosen = {
            side: [jobs[i] for i in indices] for side, indices in sides.items() if len(indices)
        }
        names: dict[Side, str] = {side: f"{side}_{kind}.npz" for side in sides}
        summary = f"report_{kind}.json"
        folder = locate(self.output_dir)
        paths = {side: self._path(names[side]) for side in chosen}
        mark = self._fingerprint(kind, chosen, skipped)
        saved = load_report(folder, summary, mark)
        if saved is not None:
            # The folder may have been moved since.
            saved |= {"train_path": paths.get("train"), "val_path": paths.get("val")}
            with suppress(TypeError):
                report = ProcessReport(**saved)
                logger.info("%s: %s is up to date", kind, self.output_dir)
                with suppress(OSError):
                    # A run that was killed at its end has left its directory.
                    StagedFiles(self.output_dir, f".processing_{kind}.").close()
                return report
        folder.make_directory()
        obsolete = [names[side] for side in sides if side not in chosen]
        with StagedFiles(self.output_dir, f".processing_{kind}.", mark) as staged:
            try:
                written = self._write(kind, chosen, names, staged, executor, skipped)
            except LabelError:
                # It would fail again.
                staged.discard()
                raise
            report = ProcessReport(
                kind,
                written.get("train", 0),
                written.get("val", 0),
                paths.get("train"),
                paths.get("val"),
                tuple(skipped),
                time.monotonic() - started,
            )
            sizes = {names[side]: os.path.getsize(staged.path(names[side])) for side in chosen}
            with os_errors_for(self._path(summary)):
                save_report(staged.path(summary), report, mark, sizes)
            staged.publish([*(names[side] for side in chosen), summary], obsolete)
        logger.log(logging.WARNING if skipped else logging.INFO, "%s", report)
        return report

    def _path(self, name: str) -> str:
        """Return the path or URL of an output."""
        folder = locate(self.output_dir)
        if folder.local_path is None:
            return folder.join(name).path
        return os.path.join(self.output_dir, name)

    def _fingerprint(
        self, kind: Kind, chosen: Mapping[Side, list[Job]], skipped: Sequence[Problem]
    ) -> str:
        """Return what identifies the content of the outputs and of the report."""
        options = {
            "kind": kind,
            "image_size": self.image_size,
            "box_format": self.box_format,
            "compress": bool(self.compress),
            "skipped": [(one.path, one.reason) for one in skipped],
        }
        return fingerprint({str(side): jobs for side, jobs in chosen.items()}, options)

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
            raise LabelError(_describe_nothing(" and ".join(self._folders(kind)), found.problems))
        return jobs, found.problems

    def _write(
        self,
        kind: Kind,
        chosen: dict[Side, list[Job]],
        names: Mapping[Side, str],
        staged: StagedFiles,
        executor: Executor | WorkerPool | None,
        skipped: list[Problem],
    ) -> dict[Side, int]:
        """Decode the jobs of all sides and write their samples; return how many there were.

        A side whose file is there from an earlier run is left as it is.
        """
        written: dict[Side, int] = {}
        problems: dict[Side, list[Problem]] = {}
        for side in chosen:
            saved = load_side(staged.note(_notes(side)))
            if saved is not None and staged.holds(names[side]):
                written[side], problems[side] = saved[0], list(saved[1])
                logger.warning("%s: continuing with what an earlier run has written", names[side])
        # Named, so that both sides of the split have the same columns whatever their first rows.
        ragged = ["bboxes"] * (kind == "detector") + ["images"] * (self.image_size is None)
        # Workers elsewhere have another working directory.
        options = DecodeOptions(self.image_size, self.box_format, os.getcwd())
        # One stream of tasks for all, so that the workers go on while a file is completed.
        missing = {side: jobs for side, jobs in chosen.items() if side not in written}
        tasks = (
            task
            for jobs in missing.values()
            for task in split_tasks(jobs, self.batch_size, options)
        )
        with ExitStack() as stack:
            decoded = decode_in_order(tasks, options, executor, self.num_workers)
            results = stack.enter_context(closing(decoded))
            writers: list[BackgroundWriter] = []
            for side, jobs in missing.items():
                path = staged.path(names[side])
                writer = BackgroundWriter(path, compress=self.compress, ragged=ragged)
                writers.append(stack.enter_context(writer))
                found = problems[side] = []
                with self._bar(f"{side} {kind}", len(jobs)) as bar:
                    written[side] = self._feed(writer, results, len(jobs), bar, found)
                if not written[side]:
                    raise LabelError(_describe_nothing(os.path.basename(path), [*skipped, *found]))
                # Before the file, which appears when it is complete.
                with os_errors_for(self._path(names[side])):
                    save_side(staged.note(_notes(side)), written[side], found)
                writer.end()
            for writer in writers:
                writer.finish()
        for side in chosen:
            skipped += problems[side]
        return written

    def _feed(
        self,
        writer: BackgroundWriter,
        results: Iterator[tuple[int, Decoded]],
        total: int,
        bar: tqdm[Any],
        skipped: list[Problem],
    ) -> int:
        """Hand one side's results to its writer; return the number of samples."""
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
                writer.put(group)
                group, size = [], 0
        return written

    def _bar(self, what: str, total: int) -> tqdm[Any]:
        from tqdm import tqdm

        # None shows a bar only on a terminal.
        hide = None if self.progress is None else not self.progress
        return tqdm(total=total, desc=what, unit=" images", disable=hide, file=sys.stderr)


def _notes(side: Side) -> str:
    """Return the name of the staged file that says what is in the file of a side."""
    return f"{side}.json"


def _check_image_size(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise OptionError(
                f"image_size must be a number, (width, height), or None, got {value!r}"
            )
        width, height = value
        return check_integer("image_size", width, 1), check_integer("image_size", height, 1)
    side = check_integer("image_size", value, 1)
    return side, side


def _split_count(count: int, train_split: float) -> int:
    return int(count * check_number("train_split", train_split, 0, 1))


def _describe_nothing(where: str, problems: Sequence[Problem]) -> str:
    if not problems:
        return (
            f"{where}: no annotations found; expected *coco*/train/_annotations.coco.json, "
            f"*_annotations.csv, or NAME.pts beside NAME.jpg"
        )
    return (
        f"{where}: no usable image; {pluralize(len(problems), 'image was', 'images were')} left "
        f"out, the last because of {problems[-1].path}: {problems[-1].reason}"
    )
