"""The arguments that name a table of images and classes: ``--table`` and what goes with it."""

from __future__ import annotations

import argparse
from typing import Any

from imagearchive.cli.argument_types import archive_path

__all__ = ["add_table", "table_options"]


def add_table(parser: Any) -> None:
    """Add ``--table``, ``--image``, and ``--label``."""
    parser.add_argument(
        "--table",
        type=archive_path,
        metavar="FILE",
        help="a table with the classes of the images, as CSV, JSON, or Parquet; may be inside the "
        "archive",
    )
    parser.add_argument("--image", metavar="COLUMN", help="with --table, the names of the images")
    parser.add_argument("--label", metavar="COLUMN", help="with --table, the classes")


def table_options(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return ``table``, ``image``, and ``label`` as `ImageArchive` takes them; None without."""
    given = {name: getattr(arguments, name) for name in ("table", "image", "label")}
    if all(one is None for one in given.values()):
        return None
    if None in given.values():
        arguments.parser.error("--table, --image, and --label need each other")
    # A text file has no header.
    if arguments.table.endswith(".txt"):
        for name in ("image", "label"):
            if given[name].isdecimal():
                given[name] = int(given[name])
    return given
