"""Commands that describe and check archives: info, verify."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

import numpy as np

from imagearchive.archive.describe import describe, describe_left_out
from imagearchive.cli.archive_argument import open_archive_argument
from imagearchive.cli.argument_types import access_options
from imagearchive.cli.messages import report_errors, with_options
from imagearchive.cli.output import (
    escape_message,
    escape_name,
    file_size,
    format_size,
    progress_bar,
    relative_path,
    write,
    write_json,
)
from imagearchive.containers.left_out import describe_reason
from imagearchive.errors.plurals import pluralize

__all__ = ["info", "verify"]

FAILED: Final = 1


# ---------------------------------------------------------------- info


# How facts are called in the text, where that is not the key of the JSON.
_LABELS: Final = {"libjpeg_turbo": "libjpeg-turbo"}


def info(arguments: argparse.Namespace) -> int:
    """Describe archives, or how this installation was built."""
    if arguments.build:
        described = [_build_facts()]
    elif not arguments.archives:
        arguments.parser.error("name an archive, or use --build")
    else:
        described = list(_each_archive(arguments, _archive_facts))
    if arguments.json:
        write_json(described[0] if len(described) == 1 else described)
    else:
        _write_described(described, arguments)
    return FAILED if any("error" in facts for facts in described) else 0


def _write_described(described: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    blank: list[str] = []
    for number, facts in enumerate(described):
        if "error" in facts:
            continue
        if len(described) > 1:
            title = escape_name(str(arguments.archives[number]))
            write([*blank, f"{title}:"])
            blank = [""]
        _write_facts(facts, arguments.human_readable)


def _each_archive(
    arguments: argparse.Namespace, describe: Callable[[argparse.Namespace], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the result of a function for each archive of a command.

    The errors of one of several archives are printed, and are the result for it.
    """
    several = len(arguments.archives) > 1
    if arguments.ipath is not None and several:
        arguments.parser.error("--ipath names the index of one archive")
    for archive in arguments.archives:
        one = argparse.Namespace(**{**vars(arguments), "archive": archive})
        if not several:
            yield describe(one)
            continue
        with report_errors() as errors:
            facts = describe(one)
        yield {"archive": relative_path(str(archive)), "error": errors[0]} if errors else facts


def _write_facts(facts: dict[str, Any], human_readable: bool) -> None:
    sizes = ("size", "stored", "index_size", "largest")
    width = max(map(len, facts)) + 1
    for key, value in facts.items():
        if key == "compressed":
            continue
        if key == "format":
            compressed = facts["compressed"]
            shown = f"{value}, compressed with {compressed}" if compressed else value
        elif key == "left_out":
            names = [f"{one['name']} ({one['reason']})" for one in value["members"]]
            reasons = [f"{reason} {count}" for reason, count in value["counts"].items()]
            shown = f"{', '.join(reasons)}: {_first(names, value['count'])}"
        elif key == "arrays":
            shown = "; ".join(f"{escape_name(name)} {_shown(one)}" for name, one in value.items())
        elif isinstance(value, dict):
            counts = (f"{escape_name(str(name))} {count}" for name, count in value.items())
            shown = ", ".join(counts) or "-"
        elif isinstance(value, list):
            shown = _first(value, len(value))
        elif key in sizes:
            shown = format_size(int(value), human_readable)
        elif isinstance(value, bool):
            shown = "yes" if value else "no"
        else:
            shown = escape_name(str(value))
        label = _LABELS.get(key, key.replace("_", " "))
        write([f"{label + ':':<{width}} {shown}"])


def _first(names: list[Any], count: int) -> str:
    """Return the first five names, and how many there are if there are more."""
    shown = ", ".join(escape_name(str(name)) for name in names[:5])
    return f"{shown}, … ({count})" if count > min(len(names), 5) else shown


def _shown(array: dict[str, Any]) -> str:
    if "error" in array:
        return f"({escape_name(array['error'])})"
    return f"{array['dtype']} {tuple(array['shape'])}"


def _archive_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with open_archive_argument(arguments) as archive:
        for key, value in describe(archive).items():
            facts[key] = value
            if key == "files":
                facts[key] = [relative_path(path) for path in value]
            elif key == "index":
                facts[key] = relative_path(value) or "in memory"
                facts["index_size"] = file_size(value)
    return facts


def _build_facts() -> dict[str, Any]:
    import importlib.util
    import platform
    from importlib.metadata import version

    import PIL

    from imagearchive.images.render import HAVE_JPEG

    optional = {
        "torch": "torch",
        "zstandard": "compressed",
        "obstore": "remote",
        "distributed": "dask",
        "msgpack": "msgpack",
        "shtab": "completion",
    }
    return {
        "imagearchive": version("imagearchive"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": bool(HAVE_JPEG),
        "optional_packages": {
            name: "installed"
            if importlib.util.find_spec(name)
            else f"missing (imagearchive[{extra}])"
            for name, extra in optional.items()
        },
    }


# ---------------------------------------------------------------- verify


def verify(arguments: argparse.Namespace) -> int:
    """Read and check every member."""
    results = []
    if arguments.workers is None and arguments.dask is None:
        verified = _each_archive(arguments, _verify_one)
    else:
        verified = _verify_on_executor(arguments)
    for found in verified:
        results.append(found)
        if not arguments.json and "error" not in found:
            _write_verified(found, arguments)
    if arguments.json:
        write_json(results[0] if len(results) == 1 else results)
    failed = any("error" in found or found["failures"] for found in results)
    return FAILED if failed else 0


def _verify_on_executor(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Verify archives in processes or on a cluster, each file of a pattern for itself."""
    from imagearchive.cli.executor_argument import open_executor_argument
    from imagearchive.storage.executors import open_executor, run_tasks
    from imagearchive.storage.path_options import add_options
    from imagearchive.storage.patterns import expand_paths

    given = add_options(arguments.archives, **access_options(arguments))
    arguments.archives = expand_paths(given)
    if arguments.ipath is not None and len(arguments.archives) > 1:
        arguments.parser.error("--ipath names the index of one archive")
    # Neither the parser nor the progress of a member is of use in another process.
    unused = dict.fromkeys(["archives", "interrupts", "parser", "run"])
    options = vars(arguments) | unused | {"quiet": True, "threads": arguments.threads or 1}
    tasks = [argparse.Namespace(**{**options, "archive": path}) for path in arguments.archives]
    with (
        open_executor_argument(arguments) as executor,
        open_executor(executor or 1) as opened,
        progress_bar(len(tasks), "archives", arguments.quiet) as step,
        closing(run_tasks(_verify_one, tasks, opened, in_order=True)) as outcomes,
    ):
        for outcome in outcomes:
            with report_errors() as errors:
                found = outcome.get()
            if step is not None:
                step(1)
            shown = relative_path(outcome.item.archive)
            # A worker elsewhere has another working directory.
            yield {"archive": shown, "error": errors[0]} if errors else found | {"archive": shown}


def _verify_one(arguments: argparse.Namespace) -> dict[str, Any]:
    from imagearchive.archive.verify import verify as check
    from imagearchive.storage.limits import Limits

    limits = Limits(
        arguments.max_size or Limits.max_size,
        arguments.max_ratio or Limits.max_ratio,
        arguments.max_pixels or Limits.max_pixels,
        arguments.max_objects or Limits.max_objects,
    )
    with (
        open_archive_argument(arguments) as archive,
        progress_bar(len(archive), "members", arguments.quiet) as step,
    ):
        found = check(
            archive,
            decode=arguments.decode,
            limits=limits,
            threads=arguments.threads,
            progress=step,
        )
    return {
        "archive": relative_path(str(arguments.archive)),
        "files": found.files,
        "bytes": found.bytes,
        "checksums": found.checked,
        "decoded": found.decoded,
        "left_out": describe_left_out(found.left_out),
        "failures": [
            {
                "position": failure.position,
                "name": failure.name,
                # The intact part has been verified, so --partial, which verify lacks, is no advice.
                "reason": with_options(
                    failure.message,
                    [hint for hint in failure.hints if hint.argument != "strict=False"],
                ),
            }
            for failure in found.failures
        ],
    }


def _write_verified(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    start = f"{escape_name(found['archive'])}: " if len(arguments.archives) > 1 else ""
    failures = found["failures"]
    write(f"{start}{escape_name(one['name'])}: {escape_message(one['reason'])}" for one in failures)
    if arguments.quiet:
        return
    failed = {one["name"] for one in failures}
    for one in found["left_out"]["members"]:
        # What is listed by the archive but cannot be read, such as an encrypted member, has failed.
        if one["name"] in failed:
            continue
        reason = describe_reason(one["reason"])
        write([f"{start}{escape_name(one['name'])}: left out or unreadable: {reason}"])
    summary = (
        f"{pluralize(found['files'], 'member')} read, "
        f"{pluralize(found['checksums'], 'checksum')} compared, "
        f"{found['decoded']} decoded, {pluralize(len(failures), 'failure')}"
    )
    count = found["left_out"]["count"]
    write([start + summary + (f", {count} left out" if count else "")])
