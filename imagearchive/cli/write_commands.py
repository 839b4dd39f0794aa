"""Commands that write: index, extract, pack, convert, process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final

from imagearchive.cli.argument_types import access_options, merge_options
from imagearchive.cli.messages import print_error, report_errors
from imagearchive.cli.output import (
    escape_message,
    escape_name,
    format_size,
    progress_bar,
    relative_path,
    standard_output,
    write,
    write_json,
)
from imagearchive.errors import (
    ArchiveNotFoundError,
    OptionError,
    TargetExistsError,
    UnsupportedArchiveError,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.local import advise_on_path

if TYPE_CHECKING:
    from imagearchive.archive.extract import Existing
    from imagearchive.index.build_indexes import IndexSummary
    from imagearchive.processing.processor import ProcessReport
    from imagearchive.storage.executors import AnyExecutor, Outcome

__all__ = ["convert", "extract", "index", "pack", "process"]

FAILED: Final = 1


def index(arguments: argparse.Namespace) -> int:
    """Build the index of archives."""
    from imagearchive.cli.executor_argument import open_executor_argument
    from imagearchive.index.concatenate import open_concatenated
    from imagearchive.index.upload import check_uploads
    from imagearchive.storage.path_options import add_options
    from imagearchive.storage.patterns import expand_paths

    given = add_options(arguments.archives, **access_options(arguments))
    paths = expand_paths(given)
    if arguments.upload:
        check_uploads(paths)
    made: list[dict[str, object]] = []
    with open_executor_argument(arguments) as executor:
        together = arguments.ipath is not None or (len(paths) == 1 and executor is None)
        if executor is not None or not together:
            made = _build_indexes(paths, arguments, executor, quiet=together)
        failed = any("error" in one for one in made)
        if together and not failed:
            table = open_concatenated(
                paths,
                add_options(arguments.ipath, merge_options(arguments.storage_options)),
                overwrite=arguments.overwrite,
                overwrite_each=arguments.overwrite and executor is None,
                strict=not arguments.partial,
                nested=arguments.nested,
                upload=arguments.upload,
            )
            shown = relative_path(paths[0]) or paths[0]
            what = {"archive": shown} if len(paths) == 1 else {"archives": len(paths)}
            made = [{**what, "members": len(table), "index": relative_path(table.path)}]
            if len(paths) > 1:
                shown = pluralize(len(paths), "archive")
            _write_index(arguments, shown, len(table), table.path)
    if arguments.json:
        write_json(made)
    return FAILED if failed else 0


def _build_indexes(
    paths: Sequence[str], arguments: argparse.Namespace, executor: AnyExecutor | None, quiet: bool
) -> list[dict[str, object]]:
    """Build the index of each archive, and report each as it is done."""
    from imagearchive.index.build_indexes import build_index
    from imagearchive.storage.executors import CallingThread, open_executor, run_tasks

    build = partial(
        build_index,
        overwrite=arguments.overwrite,
        strict=not arguments.partial,
        nested=arguments.nested,
        show_progress=executor is None,
        upload=arguments.upload,
    )
    made: list[dict[str, object]] = []
    here = executor is None
    with (
        open_executor(CallingThread() if executor is None else executor) as opened,
        progress_bar(len(paths), "archives", quiet=here) as step,
        closing(run_tasks(build, paths, opened, in_order=True)) as outcomes,
    ):
        for outcome in outcomes:
            if step is not None:
                step(1)
            made.append(_built(outcome, arguments, quiet))
    return made


def _built(
    outcome: Outcome[str, IndexSummary], arguments: argparse.Namespace, quiet: bool
) -> dict[str, object]:
    """Say which index was built, or why none was."""
    shown = relative_path(outcome.item) or outcome.item
    with report_errors() as errors:
        built = outcome.get()
    if errors:
        return {"archive": shown, "error": errors[0]}
    if not quiet:
        _write_index(arguments, shown, built.members, built.path)
    return {"archive": shown, "members": built.members, "index": relative_path(built.path)}


def _write_index(
    arguments: argparse.Namespace, shown: str, members: int, index_path: str | None
) -> None:
    if not arguments.json:
        target = escape_name(relative_path(index_path) or "in memory only")
        write([f"{escape_name(shown)}: {pluralize(members, 'member')} -> {target}"])


def extract(arguments: argparse.Namespace) -> int:
    """Extract members into a directory."""
    from imagearchive.archive.extract import extract as write_files
    from imagearchive.archive.extract import select
    from imagearchive.cli.archive_argument import open_archive_argument
    from imagearchive.cli.parser import SEVERAL
    from imagearchive.storage.limits import Limits

    if os.path.isfile(arguments.target):
        raise TargetExistsError(
            f"{arguments.target} is a file, not a directory to extract into; {SEVERAL}"
        )
    existing: Existing = "error"
    if arguments.overwrite:
        existing = "replace"
    elif arguments.skip_existing:
        existing = "skip"
    with open_archive_argument(arguments) as archive:
        members = select(archive, arguments.members) if arguments.members else None
        total = len(archive) if members is None else len(members)
        with progress_bar(total, "files", arguments.quiet) as step:
            done = write_files(
                archive,
                arguments.target,
                members,
                existing=existing,
                skip_unsafe=arguments.skip_unsafe,
                limits=Limits(max_ratio=arguments.max_ratio or Limits.max_ratio),
                threads=arguments.threads,
                progress=step,
            )
    for item in done.refused:
        print_error(f"not extracted: {item.name[:200]}: {item.reason}")
    if arguments.json:
        write_json({**done._asdict(), "refused": [item._asdict() for item in done.refused]})
    elif not arguments.quiet:
        more = f", {done.skipped} skipped" if done.skipped else ""
        if done.resumed:
            more += f", {done.resumed} from an interrupted run"
        write([f"{pluralize(done.files, 'file')}, {format_size(done.bytes, True)}{more}"])
    return 0


def pack(arguments: argparse.Namespace) -> int:
    """Pack files into TAR or ZIP archives."""
    from imagearchive.archive.pack import pack as write_archives
    from imagearchive.cli.executor_argument import open_executor_argument

    to_stream = arguments.target == "-"
    if to_stream:
        _check_stream(arguments)
    source: str | list[bytes] = arguments.source
    total = None
    if not os.path.isdir(arguments.source):
        source = list(_read_list(arguments.source, b"\0" if arguments.null else b"\n"))
        total = len(source)
    if (arguments.workers or arguments.dask) and not (arguments.shards or arguments.shard_size):
        arguments.parser.error("--workers and --dask write several shards; use --shards, too")
    if to_stream:
        from imagearchive.archive.pack import pack_to_stream

        with progress_bar(total, "files", arguments.quiet) as step, standard_output() as out:
            pack_to_stream(
                source,
                out,
                "standard output",
                root=arguments.root,
                shuffle=arguments.shuffle,
                seed=arguments.seed,
                mtime=arguments.mtime,
                progress=step,
            )
        return 0
    with (
        open_executor_argument(arguments) as executor,
        progress_bar(total, "files", arguments.quiet) as step,
    ):
        made = write_archives(
            source,
            arguments.target,
            shards=arguments.shards,
            shard_size=arguments.shard_size,
            root=arguments.root,
            shuffle=arguments.shuffle,
            seed=arguments.seed,
            mtime=arguments.mtime,
            overwrite=arguments.overwrite,
            index=not arguments.no_index,
            sync=not arguments.no_sync,
            executor=executor,
            progress=step,
            storage_options=merge_options(arguments.storage_options),
        )
    if arguments.json:
        write_json(made)
    elif not arguments.quiet:
        write(escape_name(path) for path in made)
    return 0


def _check_stream(arguments: argparse.Namespace) -> None:
    if arguments.shards or arguments.shard_size:
        arguments.parser.error("standard output takes one archive; name a file to write shards")
    if arguments.json:
        arguments.parser.error("with --json, standard output cannot take the archive; name a file")
    if sys.stdout is not None and sys.stdout.isatty():
        arguments.parser.error("standard output is a terminal; redirect it to a file or a pipe")


def _read_list(path: str, separator: bytes) -> Iterator[bytes]:
    if path == "-":
        if sys.stdin is None:
            raise ArchiveNotFoundError("standard input is closed; it holds no list of files")
        data = sys.stdin.buffer.read()
    else:
        if not os.path.exists(path):
            raise ArchiveNotFoundError(
                f"{path}: no such directory or list of files; {advise_on_path(path)}"
            )
        with open(path, "rb") as file:
            start = file.read(4096)
            if b"\0" in start and separator != b"\0":
                raise UnsupportedArchiveError(
                    f"{path} is neither a directory nor a list of files; to convert an archive to "
                    f"TAR, use 'imagearchive convert'"
                )
            data = start + file.read()
    return (line for line in data.split(separator) if line)


def convert(arguments: argparse.Namespace) -> int:
    """Convert an archive to another format."""
    from imagearchive.archive.convert import convert as write_archive
    from imagearchive.archive.convert import kind_of
    from imagearchive.cli.archive_argument import open_archive_to_convert
    from imagearchive.cli.executor_argument import open_executor_argument
    from imagearchive.storage.limits import Limits

    if arguments.to is None:
        try:
            arguments.to = kind_of(arguments.target)
        except OptionError as error:
            arguments.parser.error(f"{error.message}; or use --to")
    if (arguments.workers or arguments.dask) and not arguments.shards:
        arguments.parser.error("--workers and --dask write several archives; use --shards, too")
    with ExitStack() as stack:
        archive = open_archive_to_convert(arguments, stack)
        executor = stack.enter_context(open_executor_argument(arguments))
        step = stack.enter_context(progress_bar(len(archive), "members", arguments.quiet))
        count = write_archive(
            archive,
            arguments.target,
            arguments.to,
            splits=arguments.splits,
            shards=arguments.shards,
            executor=executor,
            overwrite=arguments.overwrite,
            index=not arguments.no_index,
            limits=Limits(max_ratio=arguments.max_ratio or Limits.max_ratio),
            progress=step,
            storage_options=merge_options(arguments.storage_options),
        )
    if arguments.json:
        more = {"shards": arguments.shards} if arguments.shards else {}
        write_json({"archive": arguments.target, **more, "members": count})
    elif not arguments.quiet:
        where = f" in {pluralize(arguments.shards, 'archive')}" if arguments.shards else ""
        write([f"{escape_name(arguments.target)}: {pluralize(count, 'member')}{where}"])
    return 0


def process(arguments: argparse.Namespace) -> int:
    """Convert directories of annotated images to NPZ files."""
    from imagearchive.cli.executor_argument import open_dask_argument
    from imagearchive.processing.processor import DataProcessor

    kinds = [kind for kind in ("detector", "landmarker", "teacher") if getattr(arguments, kind)]
    if not kinds and not arguments.all:
        arguments.parser.error("choose --all, --detector, --landmarker, or --teacher")
    reports: list[ProcessReport] = []
    with open_dask_argument(arguments) as executor:
        processor = DataProcessor(
            arguments.raw_dir,
            arguments.output_dir,
            arguments.batch_size,
            arguments.workers,
            arguments.flush_every,
            seed=arguments.seed,
            image_size=arguments.image_size,
            executor=executor,
            progress=False if arguments.quiet else None,
            storage_options=merge_options(arguments.storage_options),
        )
        if arguments.all:
            reports = list(processor.process_all(arguments.train_split).values())
        else:
            for kind in kinds:
                reports.append(getattr(processor, f"process_{kind}")(arguments.train_split))
    if arguments.json:
        write_json([asdict(report) for report in reports])
    elif not arguments.quiet:
        write(escape_message(str(report)) for report in reports)
    return 0
