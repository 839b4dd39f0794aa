"""The command that writes a page about archives: report."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from imagearchive.cli.argument_types import access_options
from imagearchive.cli.field_arguments import has_fields, open_samples
from imagearchive.cli.messages import print_error
from imagearchive.cli.output import (
    escape_message,
    escape_name,
    progress_bar,
    relative_path,
    write,
    write_json,
)
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.processing.report.facts import ArchiveFacts

__all__ = ["report"]

FAILED: Final = 1
_DEFAULT: Final = "report.html"


def report(arguments: argparse.Namespace) -> int:
    """Write a page about archives, or print its numbers as JSON."""
    from imagearchive.processing.report.report import Survey

    output = arguments.output
    if output is None and not arguments.json:
        output = _DEFAULT
    with ExitStack() as opened:
        survey = opened.enter_context(
            Survey(
                _sources(arguments, opened),
                root=arguments.root,
                all=arguments.all,
                nested=arguments.nested,
                threads=arguments.threads,
                filesystem=None,
                **access_options(arguments),
            )
        )
        step = opened.enter_context(progress_bar(survey.total, "images", arguments.quiet))
        found = survey.run(output, arguments.overwrite, step)
    for facts in found.archives:
        if facts.problem:
            problem = facts.problem
            print_error(problem if facts.path in problem else f"{facts.path}: {problem}")
    if arguments.json:
        write_json(found.to_json())
    elif not arguments.quiet:
        write(escape_message(_summary(facts)) for facts in found.archives if not facts.problem)
        for common in found.common:
            names = (found.archives[number].path for number in (common.first, common.second))
            counts = _shared(common.identical, common.similar)
            write([f"{' and '.join(map(escape_name, names))}: {counts}"])
        write([f"{escape_name(relative_path(output) or output)}"])
    return FAILED if any(facts.problem for facts in found.archives) else 0


def _sources(arguments: argparse.Namespace, opened: ExitStack) -> list[Any]:
    """Return the archives, or the samples in them that ``--field`` describes."""
    if not has_fields(arguments):
        return list(arguments.archives)
    access = access_options(arguments)
    return [
        opened.enter_context(
            open_samples(arguments, archive, missing="none", strict=False, **access)
        )
        for archive in arguments.archives
    ]


def _shared(identical: int, similar: int) -> str:
    looks = "looks" if similar == 1 else "look"
    if not identical:
        return f"{pluralize(similar, 'image')} that {looks} the same"
    more = f", {similar} more that {looks} the same" if similar else ""
    return pluralize(identical, "identical image") + more


def _summary(facts: ArchiveFacts) -> str:
    parts = [pluralize(facts.container["members"], "member")]
    images = facts.images
    if images is not None:
        measured = f", {images.measured} of them read" if images.measured < images.count else ""
        parts.append(pluralize(images.count, "image") + measured)
        if images.damaged:
            parts.append(f"{images.damaged} broken or truncated")
    if facts.classes is not None:
        parts.append(pluralize(len(facts.classes.counts), "class"))
    if facts.samples is not None and facts.samples.fields:
        lacking = f", {facts.samples.incomplete} incomplete" if facts.samples.incomplete else ""
        parts.append(pluralize(facts.samples.count, "sample") + lacking)
    if facts.arrays:
        parts.append(pluralize(len(facts.arrays), "array"))
    if facts.container.get("damage"):
        parts.append("damaged")
    return f"{facts.path}: {', '.join(parts)}"
