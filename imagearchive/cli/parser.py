"""The arguments of every command."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

__all__ = ["build_parser", "parse_size"]

SHELLS: Final = ("bash", "zsh", "fish")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Read a size: ``4096``, ``64k``, ``1.5M``, ``1GiB``; the units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 4096, 64k, 1.5M or 1GiB")
    number, unit = match.groups()
    return int(float(number) * 1024 ** " kmgt".index(unit.lower() or " "))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="imagearchive",
        description="List, read, check, extract, make and convert archives of training data.",
        epilog="An ARCHIVE is a TAR, ZIP, NPZ or Barecat archive, a directory of split bins, a "
        "plain directory, or a pattern of several: 'train-{0000..0146}.tar'.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_index(commands)
    _add_ls(commands)
    _add_tree(commands)
    _add_find(commands)
    _add_cat(commands)
    _add_info(commands)
    _add_verify(commands)
    _add_extract(commands)
    _add_pack(commands)
    _add_convert(commands)
    _add_process(commands)
    _add_completion(commands)
    return parser


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
    parser.set_defaults(run=run)
    if human:
        parser.add_argument("--help", action="help", help="show this help and exit")
        parser.add_argument(
            "-h", "--human-readable", action="store_true", help="sizes as 1.5K, 23M, 4.0G"
        )
    return parser


def _archive(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument(
        "archive", metavar="ARCHIVE", nargs="?" if optional else None, help="what to open"
    )
    parser.add_argument("--ipath", metavar="FILE", help="the index file to use, or to create")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _null(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-0", "--null", action="store_true", help="end raw names with NUL, without any escaping"
    )


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_count, metavar="N", help="by default 4 at most")


def _overwrite(parser: argparse._ActionsContainer, what: str) -> None:
    parser.add_argument("-f", "--overwrite", action="store_true", help=f"replace {what}")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def _add_index(commands: Any) -> None:
    parser = _command(commands, "index", "build the index of archives", "making:index")
    parser.add_argument("archives", metavar="ARCHIVE", nargs="+", help="what to index")
    parser.add_argument("--ipath", metavar="FILE", help="where to write it, for one archive")
    _overwrite(parser, "an index that is still good, too")
    _json(parser)


def _add_ls(commands: Any) -> None:
    parser = _command(commands, "ls", "list files and directories", "listing:ls", human=True)
    _archive(parser)
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="file, directory or pattern in the archive"
    )
    parser.add_argument("-l", "--long", action="store_true", help="permissions, size and time, too")
    parser.add_argument("-R", "--recursive", action="store_true", help="all that lies below, too")
    _json(parser)
    _null(parser)


def _add_tree(commands: Any) -> None:
    parser = _command(commands, "tree", "draw the directories", "listing:tree", human=True)
    _archive(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="where to start")
    parser.add_argument("-L", "--level", type=_count, metavar="N", help="how deep to go")
    parser.add_argument("-d", "--directories", action="store_true", help="leave out the files")


def _add_find(commands: Any) -> None:
    parser = _command(commands, "find", "find files by name and size", "listing:find", human=True)
    _archive(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="where to start")
    parser.add_argument(
        "--name", metavar="PATTERN", help="the last component matches, as in '*.jpg'"
    )
    parser.add_argument("--path", dest="whole", metavar="PATTERN", help="the whole path matches")
    parser.add_argument(
        "--size",
        metavar="[+-]N[kMG]",
        action="append",
        default=[],
        help="larger (+), smaller (-) or exactly as large; more than one for a range",
    )
    parser.add_argument("--type", choices=("f", "d"), default="f", help="files or directories")
    parser.add_argument("-l", "--long", action="store_true", help="permissions, size and time, too")
    _json(parser)
    _null(parser)


def _add_cat(commands: Any) -> None:
    parser = _command(commands, "cat", "write members to standard output", "listing:cat")
    _archive(parser)
    parser.add_argument("members", metavar="MEMBER", nargs="+", help="names in the archive")


def _add_info(commands: Any) -> None:
    parser = _command(
        commands, "info", "tell what an archive is and holds", "listing:info", human=True
    )
    _archive(parser, optional=True)
    parser.add_argument(
        "--build", action="store_true", help="tell how this installation was built, instead"
    )
    _json(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(commands, "verify", "read and check every member", "making:verify")
    _archive(parser)
    parser.add_argument(
        "--decode", action="store_true", help="decode images, arrays and so on, too"
    )
    _threads(parser)
    _json(parser)
    _quiet(parser)


def _add_extract(commands: Any) -> None:
    parser = _command(commands, "extract", "extract into a directory", "making:extract")
    _archive(parser)
    parser.add_argument("target", metavar="DIR", help="made if it is missing")
    parser.add_argument(
        "members", metavar="MEMBER", nargs="*", help="names, directories or patterns; default all"
    )
    group = parser.add_mutually_exclusive_group()
    _overwrite(group, "files that are there")
    group.add_argument("--skip-existing", action="store_true", help="keep files that are there")
    parser.add_argument(
        "--skip-unsafe", action="store_true", help="extract the rest where members are refused"
    )
    _threads(parser)
    _quiet(parser)


def _add_pack(commands: Any) -> None:
    parser = _command(commands, "pack", "pack files into TAR archives", "making:pack")
    parser.add_argument(
        "source", metavar="DIR|LIST", help="a directory, or a file with a path per line; - is stdin"
    )
    parser.add_argument(
        "target", metavar="TARGET.tar", help="shards are called TARGET-000000.tar …"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--shards", type=_count, metavar="N", help="as many archives")
    group.add_argument(
        "--shard-size", type=parse_size, metavar="SIZE", help="archives of at most that size: 1GiB"
    )
    parser.add_argument(
        "--root", metavar="DIR", default=".", help="what listed paths are relative to"
    )
    parser.add_argument(
        "-0", "--null", action="store_true", help="paths in LIST end with NUL, not with a line end"
    )
    parser.add_argument(
        "--mtime",
        default="0",
        metavar="SECONDS|keep",
        help="time of all members, or that of each file; default 0",
    )
    parser.add_argument("--no-index", action="store_true", help="do not build the index")
    parser.add_argument(
        "--no-sync", action="store_true", help="do not wait until the disk has everything"
    )
    _overwrite(parser, "archives of that name")
    _quiet(parser)


def _add_convert(commands: Any) -> None:
    parser = _command(commands, "convert", "write as another kind of archive", "making:convert")
    _archive(parser)
    parser.add_argument("target", metavar="TARGET", help=".tar, .zip, .npz, or a directory of bins")
    parser.add_argument(
        "--to", choices=("tar", "zip", "npz", "bins"), help="where the name does not tell"
    )
    parser.add_argument("--splits", type=_count, default=128, metavar="N", help="number of bins")
    parser.add_argument("--no-index", action="store_true", help="do not build the index")
    _overwrite(parser, "what is there")
    _quiet(parser)


def _add_process(commands: Any) -> None:
    parser = _command(
        commands, "process", "turn folders of annotated images into NPZ files", "making:process"
    )
    which = parser.add_argument_group("which data")
    which.add_argument("--all", action="store_true", help="all kinds that are there")
    which.add_argument("--detector", action="store_true", help="images and boxes")
    which.add_argument("--landmarker", action="store_true", help="images and keypoints")
    which.add_argument("--teacher", action="store_true", help="images cropped to their box")
    parser.add_argument("--raw-dir", default="data/raw", metavar="DIR", help="where to read")
    parser.add_argument(
        "--output-dir", default="data/preprocessed", metavar="DIR", help="where to write"
    )
    parser.add_argument("--batch-size", type=_count, default=500, metavar="N")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="0 for none")
    parser.add_argument("--flush-every", type=_count, default=5, metavar="N", help="batches")
    parser.add_argument("--train-split", type=_share, default=0.8, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--image-size",
        default="224",
        metavar="N|WxH|keep",
        help="stretch images to that size; keep leaves them as they are",
    )
    _quiet(parser)


def _add_completion(commands: Any) -> None:
    parser = _command(commands, "completion", "print a script for your shell", "completion:run")
    parser.add_argument("shell", choices=SHELLS)
