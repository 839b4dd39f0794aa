"""The arguments that several commands share, and the modules that a command imports first."""

from __future__ import annotations

import argparse
from typing import Any, Final

from imagearchive.cli.argument_types import (
    archive_path,
    byte_size,
    nested,
    path,
    positive_integer,
    ratio,
    storage_option,
)

__all__ = [
    "add_access",
    "add_archive",
    "add_archives",
    "add_command",
    "add_dask",
    "add_ipath",
    "add_json",
    "add_long",
    "add_max_ratio",
    "add_nested",
    "add_no_index",
    "add_null",
    "add_overwrite",
    "add_partial",
    "add_quiet",
    "add_storage_options",
    "add_threads",
    "add_workers",
]

# The modules that a command imports in this order before it starts, while interrupts are delayed.
# NumPy is first, because its import takes twice as long when many other imports are in progress:
# each of its calls then needs another piece of memory for the interpreter's stack.
_NUMPY: Final = ("numpy",)
_MODULES: Final = {
    "completion": (),
    "index": (*_NUMPY, "imagearchive.index.concatenate"),
    "verify": (*_NUMPY, "imagearchive.archive.verify"),
    "extract": (*_NUMPY, "imagearchive.cli.archive_argument", "imagearchive.archive.extract"),
    # A thread imports NumPy while files are read.
    "pack": ("imagearchive.archive.pack",),
    "convert": (
        *_NUMPY,
        "imagearchive.cli.archive_argument",
        "imagearchive.archive.convert",
        "imagearchive.containers.bins.writer",
        "imagearchive.archive.writers",
    ),
    "repack": (*_NUMPY, "imagearchive.processing.repack"),
    "report": (*_NUMPY, "imagearchive.processing.report.report"),
    "process": (*_NUMPY, "imagearchive.processing.processor"),
    "view": (*_NUMPY, "imagearchive.cli.viewer.server"),
}


def add_command(
    commands: Any, name: str, summary: str, run: str, *, human_sizes: bool = False
) -> argparse.ArgumentParser:
    """Add a command that calls `run`, a ``module:function`` of this package.

    With `human_sizes`, ``-h`` stands for human-readable sizes, as in ls and du, and not for help.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        add_help=not human_sizes,
    )
    parser.set_defaults(run=run, parser=parser, modules=_MODULES.get(name, _NUMPY))
    if human_sizes:
        parser.add_argument("--help", action="help", help="show this help message and exit")
        parser.add_argument(
            "-h", "--human-readable", action="store_true", help="print sizes as 1.5K, 23M, 4.0G"
        )
    return parser


def add_archive(parser: argparse.ArgumentParser) -> None:
    """Add the archive to read."""
    parser.add_argument("archive", metavar="ARCHIVE", type=archive_path, help="the archive to read")
    add_ipath(parser, "the index file; it is created if it does not exist")
    add_decompress_to(parser)
    add_partial(parser)
    add_nested(parser)
    add_access(parser)


def add_archives(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Add archives that are read one after the other, each in part if it is damaged."""
    parser.add_argument(
        "archives",
        metavar="ARCHIVE",
        nargs=nargs,
        type=archive_path,
        help="an archive to read, or a pattern in quotes for several that are read as one",
    )
    add_ipath(parser, "the index file of the archive; it is created if it does not exist")
    add_decompress_to(parser)
    add_nested(parser)
    add_access(parser)
    parser.set_defaults(partial=True)


def add_ipath(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``--ipath``, whose help says what the index file is for."""
    parser.add_argument("--ipath", metavar="FILE", type=path, help=purpose)


def add_decompress_to(parser: argparse.ArgumentParser) -> None:
    """Add ``--decompress-to``, where copies of compressed archives are kept."""
    parser.add_argument(
        "--decompress-to",
        metavar="DIR",
        type=path,
        help="decompress an archive such as x.tar.xz into a directory once, and read the copy",
    )


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add how to reach the URLs that a command reads, and where to cache what is read."""
    add_storage_options(parser)
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=path,
        help="keep what is read from URLs in a folder on this machine",
    )
    parser.add_argument(
        "--cache-bytes",
        metavar="SIZE",
        type=byte_size,
        help="maximum size of that folder, such as 200GB; default 10GiB",
    )


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--storage-option``, which says how to reach URLs."""
    parser.add_argument(
        "--storage-option",
        metavar="NAME=VALUE",
        dest="storage_options",
        type=storage_option,
        action="append",
        help="how to reach a URL, such as endpoint=https://minio.example:9000, region=eu-west-1, "
        "or client_options.timeout=60s; give credentials in the environment instead",
    )


def add_partial(parser: argparse.ArgumentParser) -> None:
    """Add ``--partial``, which reads a damaged archive up to the damage."""
    parser.add_argument(
        "--partial", action="store_true", help="read what can be read of a damaged archive"
    )


def add_nested(parser: argparse.ArgumentParser) -> None:
    """Add ``--nested``, which opens archives inside an archive."""
    parser.add_argument(
        "--nested",
        metavar="MODE",
        type=nested,
        default="auto",
        help="open archives inside the archive as directories: auto, if it has no other members "
        "(default); yes; no; keep, with the extensions of their names; or a number of levels",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_null(parser: argparse.ArgumentParser) -> None:
    """Add ``-0``, for names that other programs read."""
    parser.add_argument(
        "-0", "--null", action="store_true", help="print raw names, each followed by NUL"
    )


def add_long(parser: argparse.ArgumentParser) -> None:
    """Add ``-l``, as of ls."""
    parser.add_argument(
        "-l", "--long", action="store_true", help="print permissions, sizes, and times"
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add ``-q``."""
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print no progress bar and no summary"
    )


def add_max_ratio(
    parser: argparse.ArgumentParser,
    what: str = "the size of the members together",
    base: str = "bytes that the archive holds of them",
) -> None:
    """Add ``--max-ratio``, the limit for `what` as a multiple of `base`."""
    parser.add_argument(
        "--max-ratio",
        type=ratio,
        metavar="N",
        help=f"limit for {what} above 64 MiB, as a multiple of the {base}; default 1000",
    )


def add_workers(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--workers`` and ``--dask``, which do several of `what` at a time."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--workers",
        type=positive_integer,
        metavar="N",
        help=f"process several {what} at a time, in N processes",
    )
    add_dask(group, what)


def add_dask(parser: Any, what: str) -> None:
    """Add ``--dask``."""
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help=f"process several {what} at a time, on the workers of a Dask scheduler, such as "
        f"tcp://10.0.0.1:8786",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``."""
    parser.add_argument(
        "--threads",
        type=positive_integer,
        metavar="N",
        help="number of threads; by default up to 4",
    )


def add_overwrite(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``-f``, which replaces `what`."""
    parser.add_argument("-f", "--overwrite", action="store_true", help=f"replace {what}")


def add_no_index(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-index``, of commands that write archives."""
    parser.add_argument("--no-index", action="store_true", help="do not build the index")
