"""The arguments that say what the fields of samples are: ``--field`` and what goes with it."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from imagearchive.datasets.samples.dataset import SampleArchive
    from imagearchive.transforms.fields import Field

__all__ = ["add_fields", "has_fields", "open_samples"]

KINDS: Final = (
    *("image", "mask", "boxes", "boxes-xywh", "boxes-yolo", "keypoints", "text", "json", "array"),
    *("bytes", "label"),
)
_FIELD: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(?:([a-z]+(?:-[a-z]+)?):)?(.*\{key\}.*)")


def add_fields(parser: Any) -> None:
    """Add ``--field``, ``--keys``, and ``--whole-key``."""
    parser.add_argument(
        "--field",
        action="append",
        metavar="NAME=KIND:PATTERN",
        help="a field of each sample, such as mask=mask:seg/{key}.png; may be repeated. Kinds: "
        "image, mask, boxes, boxes-xywh, boxes-yolo, keypoints, text, json, array, bytes, label; "
        "by default the extension decides",
    )
    parser.add_argument(
        "--keys", metavar="FILE", help="with --field, a text file of the keys of the samples"
    )
    parser.add_argument(
        "--whole-key",
        action="store_true",
        help="with --field, the keys of samples may contain dots",
    )


def has_fields(arguments: argparse.Namespace) -> bool:
    """Whether ``--field`` is given; the options that go with it are refused without it."""
    if not arguments.field:
        for option, given in (("--keys", arguments.keys), ("--whole-key", arguments.whole_key)):
            if given:
                arguments.parser.error(f"{option} needs --field")
    return bool(arguments.field)


def open_samples(
    arguments: argparse.Namespace, archives: str | list[str], **options: Any
) -> SampleArchive:
    """Open archives as samples of the fields that the arguments describe."""
    from imagearchive.datasets.samples.dataset import SampleArchive

    fields: dict[str, Field | str] = {}
    for text in arguments.field:
        name, field = _field(arguments.parser, text)
        if name in fields:
            arguments.parser.error(
                f"--field: there are two fields {name!r}; their names must differ"
            )
        fields[name] = field
    # Some commands do not have the option. By default, fields decide.
    nested: Any = getattr(arguments, "nested", "auto")
    return SampleArchive(
        archives,
        fields,
        keys=arguments.keys,
        first_dot=not arguments.whole_key,
        nested=None if nested == "auto" else nested,
        **options,
    )


def _field(parser: argparse.ArgumentParser, text: str) -> tuple[str, Field | str]:
    """Return the name and the kind of a field, given as ``NAME=KIND:PATTERN``."""
    from imagearchive.transforms import fields as kinds

    match = _FIELD.fullmatch(text)
    if match is None:
        parser.error(
            f"--field must be NAME=PATTERN or NAME=KIND:PATTERN with {{key}}, got {text!r}"
        )
    name, kind, pattern = match.groups()
    if kind is None:
        return name, pattern
    if kind == "boxes-yolo":
        classes = f"{name}_classes"
        boxes = kinds.Boxes(pattern, format="cxcywh", relative=True, labels=classes)
        return name, boxes
    if kind == "boxes-xywh":
        return name, kinds.Boxes(pattern, format="xywh")
    if kind not in KINDS:
        parser.error(f"--field: the kind must be one of {', '.join(KINDS)}, got {kind!r}")
    made: Field = getattr(kinds, kind.capitalize())(pattern)
    return name, made
