"""Opens the archives of the fields of a `SampleArchive`, and pairs their members."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from imagearchive.archive.archive import Archive
from imagearchive.datasets.samples.annotations import Annotations, add_annotations
from imagearchive.datasets.samples.coco_annotations import CocoAnnotations
from imagearchive.datasets.samples.keys import read_keys
from imagearchive.datasets.samples.pairing import FieldMembers, Pairing, pair_members
from imagearchive.datasets.samples.pairing_file import open_pairing
from imagearchive.datasets.samples.patterns import Pattern
from imagearchive.datasets.samples.sample_members import SampleMembers
from imagearchive.datasets.samples.table_annotations import TableAnnotations
from imagearchive.storage.patterns import absolute_paths, as_text
from imagearchive.transforms.compound_fields import Coco
from imagearchive.transforms.fields import Image

if TYPE_CHECKING:
    from imagearchive.datasets.dataset_base import IndexArguments
    from imagearchive.datasets.samples.options import SampleArchiveOptions
    from imagearchive.index.nesting import Nested

__all__ = ["open_annotations", "open_fields", "pair_fields", "with_absolute_paths"]


def open_fields(
    options: SampleArchiveOptions, archives: list[Archive], index: IndexArguments
) -> list[FieldMembers]:
    """Return where the members of each field are.

    Parameters
    ----------
    options : SampleArchiveOptions
    archives : list of Archive
        Each archive is opened once and appended here at once, so that the caller can close those
        before one that cannot be opened.
    index : IndexArguments
    """
    opened: dict[tuple[str, ...], Archive] = {}
    members = []
    for name, field in options.fields.items():
        if isinstance(field, Coco) or field.pattern is None:
            continue
        path = options.apath if field.archive is None else field.archive
        assert path is not None
        text = absolute_paths(as_text(path))
        identity = (text,) if isinstance(text, str) else tuple(text)
        if identity not in opened:
            nested = _nested_of(path, options)
            opened[identity] = Archive(
                path,
                options.ipath if field.archive is None else None,
                storage="memory" if options.data_in_memory else options.storage,
                **index._asdict(),
                strict=options.strict,
                verify=options.verify,
                nested=nested,
            )
            archives.append(opened[identity])
        members.append(FieldMembers(name, opened[identity], Pattern.parse(field.pattern)))
    return members


def _nested_of(path: Any, options: SampleArchiveOptions) -> Nested:
    """Return which archives inside an archive of fields are opened."""
    if options.nested is not None:
        return options.nested
    patterns = [
        str(field.pattern)
        for field in options.fields.values()
        if (options.apath if field.archive is None else field.archive) == path
    ]
    # A sample may consist of archives, if they are NPZ files.
    return False if any(pattern.lower().endswith(".npz") for pattern in patterns) else "auto"


def open_annotations(
    options: SampleArchiveOptions, members: list[FieldMembers]
) -> list[Annotations]:
    """Return the COCO file and the table of the dataset, if there are any.

    Raises
    ------
    LabelError
        One cannot be read.
    """
    found: list[Annotations] = []
    archive = members[0].archive
    for name, field in options.fields.items():
        if isinstance(field, Coco):
            assert options.annotations is not None
            images = (one for one in options.fields.values() if isinstance(one, Image))
            pattern = str(next(images).pattern)
            found.append(CocoAnnotations(name, field, options.annotations, archive, pattern))
    if options.table is not None:
        found.append(TableAnnotations(options.table, options.fields, members, options.missing))
    return found


def pair_fields(
    members: list[FieldMembers],
    archives: list[Archive],
    annotations: list[Annotations],
    options: SampleArchiveOptions,
) -> SampleMembers:
    """Return which member, and which row of annotations, is which part of which sample.

    Raises
    ------
    LabelError
        A part is missing, there are several members for one part, or ``keys=`` cannot be read.
    """
    keys = None if options.keys is None else read_keys(members[0].archive, options.keys)
    numbers = [archives.index(member.archive) for member in members]
    patterns = [member.pattern.text for member in members]
    asked = [source.description for source in annotations]
    parts = [part for source in annotations for part in source.parts]

    def pair() -> Pairing:
        wanted, select = keys, None
        for source in annotations:
            wanted = wanted if wanted is not None else source.keys()
            select = source.select if source.selects() else select
        pairing = pair_members(members, wanted, options.missing, options.first_dot, select)
        found = SampleMembers(members, options.fields, pairing, None)
        return add_annotations(found, pairing, annotations, options.missing)

    pairing, file = open_pairing(
        archives,
        repr((numbers, patterns, keys, options.missing, options.first_dot, asked)),
        "\0".join(source.identity for source in annotations),
        len(members) + len(parts),
        pair,
    )
    return SampleMembers(members, options.fields, pairing, file, parts)


def with_absolute_paths(options: SampleArchiveOptions) -> SampleArchiveOptions:
    """Return options for a pickle, which may be opened in another directory."""
    fields = {}
    for name, field in options.fields.items():
        if field.archive is not None:
            field = field.at(absolute_paths(as_text(field.archive)))
        fields[name] = field
    apath = None if options.apath is None else absolute_paths(options.apath)
    return dataclasses.replace(options, apath=apath, fields=fields)
