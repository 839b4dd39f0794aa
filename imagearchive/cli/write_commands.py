"""Commands that check or write: index, verify, extract, pack, convert, process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from imagearchive.cli.messages import print_error, with_options
from imagearchive.cli.output import (
    counted,
    escape,
    format_size,
    progress,
    short,
    text,
    write,
    write_json,
)
from imagearchive.errors import ArchiveNotFoundError, OptionError, UnsupportedArchiveError

if TYPE_CHECKING:
    from imagearchive.archive.extract import Existing
    from imagearchive.processing.processor import ProcessReport

__all__ = ["convert", "extract", "index", "pack", "process", "verify"]

FAILED = 1


def index(arguments: argparse.Namespace) -> int:
    """Build the index of archives."""
    from imagearchive.cli.archive_argument import resolve
    from imagearchive.index.table import IndexTable

    paths = [path for given in arguments.archives for path in resolve(given)]
    if arguments.ipath and len(paths) > 1:
        arguments.parser.error("--ipath names one file, so give one archive")
    made = []
    for path in paths:
        table = IndexTable.open(
            path,
            arguments.ipath,
            overwrite=arguments.overwrite,
            strict=not arguments.partial,
        )
        shown, place = short(path) or path, short(table.path)
        made.append({"archive": shown, "members": len(table), "index": place})
        if not arguments.json:
            members = counted(len(table), "member")
            write([f"{text(shown)}: {members} -> {text(place or 'in memory only')}"])
    if arguments.json:
        write_json(made)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Read and check every member."""
    from imagearchive.archive.verify import verify as check
    from imagearchive.cli.archive_argument import open_given
    from imagearchive.storage.limits import Limits

    limits = Limits(
        arguments.max_size or Limits.max_size,
        arguments.max_ratio or Limits.max_ratio,
        arguments.max_pixels or Limits.max_pixels,
    )
    with (
        open_given(arguments) as archive,
        progress(len(archive), "members", arguments.quiet) as step,
    ):
        found = check(
            archive,
            decode=arguments.decode,
            limits=limits,
            threads=arguments.threads,
            progress=step,
        )
    failures = [
        (failure.position, failure.name, with_options(failure.message, failure.hints))
        for failure in found.failures
    ]
    if arguments.json:
        write_json(
            {
                "files": found.files,
                "bytes": found.bytes,
                "checksums": found.checked,
                "decoded": found.decoded,
                "failures": [dict(zip(("position", "name", "reason"), row)) for row in failures],
            }
        )
    else:
        write(f"{text(name)}: {escape(reason)}" for _, name, reason in failures)
        if not arguments.quiet:
            write(
                [
                    f"{counted(found.files, 'member')} read, "
                    f"{counted(found.checked, 'checksum')} compared, "
                    f"{found.decoded} decoded, {counted(len(failures), 'failure')}"
                ]
            )
    return FAILED if failures else 0


def extract(arguments: argparse.Namespace) -> int:
    """Extract into a directory."""
    from imagearchive.archive.extract import extract as write_files
    from imagearchive.archive.extract import select
    from imagearchive.cli.archive_argument import open_given
    from imagearchive.cli.parser import SEVERAL

    if os.path.isfile(arguments.target):
        raise OptionError(
            f"{arguments.target}: a file, where the directory to extract into is named; {SEVERAL}"
        )
    existing: Existing = "error"
    if arguments.overwrite:
        existing = "replace"
    elif arguments.skip_existing:
        existing = "skip"
    with open_given(arguments) as archive:
        members = select(archive, arguments.members) if arguments.members else None
        total = len(archive) if members is None else len(members)
        with progress(total, "files", arguments.quiet) as step:
            done = write_files(
                archive,
                arguments.target,
                members,
                existing=existing,
                skip_unsafe=arguments.skip_unsafe,
                threads=arguments.threads,
                progress=step,
            )
    for item in done.refused:
        print_error(f"not extracted: {item.name[:200]}: {item.reason}")
    if arguments.json:
        write_json({**done._asdict(), "refused": [item._asdict() for item in done.refused]})
    elif not arguments.quiet:
        more = f", {done.skipped} left as they were" if done.skipped else ""
        write([f"{counted(done.files, 'file')}, {format_size(done.bytes, True)}{more}"])
    return 0


def pack(arguments: argparse.Namespace) -> int:
    """Pack files into TAR archives."""
    from imagearchive.archive.pack import pack as write_archives

    source: str | list[bytes] = arguments.source
    total = None
    if not os.path.isdir(arguments.source):
        source = list(_listed(arguments.source, b"\0" if arguments.null else b"\n"))
        total = len(source)
    with progress(total, "files", arguments.quiet) as step:
        made = write_archives(
            source,
            arguments.target,
            shards=arguments.shards,
            shard_size=arguments.shard_size,
            root=arguments.root,
            mtime=arguments.mtime,
            overwrite=arguments.overwrite,
            index=not arguments.no_index,
            sync=not arguments.no_sync,
            progress=step,
        )
    if arguments.json:
        write_json(made)
    elif not arguments.quiet:
        write(text(path) for path in made)
    return 0


def _listed(path: str, separator: bytes) -> Iterator[bytes]:
    if path == "-":
        if sys.stdin is None:
            raise ArchiveNotFoundError("standard input is closed, so it has no list of files")
        data = sys.stdin.buffer.read()
    else:
        if not os.path.exists(path):
            raise ArchiveNotFoundError(f"{path}: no such directory, nor a list of files")
        with open(path, "rb") as file:
            start = file.read(4096)
            if b"\0" in start and separator != b"\0":
                raise UnsupportedArchiveError(
                    f"{path}: neither a directory nor a list of files; to make a TAR of another "
                    f"archive use: imagearchive convert"
                )
            data = start + file.read()
    return (line for line in data.split(separator) if line)


def convert(arguments: argparse.Namespace) -> int:
    """Write as another kind of archive."""
    from imagearchive.archive.convert import convert as write_archive
    from imagearchive.archive.convert import kind_of
    from imagearchive.cli.archive_argument import open_given

    if arguments.to is None:
        try:
            arguments.to = kind_of(arguments.target)
        except OptionError as error:
            arguments.parser.error(f"{error}; or use --to")
    with (
        open_given(arguments) as archive,
        progress(len(archive), "members", arguments.quiet) as step,
    ):
        count = write_archive(
            archive,
            arguments.target,
            arguments.to,
            splits=arguments.splits,
            overwrite=arguments.overwrite,
            index=not arguments.no_index,
            progress=step,
        )
    if arguments.json:
        write_json({"archive": arguments.target, "members": count})
    elif not arguments.quiet:
        write([f"{text(arguments.target)}: {counted(count, 'member')}"])
    return 0


def process(arguments: argparse.Namespace) -> int:
    """Turn folders of annotated images into NPZ files."""
    from imagearchive.processing.processor import DataProcessor

    kinds = [kind for kind in ("detector", "landmarker", "teacher") if getattr(arguments, kind)]
    if not kinds and not arguments.all:
        arguments.parser.error("say which data: --all, --detector, --landmarker or --teacher")
    processor = DataProcessor(
        arguments.raw_dir,
        arguments.output_dir,
        arguments.batch_size,
        arguments.workers,
        arguments.flush_every,
        seed=arguments.seed,
        image_size=arguments.image_size,
        progress=False if arguments.quiet else None,
    )
    reports: list[ProcessReport] = []
    if arguments.all:
        reports = list(processor.process_all(arguments.train_split).values())
    else:
        for kind in kinds:
            reports.append(getattr(processor, f"process_{kind}")(arguments.train_split))
    if arguments.json:
        write_json([asdict(report) for report in reports])
    elif not arguments.quiet:
        write(escape(str(report)) for report in reports)
    return 0
