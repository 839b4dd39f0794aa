"""The commands, in the order of the help."""

from __future__ import annotations

from typing import Any, Final

from imagearchive.cli.argument_types import path, positive_integer
from imagearchive.cli.common_arguments import add_command, add_json
from imagearchive.cli.inspect_arguments import (
    add_cat,
    add_find,
    add_info,
    add_ls,
    add_report,
    add_tree,
    add_verify,
    add_view,
)
from imagearchive.cli.write_arguments import (
    add_convert,
    add_extract,
    add_index,
    add_pack,
    add_process,
    add_repack,
)

__all__ = ["add_commands"]

SHELLS: Final = ("bash", "zsh", "fish")


def add_commands(commands: Any) -> None:
    """Add a parser for each command.

    Parameters
    ----------
    commands
        What `argparse.ArgumentParser.add_subparsers` returned.
    """
    for add in (
        add_index,
        add_ls,
        add_tree,
        add_find,
        add_cat,
        add_info,
        add_verify,
        add_view,
        add_report,
        add_extract,
        add_pack,
        add_convert,
        add_repack,
        add_process,
        _add_cache,
        _add_completion,
    ):
        add(commands)


def _add_cache(commands: Any) -> None:
    parser = add_command(
        commands,
        "cache",
        "list or remove cached indexes, or the blocks of remote archives in a folder",
        "cache_command:cache",
        human_sizes=True,
    )
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=path,
        help="look at the blocks in a folder that --cache-dir of other commands, or cache_dir= in "
        "Python, names, instead of indexes",
    )
    parser.add_argument("--clean", action="store_true", help="remove what the next options choose")
    parser.add_argument(
        "--stale", action="store_true", help="indexes of archives that have changed or are gone"
    )
    parser.add_argument(
        "--older-than",
        type=positive_integer,
        metavar="DAYS",
        help="what was not used for so many days",
    )
    parser.add_argument("--all", action="store_true", help="everything")
    parser.add_argument("--dry-run", action="store_true", help="show what --clean would remove")
    add_json(parser)


def _add_completion(commands: Any) -> None:
    parser = add_command(
        commands, "completion", "print the completion script of a shell", "completion:completion"
    )
    parser.add_argument("shell", choices=SHELLS)
