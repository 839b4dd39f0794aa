"""The command `cache`: lists and removes cached indexes, and blocks of remote archives."""

from __future__ import annotations

import argparse
import time
from typing import Final

from imagearchive.cli.output import (
    escape_name,
    format_size,
    format_time,
    write,
    write_json,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.index.cache import CachedIndex, cached_indexes, remove_cached
from imagearchive.index.column_checks import forget_checked

__all__ = ["cache"]

NANOSECONDS_PER_DAY: Final = 24 * 60 * 60 * 1_000_000_000


def cache(arguments: argparse.Namespace) -> int:
    """List what is in a cache, or remove some of it."""
    chosen = arguments.stale or arguments.all or arguments.older_than is not None
    if arguments.clean and not chosen:
        arguments.parser.error("--clean needs --stale, --older-than, or --all")
    if arguments.dry_run and not arguments.clean:
        arguments.parser.error("--dry-run needs --clean")
    if arguments.cache_dir is not None:
        return _show_blocks(arguments)
    indexes = [index for index in cached_indexes() if not chosen or _matches(index, arguments)]
    if arguments.clean and not arguments.dry_run:
        for index in indexes:
            remove_cached(index)
        if arguments.all:
            forget_checked()
    if arguments.json:
        write_json([index._asdict() for index in indexes])
        return 0
    write(_line(index, arguments.human_readable) for index in indexes)
    size = format_size(sum(index.size for index in indexes), True)
    done = "removed" if not arguments.dry_run else "to remove"
    total = f"{pluralize(len(indexes), 'index')}, {size}"
    write([f"{total} {done}" if arguments.clean else total])
    return 0


def _show_blocks(arguments: argparse.Namespace) -> int:
    """Show how much there is in a folder of blocks, or remove some of it."""
    # Imported here, because few programs need it.
    from imagearchive.storage.remote.block_folder import block_usage, remove_blocks

    if arguments.stale:
        arguments.parser.error(
            "--stale chooses indexes; blocks of objects that were replaced are removed when there "
            "is no room, or by --older-than and --all"
        )
    before = None
    if arguments.older_than is not None and not arguments.all:
        before = time.time_ns() - int(arguments.older_than) * NANOSECONDS_PER_DAY
    usage = block_usage(arguments.cache_dir, before)
    if arguments.clean and not arguments.dry_run:
        remove_blocks(arguments.cache_dir, before)
    if arguments.json:
        write_json(usage._asdict())
        return 0
    total = f"{pluralize(usage.blocks, 'block')}, {format_size(usage.size, True)}"
    if arguments.clean:
        write([f"{total} {'to remove' if arguments.dry_run else 'removed'}"])
    elif usage.blocks:
        write([f"{total}, last used {format_time(usage.last_used_ns)}"])
    else:
        write([total])
    return 0


def _matches(index: CachedIndex, arguments: argparse.Namespace) -> bool:
    """Whether an index is one of those that are asked for."""
    if arguments.all:
        return True
    if arguments.stale and index.state != "stale":
        return False
    if arguments.older_than is None:
        return True
    age: int = time.time_ns() - index.last_used_ns
    return age > int(arguments.older_than) * NANOSECONDS_PER_DAY


def _line(index: CachedIndex, human: bool) -> str:
    archive = escape_name(index.archives[0]) if index.archives else "-"
    if len(index.archives) > 1:
        archive += f" and {len(index.archives) - 1} more"
    size = format_size(index.size, human)
    return (
        f"{size:>10} {format_time(index.last_used_ns)} {index.state:<7} "
        f"{escape_name(index.path)}: {archive}"
    )
