"""Commands that check or write: index, verify, extract, pack, convert, process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from imagearchive.cli.output import escape, format_size, progress, short, text, write, write_json
from imagearchive.errors import ArchiveNotFoundError, OptionError, UnsupportedArchiveError

if TYPE_CHECKING:
    from imagearchive.extract import Existing
    from imagearchive.writers.processor import ProcessReport

__all__ = ["convert", "extract", "index", "pack", "process", "verify"]

FAILED = 1


def index(arguments: argparse.Namespace) -> int:
    """Build the index of archives."""
    from imagearchive.index import IndexTable
    from imagearchive.paths import expand

    paths = expand(arguments.archives)
    if arguments.ipath and len(paths) > 1:
        raise OptionError("--ipath names one file, so give one archive")
    made = []
    for path in paths:
        table = IndexTable.open(path, arguments.ipath, overwrite=arguments.overwrite)
        shown, place = short(path) or path, short(table.path)
        made.append({"archive": shown, "members": len(table), "index": place})
        if not arguments.json:
            write([f"{text(shown)}: {len(table)} members -> {text(place or 'in memory only')}"])
    if arguments.json:
        write_json(made)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Read and check every member."""
    from imagearchive.archive import open_archive
    from imagearchive.verify import verify as check

    with (
        open_archive(arguments.archive, ipath=arguments.ipath, strict=False) as archive,
        progress(len(archive), "members", arguments.quiet) as step,
    ):
        found = check(archive, decode=arguments.decode, threads=arguments.threads, progress=step)
    if arguments.json:
        write_json(
            {
                "files": found.files,
                "bytes": found.bytes,
                "checksums": found.checked,
                "decoded": found.decoded,
                "failures": [failure._asdict() for failure in found.failures],
            }
        )
    else:
        write(f"{text(failure.name)}: {escape(failure.reason)}" for failure in found.failures)
        if not arguments.quiet:
            write(
                [
                    f"{found.files} members read, {found.checked} checksums compared, "
                    f"{found.decoded} decoded, {len(found.failures)} failures"
                ]
            )
    return FAILED if found.failures else 0


def extract(arguments: argparse.Namespace) -> int:
    """Extract into a directory."""
    from imagearchive.archive import open_archive
    from imagearchive.extract import extract as write_files
    from imagearchive.extract import select

    existing: Existing = "error"
    if arguments.overwrite:
        existing = "replace"
    elif arguments.skip_existing:
        existing = "skip"
    with open_archive(arguments.archive, ipath=arguments.ipath) as archive:
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
        print(f"imagearchive: not extracted: {text(item.name)}: {item.reason}", file=sys.stderr)
    if not arguments.quiet:
        more = f", {done.skipped} left as they were" if done.skipped else ""
        write([f"{done.files} files, {format_size(done.bytes, True)}{more}"])
    return 0


def pack(arguments: argparse.Namespace) -> int:
    """Pack files into TAR archives."""
    from imagearchive.writers.pack import pack as write_archives

    if os.path.splitext(arguments.target)[1] != ".tar":
        raise OptionError(f"{arguments.target}: pack writes TAR archives; end the name with .tar")
    try:
        mtime = None if arguments.mtime == "keep" else int(arguments.mtime)
    except ValueError:
        raise OptionError(f"--mtime {arguments.mtime}: give seconds since 1970, or keep") from None
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
            mtime=mtime,
            overwrite=arguments.overwrite,
            index=not arguments.no_index,
            sync=not arguments.no_sync,
            progress=step,
        )
    if not arguments.quiet:
        write(text(path) for path in made)
    return 0


def _listed(path: str, separator: bytes) -> Iterator[bytes]:
    if "\0" in path:
        raise ArchiveNotFoundError(f"{path}: no such directory or list")
    if path == "-":
        data = sys.stdin.buffer.read()
    else:
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
    from imagearchive.archive import open_archive
    from imagearchive.convert import convert as write_archive

    with (
        open_archive(arguments.archive, ipath=arguments.ipath) as archive,
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
    if not arguments.quiet:
        write([f"{text(arguments.target)}: {count} members"])
    return 0


def process(arguments: argparse.Namespace) -> int:
    """Turn folders of annotated images into NPZ files."""
    from imagearchive.writers.processor import DataProcessor

    kinds = [kind for kind in ("detector", "landmarker", "teacher") if getattr(arguments, kind)]
    if not kinds and not arguments.all:
        raise OptionError("say which data: --all, --detector, --landmarker or --teacher")
    processor = DataProcessor(
        arguments.raw_dir,
        arguments.output_dir,
        arguments.batch_size,
        arguments.workers,
        arguments.flush_every,
        seed=arguments.seed,
        image_size=_image_size(arguments.image_size),
        progress=False if arguments.quiet else None,
    )
    reports: list[ProcessReport] = []
    if arguments.all:
        reports = list(processor.process_all(arguments.train_split).values())
    else:
        for kind in kinds:
            reports.append(getattr(processor, f"process_{kind}")(arguments.train_split))
    if not arguments.quiet:
        write(str(report) for report in reports)
    return 0


def _image_size(value: str) -> int | tuple[int, int] | None:
    if value == "keep":
        return None
    parts = value.lower().split("x")
    if len(parts) <= 2 and all(part.isdecimal() and part.isascii() for part in parts):
        numbers = [int(part) for part in parts]
        return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
    raise OptionError(f"--image-size {value}: give 224, 320x240 or keep")
