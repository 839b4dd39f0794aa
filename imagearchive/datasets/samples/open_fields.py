"""Opens the archives of the fields of a `SampleArchive`, and pairs their members."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from imagearchive.archive.archive import Archive
from imagearchive.datasets.samples.keys import read_keys
from imagearchive.datasets.samples.pairing import FieldMembers, Pairing, pair_members
from imagearchive.datasets.samples.pairing_file import open_pairing
from imagearchive.datasets.samples.patterns import Pattern
from imagearchive.storage.patterns import absolute_paths, as_text
from imagearchive.transforms.compound_fields import Coco

if TYPE_CHECKING:
    from imagearchive.datasets.samples.options import SampleArchiveOptions
    from imagearchive.storage.protocol import FileStorage

__all__ = ["open_fields", "pair_fields", "with_absolute_paths"]


def open_fields(
    options: SampleArchiveOptions, archives: list[Archive], overwrite_index: bool
) -> list[FieldMembers]:
    """Return where the members of each field are.

    Parameters
    ----------
    options : SampleArchiveOptions
    archives : list of Archive
        Each archive is opened once and appended here at once, so that the caller can close those
        before one that cannot be opened.
    overwrite_index : bool
    """
    opened: dict[tuple[str, ...], Archive] = {}
    members = []
    for name, field in options.fields.items():
        if isinstance(field, Coco):
            continue
        path = options.apath if field.archive is None else field.archive
        assert path is not None
        text = absolute_paths(as_text(path))
        identity = (text,) if isinstance(text, str) else tuple(text)
        if identity not in opened:
            opened[identity] = Archive(
                path,
                options.ipath if field.archive is None else None,
                storage="memory" if options.data_in_memory else options.storage,
                overwrite_index=overwrite_index,
                strict=options.strict,
                verify=options.verify,
            )
            archives.append(opened[identity])
        assert field.pattern is not None
        members.append(FieldMembers(name, opened[identity], Pattern.parse(field.pattern)))
    return members


def pair_fields(
    members: list[FieldMembers], archives: list[Archive], options: SampleArchiveOptions
) -> tuple[Pairing, FileStorage | None]:
    """Return which member is which part of which sample, and the mapped file that says so.

    Raises
    ------
    LabelError
        A part is missing, there are several members for one part, or ``keys=`` cannot be read.
    """
    keys = None if options.keys is None else read_keys(members[0].archive, options.keys)
    numbers = [archives.index(member.archive) for member in members]
    patterns = [member.pattern.text for member in members]
    return open_pairing(
        archives,
        repr((numbers, patterns, keys, options.missing, options.first_dot)),
        len(members),
        lambda: pair_members(members, keys, options.missing, options.first_dot),
    )


def with_absolute_paths(options: SampleArchiveOptions) -> SampleArchiveOptions:
    """Return options for a pickle, which may be opened in another directory."""
    fields = {}
    for name, field in options.fields.items():
        if field.archive is not None:
            field = field.at(absolute_paths(as_text(field.archive)))
        fields[name] = field
    apath = None if options.apath is None else absolute_paths(options.apath)
    return dataclasses.replace(options, apath=apath, fields=fields)
