"""The arguments of the commands that write."""

from __future__ import annotations

from typing import Any, Final

from imagearchive.cli.argument_types import (
    archive_path,
    byte_size,
    fraction,
    image_size,
    mtime,
    nonnegative_integer,
    output_path,
    packed_path,
    path,
    positive_integer,
    seed,
)
from imagearchive.cli.common_arguments import (
    add_access,
    add_archive,
    add_command,
    add_dask,
    add_json,
    add_max_ratio,
    add_nested,
    add_no_index,
    add_overwrite,
    add_partial,
    add_quiet,
    add_storage_options,
    add_threads,
    add_workers,
)
from imagearchive.cli.field_arguments import add_fields
from imagearchive.cli.table_arguments import add_table

__all__ = [
    "add_convert",
    "add_extract",
    "add_index",
    "add_pack",
    "add_process",
    "add_repack",
]

KINDS: Final = ("tar", "zip", "npz", "bins")


def add_index(commands: Any) -> None:
    """Add ``index``."""
    parser = add_command(
        commands, "index", "build the index files of archives", "write_commands:index"
    )
    parser.add_argument(
        "archives", metavar="ARCHIVE", nargs="+", type=archive_path, help="the archives to index"
    )
    parser.add_argument(
        "--ipath",
        "--joined",
        metavar="FILE",
        type=path,
        help="the index file or URL to write; one for all archives if there are several",
    )
    parser.add_argument(
        "--upload", action="store_true", help="save the index of an archive at a URL beside it"
    )
    add_partial(parser)
    add_nested(parser)
    add_workers(parser, "archives")
    add_access(parser)
    add_overwrite(parser, "the index even if it is up to date")
    add_json(parser)


def add_extract(commands: Any) -> None:
    """Add ``extract``."""
    parser = add_command(
        commands, "extract", "extract members into a directory", "write_commands:extract"
    )
    add_archive(parser)
    parser.add_argument(
        "target", metavar="DIR", type=output_path, help="created if it does not exist"
    )
    parser.add_argument(
        "members",
        metavar="MEMBER",
        nargs="*",
        default=[],
        help="a name, directory, or pattern in the archive; by default everything",
    )
    group = parser.add_mutually_exclusive_group()
    add_overwrite(group, "existing files")
    group.add_argument("--skip-existing", action="store_true", help="keep existing files")
    parser.add_argument(
        "--skip-unsafe",
        action="store_true",
        help="skip unsafe members instead of extracting nothing",
    )
    add_max_ratio(parser)
    add_threads(parser)
    add_json(parser)
    add_quiet(parser)


def _add_shuffle(parser: Any) -> None:
    parser.add_argument("--shuffle", action="store_true", help="write samples in random order")
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of that order; default 0"
    )


def add_pack(commands: Any) -> None:
    """Add ``pack``."""
    parser = add_command(
        commands, "pack", "pack files into TAR or ZIP archives", "write_commands:pack"
    )
    parser.add_argument(
        "source",
        metavar="DIR|LIST",
        type=path,
        help="a directory, or a file with one path per line; - is standard input",
    )
    add_storage_options(parser)
    parser.add_argument(
        "target",
        metavar="TARGET",
        type=packed_path,
        help="the .tar or .zip file or URL to write, or - for a TAR to standard output; shards are "
        "named TARGET-000000.tar and so on",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--shards", type=positive_integer, metavar="N", help="write N archives")
    group.add_argument(
        "--shard-size",
        type=byte_size,
        metavar="SIZE",
        help="write archives of at most this size, such as 1GiB",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=path,
        default=".",
        help="the directory that paths in LIST are relative to",
    )
    parser.add_argument(
        "-0", "--null", action="store_true", help="paths in LIST end with NUL, not with a newline"
    )
    _add_shuffle(parser)
    parser.add_argument(
        "--mtime",
        default=0,
        type=mtime,
        metavar="SECONDS|keep",
        help="modification time of all members, or keep that of each file; default 0",
    )
    add_no_index(parser)
    parser.add_argument(
        "--no-sync", action="store_true", help="do not wait until the data is on disk"
    )
    add_workers(parser, "shards")
    add_overwrite(parser, "existing archives")
    add_json(parser)
    add_quiet(parser)


def add_convert(commands: Any) -> None:
    """Add ``convert``."""
    parser = add_command(
        commands, "convert", "convert an archive to another format", "write_commands:convert"
    )
    add_archive(parser)
    parser.add_argument(
        "target",
        metavar="TARGET",
        type=output_path,
        help="a .tar, .zip, or .npz file or URL, or a directory for split bins",
    )
    parser.add_argument(
        "--to", choices=KINDS, help="the format; by default the name of TARGET decides"
    )
    parser.add_argument(
        "--splits", type=positive_integer, default=128, metavar="N", help="number of bins"
    )
    parser.add_argument(
        "--shards",
        type=positive_integer,
        metavar="N",
        help="write N archives, named TARGET-000000.tar and so on",
    )
    add_workers(parser, "shards")
    add_max_ratio(parser)
    add_no_index(parser)
    add_overwrite(parser, "an existing target")
    add_json(parser)
    add_quiet(parser)


def add_repack(commands: Any) -> None:
    """Add ``repack``."""
    parser = add_command(
        commands,
        "repack",
        "write images again, smaller or in another format, as shards or an NPZ",
        "repack_command:repack",
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        type=archive_path,
        help="directories or archives to read as one",
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        type=output_path,
        help="shards with {} where their number goes, such as out-{:05d}.tar; or an .npz; may be "
        "a URL",
    )
    add_access(parser)
    parser.add_argument(
        "--resize",
        type=image_size,
        metavar="N|WxH",
        help="length of the shorter side, to which larger images shrink; or the size of all images",
    )
    parser.add_argument(
        "--format", choices=("jpeg", "png", "webp"), help="encode images of other formats"
    )
    parser.add_argument(
        "--quality",
        type=positive_integer,
        default=90,
        metavar="N",
        help="quality of JPEG and WebP, from 1 to 100; default 90",
    )
    parser.add_argument(
        "--shard-size",
        type=byte_size,
        default="1GiB",
        metavar="SIZE",
        help="maximum size of a shard; default 1GiB",
    )
    parser.add_argument(
        "--shard-samples", type=positive_integer, metavar="N", help="maximum samples in a shard"
    )
    _add_shuffle(parser)
    add_fields(parser)
    add_table(parser)
    parser.add_argument(
        "--missing",
        choices=("error", "skip", "none"),
        help="with --field, what to do with samples that lack a field: an error (default), leave "
        "them out, or write them without it; with --table, error or skip images that are missing",
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out samples that cannot be read"
    )
    parser.add_argument(
        "--workers",
        type=positive_integer,
        metavar="N",
        help="number of threads, or with --dask of workers to keep busy; default all cores",
    )
    add_dask(parser, "samples")
    add_no_index(parser)
    add_overwrite(parser, "existing targets")
    add_json(parser)
    add_quiet(parser)


def add_process(commands: Any) -> None:
    """Add ``process``."""
    parser = add_command(
        commands,
        "process",
        "convert directories of annotated images to NPZ files",
        "write_commands:process",
    )
    which = parser.add_argument_group("which data to process")
    which.add_argument("--all", action="store_true", help="every kind that is present")
    which.add_argument("--detector", action="store_true", help="images and boxes")
    which.add_argument("--landmarker", action="store_true", help="images and keypoints")
    which.add_argument("--teacher", action="store_true", help="images cropped to their boxes")
    parser.add_argument(
        "--raw-dir",
        type=path,
        default="data/raw",
        metavar="DIR",
        help="the directory to read; default data/raw",
    )
    parser.add_argument(
        "--output-dir",
        type=path,
        default="data/preprocessed",
        metavar="DIR",
        help="the directory or URL to write to; default data/preprocessed",
    )
    add_storage_options(parser)
    parser.add_argument(
        "--batch-size",
        type=positive_integer,
        default=500,
        metavar="N",
        help="images per batch; default 500",
    )
    parser.add_argument(
        "--workers",
        type=nonnegative_integer,
        default=8,
        metavar="N",
        help="number of processes; 0 for none, default 8; with --dask, how many of its workers "
        "to keep busy",
    )
    add_dask(parser, "images")
    parser.add_argument(
        "--flush-every",
        type=positive_integer,
        default=5,
        metavar="N",
        help="write to disk after N batches; default 5",
    )
    parser.add_argument(
        "--train-split",
        type=fraction,
        default=0.8,
        metavar="FRACTION",
        help="fraction of the images to train on; default 0.8",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of the random split; default 0"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        default=224,
        metavar="N|WxH|keep",
        help="resize images to this size, or keep their sizes; default 224",
    )
    add_json(parser)
    add_quiet(parser)
