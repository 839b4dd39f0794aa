"""`repack`: writes any dataset as shards or as an NPZ that load faster."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np

from imagearchive.archive.archive import Archive
from imagearchive.archive.shard_writer import ShardPath, ShardWriter
from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.containers.tar.writer import RECORD
from imagearchive.datasets.image_archive import ImageArchive
from imagearchive.datasets.npz.dataset import LazyNPZDataset
from imagearchive.datasets.permutation import Permutation
from imagearchive.datasets.samples.dataset import SampleArchive
from imagearchive.errors import ImageArchiveError, OptionError, TargetExistsError
from imagearchive.errors.arguments import (
    check_choice,
    check_flag,
    check_integer,
    check_sequence,
    check_size,
    shorten,
)
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.images.decode import decode_image
from imagearchive.processing.repack_recipe import ImageFormat, Recipe
from imagearchive.processing.repack_run import Run, RunOptions
from imagearchive.processing.repack_source import RepackSource
from imagearchive.processing.repack_sources import as_source, check_keys
from imagearchive.storage.executors import AnyExecutor
from imagearchive.storage.location import locate
from imagearchive.storage.make_once import lock_beside
from imagearchive.storage.outputs import check_target, open_output, output_path, temporary_folder

if TYPE_CHECKING:
    from imagearchive.storage.patterns import ArchivePath
    from imagearchive.transforms.fields import Field

__all__ = ["Repacked", "repack"]

logger = logging.getLogger(__name__)

# Measuring the gain decodes at most so many samples, and takes about this part of the time of the
# run, or as many seconds, once for the source and once for the result.
_TIMED: Final = 64
_TIMED_PART: Final = 0.01
_TIMED_SECONDS: Final = 0.02
_MAX_SIDE: Final = 65_500


@dataclass(frozen=True)
class Repacked:
    """The result of `repack`.

    Attributes
    ----------
    paths : list of str
        The archives, in order.
    samples, images : int
        How many were written. After an interrupt, these and the following numbers are those of the
        call that continued.
    encoded : int
        How many of the images were encoded again; the others were copied.
    skipped : list of (str, str)
        Key of each sample that could not be read, and why.
    bytes_before, bytes_after : int
        Size of the members in the source, and of what was made of them.
    speed_before, speed_after : float
        Images that one thread reads and decodes in a second, measured on some of them; 0 if there
        are none, or if they are on a server.
    fields : dict of str to Field, or None
        What `SampleArchive` needs to read the archives; None of an NPZ, and where it needs nothing.
    """

    paths: list[str]
    samples: int
    images: int
    encoded: int
    skipped: list[tuple[str, str]]
    bytes_before: int
    bytes_after: int
    speed_before: float
    speed_after: float
    fields: dict[str, Field] | None


def repack(
    source: ArchivePath | Archive | ImageArchive | SampleArchive,
    target: str | os.PathLike[str],
    *,
    resize: int | Sequence[int] | None = None,
    format: ImageFormat | None = None,
    quality: int = 90,
    shard_size: int | str = "1GB",
    shard_samples: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    workers: int | None = None,
    executor: AnyExecutor | None = None,
    on_error: str = "raise",
    overwrite: bool = False,
    index: bool = True,
    sync: bool = True,
    progress: Callable[[int], object] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> Repacked:
    """Write a dataset again, as shards of smaller images, or decoded as an NPZ.

    Samples stay together, and keep their classes and labels:

    - Of a path or an open archive, members keep their names. Files with the same name up to the
      first dot are one sample.
    - Of an `ImageArchive`, members keep their names too. Unless its directories are the classes,
      the label of each image is written beside it, as ``.cls`` or ``.npy``. `SampleArchive` reads
      images and labels with the `fields` of the result, and `ImageArchive` integers with
      ``label_extension="cls"``.
    - Of a `SampleArchive`, each field becomes a member ``KEY.FIELD.EXTENSION``. Masks are resized
      to the nearest pixel, and boxes and keypoints are scaled. The `fields` of the result read
      them. Dots in the last part of a key become underscores.

    An image that needs no change is copied. Of its metadata, an image that is encoded again keeps
    the EXIF orientation; transparency is dropped, and 16 bits become 8, as in loading.

    The same samples and arguments give the same bytes, whatever the number of workers. A shard
    appears when it is complete. After an interrupt, the same call continues after the last
    complete shard; with `overwrite`, it starts again.

    If `target` ends with ``.npz``, the images are decoded, and all have the size `resize`; of an
    `int`, the square in the middle is taken. An `ImageArchive` gives the columns ``images`` (uint8,
    (N, H, W, 3)), ``labels``, and ``class_names``, and a `SampleArchive` one column for each field.
    The size of the file is logged first.

    Parameters
    ----------
    source : path-like, Archive, ImageArchive, or SampleArchive
        A path may be a directory, an archive, a pattern, or a list of them. To write an NPZ, it is
        opened as an `ImageArchive`. Datasets must not have transforms. An NPZ cannot be repacked.
    target : path-like
        ``train-{:05d}.tar`` with a place for the number of a shard, or an ``.npz``. May be a URL.
    resize : int or (int, int), optional
        Length of the shorter side, to which larger images shrink; or width and height of every
        image. By default sizes stay.
    format : {"jpeg", "png", "webp"}, optional
        Encode images that have another format. By default the format stays, but images in formats
        other than these become PNG if they are resized.
    quality : int
        Quality of JPEG and WebP, from 1 to 100.
    shard_size, shard_samples : optional
        As in `ShardWriter`.
    shuffle : bool
        Write the samples in random order.
    seed : int
        Determines that order.
    workers : int, optional
        Number of threads; by default that of the processor's cores. With `executor`, how many of
        its workers to keep busy.
    executor : int or concurrent.futures.Executor, optional
        Read and encode in so many processes, or elsewhere, as on a cluster: Dask's
        ``Client.get_executor()``. Its workers must see the source under the same path. It is not
        shut down.
    on_error : {"raise", "skip"}
        What to do with a sample that cannot be read: raise, or leave it out and list it.
    overwrite : bool
        Replace archives of these names.
    index, sync : bool
        As in `TarWriter`.
    progress : callable, optional
        Called with the number of samples done since the last call.
    storage_options, filesystem : optional
        How to reach URLs, as in `open`: those of `target`, and of a `source` that is a path.

    Returns
    -------
    Repacked

    Raises
    ------
    OptionError
        An argument is wrong, the dataset has transforms, two samples have one key, or it is not
        clear whether the images of a sample are masks.
    TargetExistsError
        There is a target that this call did not begin, or another call writes it now.
    DecodeError, CorruptArchiveError
        A sample cannot be read.
    WorkerError
        A worker of the executor died.
    OSError
        The target cannot be written, or the disk is too small for an NPZ.
    """
    recipe = _check_recipe(resize, format, quality)
    options = RunOptions(
        shuffle=check_flag("shuffle", shuffle),
        seed=check_integer("seed", seed),
        workers=check_integer("workers", os.cpu_count() if workers is None else workers, 1),
        executor=executor,
        skip=check_choice("on_error", on_error, ("raise", "skip")) == "skip",
        overwrite=check_flag("overwrite", overwrite),
        progress=progress or (lambda count: None),
    )
    to_npz = os.fspath(target).endswith(".npz") if isinstance(target, str | os.PathLike) else False
    access: dict[str, Any] = {"storage_options": storage_options, "filesystem": filesystem}
    # Before anything is read, so that a wrong one is found at once.
    path = output_path("target", target, **access) if to_npz else ""
    shard_path = None if to_npz else ShardPath("target", target, **access)
    with ExitStack() as opened:
        if isinstance(source, Archive | ImageArchive | SampleArchive):
            samples = as_source(source)
        elif to_npz:
            samples = as_source(opened.enter_context(ImageArchive(source, **access)))
        else:
            samples = as_source(opened.enter_context(Archive(source, nested="auto", **access)))
        if warning := samples.warning(recipe):
            logger.warning("%s: %s", shorten(source), warning)
        run = Run(samples, recipe, options)
        if shard_path is None:
            return _write_npz(run, path)
        shards = partial(
            ShardWriter, shard_path.text, shard_size=shard_size, shard_samples=shard_samples,
            overwrite=overwrite, index=index, sync=sync,
        )  # fmt: skip
        # However it is written: the command line passes a number.
        size = check_size("shard_size", shard_size, RECORD)
        what = {"shard_size": size, "shard_samples": shard_samples}
        return _write_shards(run, shard_path, shards, what)


def _check_recipe(resize: Any, format: Any, quality: Any) -> Recipe:
    if resize is not None:
        if isinstance(resize, (tuple, list)):
            sides = check_sequence("resize", resize)
            if len(sides) != 2:
                raise OptionError(f"resize must be one integer or two, got {resize!r}")
            resize = tuple(check_integer("resize", side, 1, _MAX_SIDE) for side in sides)
        else:
            resize = check_integer("resize", resize, 1, _MAX_SIDE)
    if format is not None:
        format = check_choice("format", format, get_args(ImageFormat))
    return Recipe(resize, format, check_integer("quality", quality, 1, 100))


def _write_shards(
    run: Run, path: ShardPath, make: Callable[..., ShardWriter], shards: Mapping[str, Any]
) -> Repacked:
    check_keys(run.samples)
    with ExitStack() as held:
        try:
            # A server has no locks.
            if locate(path.number(0)).local_path is not None:
                held.enter_context(lock_beside(path.number(0), wait=False))
        except BlockingIOError:
            raise TargetExistsError(
                f"{path.text}: another call of repack is writing these shards; wait for it, or "
                f"choose another target"
            ) from None
        except FileNotFoundError:
            # The directory is missing; the writer reports that.
            pass
        return _write_locked_shards(run, path, make, shards)


def _write_locked_shards(
    run: Run, path: ShardPath, make: Callable[..., ShardWriter], shards: Mapping[str, Any]
) -> Repacked:
    state = _State(path, run, shards)
    number, start = (0, 0) if run.options.overwrite else state.resume()
    paths = [path.number(before) for before in range(number)]
    new: list[str] = []
    if start < run.count or not number:
        run.options.progress(start)
        with ExitStack() as at_end, make(first_number=number) as writer:
            # Without a shard, there is nothing to continue from. The first one is there, too, if
            # only its index could not be saved.
            at_end.callback(
                lambda: None if paths or locate(path.number(0)).exists() else state.remove()
            )
            if run.options.overwrite:
                # Archives of these names that are not replaced yet must not be taken for ours.
                state.remove()
            else:
                state.save()
            with closing(run.results("write", start)) as results:
                for sample in results:
                    writer.write_members(sample.key, sample.members)
                    run.add(sample)
        new = writer.paths
    state.remove()
    after = 0.0
    if new:
        with Archive(new) as archive:
            after = _speed_of_images(as_source(archive), run.seconds)
    return _result(run, paths + new, after)


class _State:
    """A hidden file beside the shards, from which an interrupted call continues.

    It holds what determines the shards, so that other shards of these names are not taken for them.
    """

    def __init__(self, path: ShardPath, run: Run, shards: Mapping[str, Any]) -> None:
        self._path, self._run = path, run
        first = locate(path.number(0))
        self._file = first.parent.join(f".{first.name}.repack")
        facts = {
            "recipe": asdict(run.recipe),
            "shuffle": run.options.shuffle and run.options.seed,
            "samples": run.count,
            "source": run.samples.fingerprint(),
            "ends": [run.samples.key(index) for index in (0, run.count - 1) if run.count],
            **shards,
        }
        text = json.dumps(facts, sort_keys=True)
        self._digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def save(self) -> None:
        """Write the file."""
        with open_output(self._file.path, overwrite=True) as target:
            target.file.write(self._digest.encode())

    def remove(self) -> None:
        """Remove the file, now that all shards are complete."""
        self._file.remove()

    def resume(self) -> tuple[int, int]:
        """Return how many shards are complete, and how many samples need not be looked at again."""
        if not self._file.exists():
            return 0, 0
        with closing(self._file.open("memory")) as file:
            saved = bytes(file.read(0, min(file.size, len(self._digest))))
        number, written, last = 0, 0, ""
        while saved == self._digest.encode() and locate(self._path.number(number)).exists():
            with Archive(self._path.number(number)) as archive:
                samples = archive.samples()
                written += len(samples)
                last = samples.key(len(samples) - 1) if len(samples) else last
            number += 1
        # Samples that were left out were looked at as well.
        for position in range(max(written - 1, 0), self._run.count if written else 0):
            if self._run.samples.key(int(self._run.order[position])) == last:
                logger.warning(
                    "%s: continuing after %s in %s",
                    self._path.text,
                    pluralize(position + 1, "sample"),
                    pluralize(number, "shard"),
                )
                return number, position + 1
        return 0, 0


def _write_npz(run: Run, path: str) -> Repacked:
    if run.recipe.resize is None:
        hint = Hint("resize", "to choose it")
        raise OptionError("an NPZ holds images of one size", hints=[hint])
    if run.recipe.format is not None:
        raise OptionError("an NPZ holds decoded images, so they have no format")
    check_target(path, run.options.overwrite)
    if first := run.first_row():
        each = _bytes_of(first.values.values())
        logger.info("%s: about %s bytes, %s for each sample", path, f"{each * run.count:,}", each)
        free = shutil.disk_usage(temporary_folder(path)).free
        if free < each * run.count:
            raise OSError(
                errno.ENOSPC,
                f"{pluralize(run.count, 'sample')} would take {each * run.count} bytes, and "
                f"{free} are free",
                path,
            )
    with NpzWriter(path) as writer, closing(run.results("row", 0)) as results:
        for row in results:
            writer.append(**row.values)
            run.written += 1
            run.stored += row.stored
            run.made += _bytes_of(row.values.values())
        if not run.written:
            raise OptionError(f"{path}: there is no sample that can be read, so it is not written")
    with LazyNPZDataset(path) as arrays:
        after = (
            0.0 if arrays.requests_ahead else _speed(len(arrays), arrays.__getitem__, run.seconds)
        )
    run.images = run.encoded = run.written
    # They are about members of archives.
    return replace(_result(run, [path], after), fields=None)


def _bytes_of(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def _result(run: Run, paths: list[str], speed_after: float) -> Repacked:
    return Repacked(
        paths=paths,
        samples=run.written,
        images=run.images,
        encoded=run.encoded,
        skipped=run.skipped,
        bytes_before=run.stored,
        bytes_after=run.made,
        speed_before=_speed_of_images(run.samples, run.seconds) if run.images else 0.0,
        speed_after=speed_after if run.images else 0.0,
        fields=run.samples.fields(),
    )


def _speed_of_images(samples: RepackSource, seconds: float) -> float:
    """Return how many images of a source are read and decoded in a second; see `_speed`."""

    def load(number: int) -> object:
        with suppress(ImageArchiveError):
            image = samples.image(number)
            return None if image is None else decode_image(image)
        return None

    # A loader does not wait for one answer after the other.
    return 0.0 if samples.is_remote else _speed(len(samples), load, seconds)


def _speed(count: int, load: Callable[[int], object], seconds: float) -> float:
    """Return how many samples are loaded in a second, measured on some of them.

    Parameters
    ----------
    count : int
        How many there are.
    load : callable
        Loads one; returns None if it is not to be counted.
    seconds : float
        How long the run took.
    """
    limit = max(_TIMED_SECONDS, _TIMED_PART * seconds)
    times: list[float] = []
    # In random order, so that the first few are as good a choice as all.
    for number in itertools.islice(Permutation(count, 0), _TIMED):
        start = time.perf_counter()
        if load(number) is not None:
            times.append(time.perf_counter() - start)
        if sum(times) > limit:
            break
    # The first one opens files.
    times = times[1:] or times
    return len(times) / sum(times) if times else 0.0
