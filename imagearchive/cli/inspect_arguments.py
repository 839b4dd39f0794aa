"""The arguments of the commands that show and check what is in archives."""

from __future__ import annotations

from typing import Any

from imagearchive.cli.argument_types import (
    SizeCondition,
    archive_path,
    byte_size,
    output_path,
    port,
    positive_integer,
)
from imagearchive.cli.common_arguments import (
    add_access,
    add_archive,
    add_archives,
    add_command,
    add_json,
    add_long,
    add_max_ratio,
    add_nested,
    add_null,
    add_overwrite,
    add_quiet,
    add_threads,
    add_workers,
)
from imagearchive.cli.field_arguments import add_fields
from imagearchive.cli.table_arguments import add_table

__all__ = [
    "add_cat",
    "add_find",
    "add_info",
    "add_ls",
    "add_report",
    "add_tree",
    "add_verify",
    "add_view",
]


def add_ls(commands: Any) -> None:
    """Add ``ls``."""
    parser = add_command(
        commands, "ls", "list files and directories", "list_commands:ls", human_sizes=True
    )
    add_archive(parser)
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        default=[],
        help="a file, directory, or pattern in the archive",
    )
    parser.add_argument(
        "-a", "--all", action="store_true", help="accepted, but all names are always listed"
    )
    add_long(parser)
    parser.add_argument("-R", "--recursive", action="store_true", help="list subdirectories too")
    add_json(parser)
    add_null(parser)


def add_tree(commands: Any) -> None:
    """Add ``tree``."""
    parser = add_command(
        commands, "tree", "draw the directory tree", "list_commands:tree", human_sizes=True
    )
    add_archive(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="where to start")
    parser.add_argument(
        "-L", "--level", type=positive_integer, metavar="N", help="descend at most N levels"
    )
    parser.add_argument("-d", "--directories", action="store_true", help="leave out files")
    add_json(parser)


def add_find(commands: Any) -> None:
    """Add ``find``."""
    parser = add_command(
        commands, "find", "find files by name and size", "list_commands:find", human_sizes=True
    )
    add_archive(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="where to start")
    # With one dash too, as find(1) spells them.
    parser.add_argument(
        "--name", "-name", metavar="PATTERN", help="match the last component, such as '*.jpg'"
    )
    parser.add_argument(
        "--path", "-path", dest="whole", metavar="PATTERN", help="match the whole path"
    )
    parser.add_argument(
        "--size",
        "-size",
        metavar="[+-]N[kMG]",
        type=SizeCondition,
        action="append",
        default=[],
        help="larger than N (+), smaller (-), or exactly N; give two for a range",
    )
    parser.add_argument(
        "--type", "-type", choices=("f", "d"), default="f", help="find files or directories"
    )
    add_long(parser)
    add_json(parser)
    add_null(parser)


def add_cat(commands: Any) -> None:
    """Add ``cat``."""
    parser = add_command(commands, "cat", "write members to standard output", "list_commands:cat")
    add_archive(parser)
    parser.add_argument(
        "members", metavar="MEMBER", nargs="+", help="a name in the archive, or a pattern"
    )
    add_max_ratio(parser)


def add_info(commands: Any) -> None:
    """Add ``info``."""
    parser = add_command(
        commands, "info", "describe archives", "inspect_commands:info", human_sizes=True
    )
    add_archives(parser, "*")
    parser.add_argument(
        "--build", action="store_true", help="describe this installation instead of an archive"
    )
    add_json(parser)


def add_verify(commands: Any) -> None:
    """Add ``verify``."""
    parser = add_command(
        commands, "verify", "read and check every member", "inspect_commands:verify"
    )
    add_archives(parser, "+")
    parser.add_argument(
        "--decode", action="store_true", help="also decode images, arrays, and other known formats"
    )
    parser.add_argument(
        "--max-pixels",
        type=positive_integer,
        metavar="N",
        help="limit for the pixels of an image; default 134217728",
    )
    parser.add_argument(
        "--max-size",
        type=byte_size,
        metavar="SIZE",
        help="limit for the decompressed size of a file; default 1GiB",
    )
    add_max_ratio(parser, "the decompressed size", "compressed size")
    parser.add_argument(
        "--max-objects",
        type=positive_integer,
        metavar="N",
        help="limit for the values in a JSON or MessagePack file; default 4194304",
    )
    add_threads(parser)
    add_workers(parser, "archives")
    add_json(parser)
    add_quiet(parser)


def add_view(commands: Any) -> None:
    """Add ``view``."""
    parser = add_command(
        commands, "view", "show archives in a web browser", "viewer.view_command:view"
    )
    add_archives(parser, "+")
    parser.add_argument(
        "--port",
        type=port,
        default=0,
        metavar="N",
        help="the port of 127.0.0.1 to listen on; by default any free one",
    )
    add_fields(parser)
    add_table(parser)
    parser.add_argument(
        "--no-browser", action="store_true", help="print the URL, but open no browser"
    )


def add_report(commands: Any) -> None:
    """Add ``report``."""
    parser = add_command(
        commands, "report", "write an HTML page about archives of images", "report_command:report"
    )
    parser.add_argument(
        "archives",
        metavar="ARCHIVE",
        nargs="+",
        type=archive_path,
        help="an archive to look at, or a pattern in quotes for several that are read as one",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=output_path,
        help="the page to write; default report.html, with --json none",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="the directory inside the archives that contains the class directories",
    )
    parser.add_argument(
        "--all", action="store_true", help="read all images, even if there are more than 20000"
    )
    add_fields(parser)
    add_nested(parser)
    parser.add_argument(
        "--threads",
        type=positive_integer,
        metavar="N",
        help="number of threads; by default one for each core",
    )
    add_access(parser)
    add_overwrite(parser, "an existing page")
    add_json(parser)
    add_quiet(parser)
