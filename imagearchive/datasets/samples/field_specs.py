"""The argument ``fields=``: from patterns, pairs, and kinds to the kind of every field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from imagearchive.codecs.codec_registry import CODECS, extension_of
from imagearchive.datasets.samples.patterns import Pattern
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import shorten
from imagearchive.images.pillow import FORMATS
from imagearchive.transforms.compound_fields import Coco, Npz
from imagearchive.transforms.fields import (
    KEY,
    Array,
    Boxes,
    ColumnField,
    Field,
    Image,
    Json,
    Label,
    Text,
)

__all__ = ["own_classes", "resolve_fields"]

_KINDS: Final[dict[str, type[Field]]] = {
    **dict.fromkeys((*FORMATS, "jp2", "avif"), Image),
    "txt": Text,
    "json": Json,
    "npy": Array,
    "npz": Npz,
    "cls": Label,
}


def resolve_fields(fields: Any) -> dict[str, Field]:
    """Return the kind of each field, with its source.

    Parameters
    ----------
    fields : mapping of str to str, (archive, str), or Field
        A pattern, an archive and a pattern, or a kind that has either.

    Raises
    ------
    OptionError, OptionTypeError
        There is no field, or a field has no source, or no kind.
    """
    if not isinstance(fields, Mapping) or not fields:
        raise OptionTypeError(
            f"fields must map names to patterns, such as {{'image': '{{key}}.jpg'}}, "
            f"got {shorten(fields)}"
        )
    resolved = {_check_name(name): _resolve(name, field) for name, field in fields.items()}
    if all(field.pattern is None for field in resolved.values()):
        raise OptionError(
            "no field has a pattern; a sample needs a member of an archive, such as 'image': "
            "'images/{key}.jpg'"
        )
    files = [name for name, field in resolved.items() if isinstance(field, Coco)]
    if len(files) > 1:
        raise OptionError(
            f"the fields {files[0]!r} and {files[1]!r} are both of the kind Coco, whose "
            f"entries have the same names; pass one"
        )
    if files and not any(isinstance(field, Image) for field in resolved.values()):
        raise OptionError(
            f"the field {files[0]!r} describes images, and there is no field of the kind Image; "
            f"add one, such as 'image': 'train2017/{{key}}.jpg'"
        )
    return resolved


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not name or name == KEY:
        raise OptionError(f"the name of a field must be a str other than {KEY!r}, got {name!r}")
    return name


def _resolve(name: str, given: Any) -> Field:
    if isinstance(given, str):
        field = Field(given)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        field = Field(*given)
    elif isinstance(given, Field):
        field = given
    else:
        raise OptionTypeError(
            f"the field {name!r} must be a pattern, an (archive, pattern) pair, or a kind such as "
            f"Mask(pattern), got {shorten(given)}"
        )
    if isinstance(field, ColumnField) and field.column is not None:
        return field
    if field.pattern is None:
        raise OptionError(
            f"the field {name!r} has no pattern; write {type(field).__name__}('{{key}}.EXT')"
        )
    if type(field) is not Field or field.decoder is not None:
        return field
    kind = _kind_of(name, field.pattern)
    source = [field.pattern] if field.archive is None else [field.archive, field.pattern]
    return kind(*source)


def _kind_of(name: str, pattern: str) -> type[Field]:
    """Return the kind of a field by the extensions in its pattern."""
    found = []
    for literals in Pattern.parse(pattern).alternatives:
        # What the key holds does not matter.
        text = "key" + literals[-1].decode("utf-8", "surrogateescape")
        extension = extension_of(text)
        while extension in CODECS and CODECS[extension].stackable:
            text = text[: -len(extension) - 1]
            extension = extension_of(text)
        if extension not in _KINDS and extension not in CODECS:
            what = f"the extension .{extension}" if extension else "no extension"
            raise OptionError(
                f"the pattern {pattern!r} of the field {name!r} has {what}, for which there is no "
                f"codec; say what it is, as in Text({pattern!r}) or Bytes({pattern!r}), or pass "
                f"decoder="
            )
        found.append(_KINDS.get(extension, Field))
    if len(set(found)) > 1:
        names = " and ".join(sorted({kind.__name__ for kind in found}))
        raise OptionError(
            f"the alternatives of the field {name!r} ({pattern!r}) are of different kinds, {names}"
        )
    return found[0]


def own_classes(name: str, field: Field, fields: Mapping[str, Field]) -> str | None:
    """Return the entry that the classes in a file of boxes become, if it is not another field.

    Raises
    ------
    OptionError
        There are several.
    """
    if not isinstance(field, Boxes):
        return None
    own = [label for label in field.labels if label not in fields]
    if len(own) > 1:
        raise OptionError(
            f"labels= of the field {name!r} names {' and '.join(map(repr, own))}, which are not "
            f"fields; a file of boxes has one class for each"
        )
    return own[0] if own else None
