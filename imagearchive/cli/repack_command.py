"""The command that writes datasets again: repack."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from imagearchive.cli.argument_types import access_options, merge_options
from imagearchive.cli.field_arguments import has_fields, open_samples
from imagearchive.cli.messages import print_error, print_notes
from imagearchive.cli.output import (
    escape_message,
    format_size,
    progress_bar,
    relative_path,
    write,
    write_json,
)
from imagearchive.cli.table_arguments import table_options
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.processing.repack import Repacked

__all__ = ["repack"]

FAILED: Final = 1


def repack(arguments: argparse.Namespace) -> int:
    """Write a dataset again as shards or as an NPZ."""
    from imagearchive.cli.executor_argument import open_executor_argument
    from imagearchive.processing.repack import repack as write_again

    with (
        open_executor_argument(arguments) as executor,
        _open_source(arguments) as (source, count),
        print_notes("imagearchive.processing.repack", arguments.quiet),
        progress_bar(count, "samples", arguments.quiet) as step,
    ):
        done = write_again(
            source,
            arguments.target,
            resize=arguments.resize,
            format=arguments.format,
            quality=arguments.quality,
            shard_size=arguments.shard_size,
            shard_samples=arguments.shard_samples,
            shuffle=arguments.shuffle,
            seed=arguments.seed,
            workers=arguments.workers,
            executor=executor if arguments.dask else None,
            on_error="skip" if arguments.skip_broken else "raise",
            overwrite=arguments.overwrite,
            index=not arguments.no_index,
            progress=step,
            storage_options=merge_options(arguments.storage_options),
        )
    for key, reason in done.skipped:
        print_error(f"left out: {key[:200]}: {reason}")
    if arguments.json:
        kinds = None if done.fields is None else {n: repr(kind) for n, kind in done.fields.items()}
        skipped = [{"key": key, "reason": reason} for key, reason in done.skipped]
        write_json({**asdict(done), "fields": kinds, "skipped": skipped})
    elif not arguments.quiet:
        write(map(escape_message, _summary(done)))
    return FAILED if done.skipped else 0


@contextlib.contextmanager
def _open_source(arguments: argparse.Namespace) -> Iterator[tuple[Any, int]]:
    """Open what is repacked; yield it, and the number of its samples."""
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.image_archive import ImageArchive

    access = access_options(arguments)
    table = table_options(arguments)
    missing = arguments.missing or "error"
    if has_fields(arguments):
        if table is not None:
            arguments.parser.error("--table cannot be combined with --field")
        with open_samples(arguments, arguments.sources, missing=missing, **access) as samples:
            yield samples, len(samples)
    elif table is not None:
        if missing == "none":
            arguments.parser.error("--missing none needs --field; with --table, use skip")
        on_missing: Any = "drop" if missing == "skip" else missing
        with ImageArchive(arguments.sources, **table, missing=on_missing, **access) as images:
            yield images, len(images)
    elif arguments.missing:
        arguments.parser.error("--missing needs --field or --table")
    elif arguments.target.endswith(".npz"):
        with ImageArchive(arguments.sources, **access) as images:
            yield images, len(images)
    else:
        with Archive(arguments.sources, nested="auto", **access) as archive:
            yield archive, len(archive.samples())


def _summary(done: Repacked) -> list[str]:
    lines = [relative_path(path) or path for path in done.paths]
    ratio = done.bytes_after / done.bytes_before if done.bytes_before else 1.0
    before, after = (format_size(size, True) for size in (done.bytes_before, done.bytes_after))
    lines.append(
        f"{pluralize(done.samples, 'sample')}, {done.encoded} of {pluralize(done.images, 'image')} "
        f"encoded again: {before} -> {after} ({ratio:.0%})"
    )
    if done.speed_before and done.speed_after:
        lines.append(
            f"reading and decoding in one thread: {done.speed_before:,.0f} -> "
            f"{done.speed_after:,.0f} images/s ({done.speed_after / done.speed_before:.1f}x)"
        )
    if done.fields:
        lines.append("SampleArchive reads it with fields={")
        lines += [f"    {name!r}: {kind!r}," for name, kind in done.fields.items()]
        lines.append("}")
    return lines
