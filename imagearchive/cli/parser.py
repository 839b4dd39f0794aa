"""The arguments of every command."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from imagearchive.cli import argument_types
from imagearchive.cli.output import escape

__all__ = ["SEVERAL", "build_parser", "parse"]

SHELLS: Final = ("bash", "zsh", "fish")
KINDS: Final = ("tar", "zip", "npz", "bins")
_MINUS: Final = re.compile(r"-[0-9.]+[a-z]*", re.IGNORECASE)

# What commands use beside the module that they are in; loaded before they start.
_NEEDS: Final = {
    "index": ("imagearchive.cli.archive_argument",),
    "verify": ("imagearchive.cli.archive_argument", "imagearchive.archive.verify"),
    "extract": ("imagearchive.cli.archive_argument", "imagearchive.archive.extract"),
    "pack": ("imagearchive.archive.pack",),
    "convert": (
        "imagearchive.cli.archive_argument",
        "imagearchive.archive.convert",
        "imagearchive.containers.bins.writer",
        "imagearchive.archive.writers",
    ),
    "process": ("imagearchive.processing.processor",),
}

SEVERAL: Final = (
    "to read several archives as one, put their pattern in quotes, as in 'train-*.tar' or "
    "'{cats,dogs}.tar'"
)


def parse(argv: Sequence[str], arguments: argparse.Namespace) -> None:
    """Read the arguments of the process; print what is wrong with them and raise `SystemExit`."""
    parser, commands = build_parser()
    command = commands.get(argv[0]) if argv else None
    if command is None:
        parser.parse_args(argv, arguments)
        return
    # Intermixed, as otherwise an option in the middle would end the list of paths.
    _, unknown = command.parse_known_intermixed_args(_joined(argv[1:]), arguments)
    if unknown:
        options = [word for word in unknown if word.startswith("-")]
        hint = f"; {SEVERAL}" if not options and "archive" in arguments else ""
        command.error(f"{' '.join(options or unknown)}: not understood{hint}")


def _joined(words: Sequence[str]) -> list[str]:
    """Write ``-size -2k`` as one word, since the second would be taken for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ("-size", "--size", "--mtime") and _MINUS.fullmatch(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


class _Parser(argparse.ArgumentParser):
    """Prints the usage that fits, and where to find more."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {escape(message)}\nTry '{self.prog} --help'.\n")


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Build the parser of the whole command line, and those of the commands by name."""
    parser = _Parser(
        prog="imagearchive",
        description="List, read, check, extract, make and convert archives of training data.",
        epilog="An ARCHIVE is a TAR, ZIP, NPZ or Barecat archive, a directory of split bins, a "
        "plain directory, or a pattern of several in quotes: 'train-*.tar', "
        "'train-{0000..0146}.tar'.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands: Any = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_index,
        _add_ls,
        _add_tree,
        _add_find,
        _add_cat,
        _add_info,
        _add_verify,
        _add_extract,
        _add_pack,
        _add_convert,
        _add_process,
        _add_completion,
    ):
        add(commands)
    return parser, commands.choices


class _Version(argparse.Action):
    """Looks the version up when it is asked for, as that takes longer than all the rest here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"imagearchive {version('imagearchive')}")
        parser.exit()


def _command(
    commands: Any, name: str, summary: str, run: str, *, human: bool = False
) -> argparse.ArgumentParser:
    """Add a command; with `human`, ``-h`` is about sizes, as in ls and du, and not help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", add_help=not human
    )
    parser.set_defaults(run=run, parser=parser, needs=_NEEDS.get(name, ()))
    if human:
        parser.add_argument("--help", action="help", help="show this help and exit")
        parser.add_argument(
            "-h", "--human-readable", action="store_true", help="sizes as 1.5K, 23M, 4.0G"
        )
    return parser


def _archive(
    parser: argparse.ArgumentParser, *, optional: bool = False, partial: bool = True
) -> None:
    """Add the archive that a command reads; `partial` where damage would be an error."""
    parser.add_argument(
        "archive",
        metavar="ARCHIVE",
        nargs="?" if optional else None,
        type=argument_types.archive,
        help="what to open",
    )
    parser.add_argument(
        "--ipath",
        metavar="FILE",
        type=argument_types.path,
        help="the index file to use, or to create",
    )
    if partial:
        _partial(parser)
    else:
        parser.set_defaults(partial=True)


def _partial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--partial", action="store_true", help="of a damaged archive, take what can be read"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _null(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-0", "--null", action="store_true", help="end raw names with NUL, without any escaping"
    )


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=argument_types.count, metavar="N", help="by default 4 at most"
    )


def _overwrite(parser: argparse._ActionsContainer, what: str) -> None:
    parser.add_argument("-f", "--overwrite", action="store_true", help=f"replace {what}")


def _add_index(commands: Any) -> None:
    parser = _command(commands, "index", "build the index of archives", "write_commands:index")
    parser.add_argument(
        "archives", metavar="ARCHIVE", nargs="+", type=argument_types.archive, help="what to index"
    )
    parser.add_argument(
        "--ipath",
        metavar="FILE",
        type=argument_types.path,
        help="where to write it, for one archive",
    )
    _partial(parser)
    _overwrite(parser, "an index that is still good, too")
    _json(parser)


def _add_ls(commands: Any) -> None:
    parser = _command(
        commands, "ls", "list files and directories", "inspect_commands:ls", human=True
    )
    _archive(parser)
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        default=[],
        help="file, directory or pattern in the archive",
    )
    parser.add_argument(
        "-a", "--all", action="store_true", help="no difference: nothing is ever left out"
    )
    parser.add_argument("-l", "--long", action="store_true", help="permissions, size and time, too")
    parser.add_argument("-R", "--recursive", action="store_true", help="all that lies below, too")
    _json(parser)
    _null(parser)


def _add_tree(commands: Any) -> None:
    parser = _command(commands, "tree", "draw the directories", "inspect_commands:tree", human=True)
    _archive(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="where to start")
    parser.add_argument(
        "-L", "--level", type=argument_types.count, metavar="N", help="how deep to go"
    )
    parser.add_argument("-d", "--directories", action="store_true", help="leave out the files")


def _add_find(commands: Any) -> None:
    parser = _command(
        commands, "find", "find files by name and size", "inspect_commands:find", human=True
    )
    _archive(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="where to start")
    # The spellings of find(1) work, too.
    parser.add_argument(
        "--name", "-name", metavar="PATTERN", help="the last component matches, as in '*.jpg'"
    )
    parser.add_argument(
        "--path", "-path", dest="whole", metavar="PATTERN", help="the whole path matches"
    )
    parser.add_argument(
        "--size",
        "-size",
        metavar="[+-]N[kMG]",
        type=argument_types.SizeTest,
        action="append",
        default=[],
        help="larger (+), smaller (-) or exactly as large; more than one for a range",
    )
    parser.add_argument(
        "--type", "-type", choices=("f", "d"), default="f", help="files or directories"
    )
    parser.add_argument("-l", "--long", action="store_true", help="permissions, size and time, too")
    _json(parser)
    _null(parser)


def _add_cat(commands: Any) -> None:
    parser = _command(commands, "cat", "write members to standard output", "inspect_commands:cat")
    _archive(parser)
    parser.add_argument(
        "members", metavar="MEMBER", nargs="+", help="names in the archive, or patterns"
    )


def _add_info(commands: Any) -> None:
    parser = _command(
        commands, "info", "tell what an archive is and holds", "inspect_commands:info", human=True
    )
    _archive(parser, optional=True, partial=False)
    parser.add_argument(
        "--build", action="store_true", help="tell how this installation was built, instead"
    )
    _json(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(commands, "verify", "read and check every member", "write_commands:verify")
    _archive(parser, partial=False)
    parser.add_argument(
        "--decode", action="store_true", help="decode images, arrays and so on, too"
    )
    parser.add_argument(
        "--max-pixels",
        type=argument_types.count,
        metavar="N",
        help="of an image to decode; default 134217728",
    )
    parser.add_argument(
        "--max-size",
        type=argument_types.parse_size,
        metavar="SIZE",
        help="of what a compressed file may decode to; default 1GiB",
    )
    parser.add_argument(
        "--max-ratio",
        type=argument_types.ratio,
        metavar="N",
        help="how many times larger that may be, beyond 64 MiB; default 1000",
    )
    _threads(parser)
    _json(parser)
    _quiet(parser)


def _add_extract(commands: Any) -> None:
    parser = _command(commands, "extract", "extract into a directory", "write_commands:extract")
    _archive(parser)
    parser.add_argument(
        "target", metavar="DIR", type=argument_types.output, help="made if it is missing"
    )
    parser.add_argument(
        "members",
        metavar="MEMBER",
        nargs="*",
        default=[],
        help="names, directories or patterns; default all",
    )
    group = parser.add_mutually_exclusive_group()
    _overwrite(group, "files that are there")
    group.add_argument("--skip-existing", action="store_true", help="keep files that are there")
    parser.add_argument(
        "--skip-unsafe", action="store_true", help="extract the rest where members are refused"
    )
    _threads(parser)
    _json(parser)
    _quiet(parser)


def _add_pack(commands: Any) -> None:
    parser = _command(commands, "pack", "pack files into TAR archives", "write_commands:pack")
    parser.add_argument(
        "source",
        metavar="DIR|LIST",
        type=argument_types.path,
        help="a directory, or a file with a path per line; - is stdin",
    )
    parser.add_argument(
        "target",
        metavar="TARGET.tar",
        type=argument_types.tar_path,
        help="shards are called TARGET-000000.tar and so on",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--shards", type=argument_types.count, metavar="N", help="as many archives")
    group.add_argument(
        "--shard-size",
        type=argument_types.parse_size,
        metavar="SIZE",
        help="archives of at most that size: 1GiB",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=argument_types.path,
        default=".",
        help="what listed paths are relative to",
    )
    parser.add_argument(
        "-0", "--null", action="store_true", help="paths in LIST end with NUL, not with a line end"
    )
    parser.add_argument(
        "--mtime",
        default=0,
        type=argument_types.mtime,
        metavar="SECONDS|keep",
        help="time of all members, or that of each file; default 0",
    )
    parser.add_argument("--no-index", action="store_true", help="do not build the index")
    parser.add_argument(
        "--no-sync", action="store_true", help="do not wait until the disk has everything"
    )
    _overwrite(parser, "archives of that name")
    _json(parser)
    _quiet(parser)


def _add_convert(commands: Any) -> None:
    parser = _command(
        commands, "convert", "write as another kind of archive", "write_commands:convert"
    )
    _archive(parser)
    parser.add_argument(
        "target",
        metavar="TARGET",
        type=argument_types.output,
        help=".tar, .zip, .npz, or a directory of bins",
    )
    parser.add_argument("--to", choices=KINDS, help="where the name does not tell")
    parser.add_argument(
        "--splits", type=argument_types.count, default=128, metavar="N", help="number of bins"
    )
    parser.add_argument("--no-index", action="store_true", help="do not build the index")
    _overwrite(parser, "what is there")
    _json(parser)
    _quiet(parser)


def _add_process(commands: Any) -> None:
    parser = _command(
        commands,
        "process",
        "turn folders of annotated images into NPZ files",
        "write_commands:process",
    )
    which = parser.add_argument_group("which data")
    which.add_argument("--all", action="store_true", help="all kinds that are there")
    which.add_argument("--detector", action="store_true", help="images and boxes")
    which.add_argument("--landmarker", action="store_true", help="images and keypoints")
    which.add_argument("--teacher", action="store_true", help="images cropped to their box")
    parser.add_argument(
        "--raw-dir",
        type=argument_types.path,
        default="data/raw",
        metavar="DIR",
        help="where to read",
    )
    parser.add_argument(
        "--output-dir",
        type=argument_types.path,
        default="data/preprocessed",
        metavar="DIR",
        help="where to write",
    )
    parser.add_argument("--batch-size", type=argument_types.count, default=500, metavar="N")
    parser.add_argument(
        "--workers", type=argument_types.number, default=8, metavar="N", help="0 for none"
    )
    parser.add_argument(
        "--flush-every", type=argument_types.count, default=5, metavar="N", help="batches"
    )
    parser.add_argument("--train-split", type=argument_types.share, default=0.8, metavar="SHARE")
    parser.add_argument("--seed", type=argument_types.seed, default=0, metavar="N")
    parser.add_argument(
        "--image-size",
        type=argument_types.image_size,
        default=224,
        metavar="N|WxH|keep",
        help="stretch images to that size; keep leaves them as they are",
    )
    _json(parser)
    _quiet(parser)


def _add_completion(commands: Any) -> None:
    parser = _command(commands, "completion", "print a script for your shell", "completion:run")
    parser.add_argument("shell", choices=SHELLS)
