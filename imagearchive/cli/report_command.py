"""The command that writes a page about archives: report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from imagearchive.cli.argument_types import merge_options
from imagearchive.cli.messages import print_error
from imagearchive.cli.output import (
    escape_message,
    escape_name,
    pluralize,
    progress_bar,
    relative_path,
    write,
    write_json,
)

if TYPE_CHECKING:
    from imagearchive.processing.report.facts import ArchiveFacts

__all__ = ["report"]

FAILED: Final = 1
_DEFAULT: Final = "report.html"


def report(arguments: argparse.Namespace) -> int:
    """Write a page about archives, or print its numbers as JSON."""
    from imagearchive.processing.report.report import report as look_at

    output = arguments.output
    if output is None and not arguments.json:
        output = _DEFAULT
    with progress_bar(None, "images", arguments.quiet) as step:
        found = look_at(
            arguments.archives,
            output,
            root=arguments.root,
            all=arguments.all,
            nested=arguments.nested,
            threads=arguments.threads,
            overwrite=arguments.overwrite,
            storage_options=merge_options(arguments.storage_options),
            progress=step,
        )
    for facts in found.archives:
        if facts.problem:
            print_error(f"{facts.path}: {facts.problem}")
    if arguments.json:
        write_json(found.to_json())
    elif not arguments.quiet:
        write(escape_message(_summary(facts)) for facts in found.archives if not facts.problem)
        for common in found.common:
            names = (found.archives[number].path for number in (common.first, common.second))
            count = pluralize(common.identical, "identical image")
            write([f"{' and '.join(map(escape_name, names))}: {count}"])
        write([f"{escape_name(relative_path(output) or output)}"])
    return FAILED if any(facts.problem for facts in found.archives) else 0


def _summary(facts: ArchiveFacts) -> str:
    parts = [pluralize(facts.container["members"], "member")]
    images = facts.images
    if images is not None:
        measured = f", {images.measured} of them read" if images.measured < images.count else ""
        parts.append(pluralize(images.count, "image") + measured)
        if images.damaged:
            parts.append(f"{images.damaged} broken or truncated")
    if facts.classes is not None:
        parts.append(pluralize(len(facts.classes.counts), "class", "classes"))
    if facts.arrays:
        parts.append(pluralize(len(facts.arrays), "array"))
    return f"{facts.path}: {', '.join(parts)}"
