"""The command `view`."""

from __future__ import annotations

import argparse
import contextlib
import webbrowser
from collections.abc import Mapping
from typing import Any

from imagearchive.archive.archive import Archive
from imagearchive.cli.archive_argument import open_archive_argument
from imagearchive.cli.argument_types import access_options
from imagearchive.cli.field_arguments import has_fields, open_samples
from imagearchive.cli.output import write
from imagearchive.cli.table_arguments import table_options
from imagearchive.cli.viewer.classes import Classes, classes_of_table
from imagearchive.cli.viewer.samples import FieldSamples
from imagearchive.cli.viewer.server import ViewerServer
from imagearchive.datasets.listed_samples import list_options
from imagearchive.datasets.selection import Selection

__all__ = ["view"]


def view(arguments: argparse.Namespace) -> int:
    """Serve a page that shows the members of archives, until the command is interrupted.

    Raises
    ------
    OSError
        The port is taken.
    """
    archives = arguments.archives
    table = table_options(arguments)
    arguments.archive = archives[0] if len(archives) == 1 else archives
    with contextlib.ExitStack() as opened:
        archive, samples = _open(arguments, opened)
        classes = None if table is None else _classes_of_table(table, archive)
        server = opened.enter_context(ViewerServer(archive, arguments.port, samples, classes))
        # Ctrl-C is how the command ends.
        opened.enter_context(contextlib.suppress(KeyboardInterrupt))
        write([server.url])
        if not arguments.no_browser:
            webbrowser.open(server.url)
        # An interrupt in the middle of accepting a connection would leave the connection open.
        with arguments.interrupts.delay():
            while not arguments.interrupts.status:
                server.handle_request()
    return 0


def _open(
    arguments: argparse.Namespace, opened: contextlib.ExitStack
) -> tuple[Archive, FieldSamples | None]:
    """Open the archive, and the samples in it that ``--field`` describes."""
    if not has_fields(arguments):
        return opened.enter_context(open_archive_argument(arguments)), None
    if arguments.decompress_to is not None:
        arguments.parser.error("--decompress-to cannot be combined with --field")
    dataset = opened.enter_context(
        open_samples(
            arguments,
            arguments.archive,
            missing="none",
            ipath=arguments.ipath,
            strict=not arguments.partial,
            **access_options(arguments),
        )
    )
    return dataset.archives[0], FieldSamples(dataset)


def _classes_of_table(table: Mapping[str, Any], archive: Archive) -> Classes:
    """Return the classes that ``--table`` gives to members; rows of other images are left out."""
    options = list_options(**table, split=None, split_column="split", members=None, missing="drop")
    assert options is not None
    selection = Selection(archive, "", None, None, None, None, False)
    return classes_of_table(len(archive), options.resolve(archive, selection, None))
