"""The command `view`."""

from __future__ import annotations

import argparse
import contextlib
import webbrowser

from imagearchive.cli.archive_argument import open_archive_argument
from imagearchive.cli.output import write
from imagearchive.cli.viewer.server import ViewerServer

__all__ = ["view"]


def view(arguments: argparse.Namespace) -> int:
    """Serve a page that shows the members of archives, until the command is interrupted.

    Raises
    ------
    OSError
        The port is taken.
    """
    archives = arguments.archives
    arguments.archive = archives[0] if len(archives) == 1 else archives
    with (
        open_archive_argument(arguments) as archive,
        ViewerServer(archive, arguments.port) as server,
        # Ctrl-C is how the command ends.
        contextlib.suppress(KeyboardInterrupt),
    ):
        write([server.url])
        if not arguments.no_browser:
            webbrowser.open(server.url)
        # An interrupt in the middle of accepting a connection would leave the connection open.
        with arguments.interrupts.delay():
            while not arguments.interrupts.status:
                server.handle_request()
    return 0
