"""The parser of the command line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from imagearchive.cli.command_arguments import add_commands
from imagearchive.cli.output import escape_message

__all__ = ["SEVERAL", "build_parser", "parse"]

_NEGATIVE_NUMBER: Final = re.compile(r"-[0-9.]+[a-z]*", re.IGNORECASE)

SEVERAL: Final = (
    "to read several archives as one, put a pattern in quotes, such as 'train-*.tar' or "
    "'{cats,dogs}.tar'"
)


def parse(argv: Sequence[str], arguments: argparse.Namespace) -> None:
    """Parse a command line; if it is wrong, print why and raise `SystemExit`."""
    parser, commands = build_parser()
    command = commands.get(argv[0]) if argv else None
    if command is None:
        parser.parse_args(argv, arguments)
        return
    # Intermixed, because otherwise an option in the middle would end the list of paths.
    _, unknown = command.parse_known_intermixed_args(_join_negative_numbers(argv[1:]), arguments)
    if unknown:
        options = [word for word in unknown if word.startswith("-")]
        hint = f"; {SEVERAL}" if not options and "archive" in arguments else ""
        command.error(f"unrecognized arguments: {' '.join(options or unknown)}{hint}")


def _join_negative_numbers(words: Sequence[str]) -> list[str]:
    """Turn ``-size -2k`` into one word; argparse would take ``-2k`` for an option."""
    joined: list[str] = []
    for word in words:
        if (
            joined
            and joined[-1] in ("-size", "--size", "--mtime")
            and _NEGATIVE_NUMBER.fullmatch(word)
        ):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


class _Parser(argparse.ArgumentParser):
    """Prints the usage of the command with an error, and how to get help."""

    def error(self, message: str) -> NoReturn:
        """Print an error and exit."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {escape_message(message)}\nTry '{self.prog} --help'.\n")


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command line, and those of the commands by name."""
    parser = _Parser(
        prog="imagearchive",
        description="List, read, check, extract, create, and convert archives of training data.",
        epilog="ARCHIVE is a TAR, ZIP, NPZ, or Barecat archive, a directory of split bins, or a "
        "plain directory. To read several archives as one, give a pattern in quotes: "
        "'train-*.tar' or 'train-{0000..0146}.tar'.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands: Any = parser.add_subparsers(metavar="COMMAND", required=True)
    add_commands(commands)
    return parser, commands.choices


class _Version(argparse.Action):
    """Looks up the version only when it is asked for, because the lookup is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"imagearchive {version('imagearchive')}")
        parser.exit()
