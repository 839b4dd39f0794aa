"""What the page says about one member: its place in the archive, its sample, and its content."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any, Final

import numpy as np

from imagearchive.archive.archive import Archive
from imagearchive.archive.name_tree import decode
from imagearchive.arrays import npy
from imagearchive.cli.output import escape_message, format_permissions, format_time
from imagearchive.cli.viewer.pictures import LARGEST_FILE
from imagearchive.cli.viewer.queries import folder_text
from imagearchive.cli.viewer.samples import FieldSamples
from imagearchive.codecs.npz_arrays import NpzArrays
from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.errors import ImageArchiveError
from imagearchive.images.decode import image_size
from imagearchive.index.names import gather
from imagearchive.index.sample_keys import belong_to_samples, key_ends
from imagearchive.storage.limits import Limits

__all__ = ["describe_content", "describe_member", "describe_row", "is_image"]

SHOWN_TEXT: Final = 64 << 10
SHOWN_HEX: Final = 256
LARGEST_JSON: Final = 1 << 20
LARGEST_NPZ: Final = 64 << 20
MOST_ARRAYS: Final = 32
MOST_FIELDS: Final = 64
_TEXT: Final = (
    ".txt", ".cls", ".csv", ".tsv", ".xml", ".html", ".htm", ".svg", ".md", ".yaml", ".yml",
    ".json", ".jsonl", ".pts", ".py", ".js", ".css", ".log", ".cfg", ".ini", ".toml",
)  # fmt: skip


def is_image(name: str) -> bool:
    """Whether the extension of a name is that of an image."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def describe_row(archive: Archive, position: int) -> dict[str, Any]:
    """Return what a cell of the grid shows."""
    name = archive.name(position)
    return {
        "position": position,
        "name": escape_message(name),
        "size": int(archive.table.entries["size"][position]),
        "image": is_image(name),
    }


def describe_member(
    archive: Archive, position: int, samples: FieldSamples | None = None
) -> dict[str, Any]:
    """Return what the index tells about a member, and what else belongs to its sample."""
    number = None if samples is None else samples.number(position)
    info = archive.info(position)
    folder, _, _ = info.name.rpartition("/")
    return {
        **describe_row(archive, position),
        "folder": folder_text(folder),
        "shown_folder": escape_message(folder),
        "archive": escape_message(info.archive),
        "offset": info.offset,
        "stored_size": info.stored_size,
        "time": format_time(info.mtime_ns).strip(),
        "permissions": format_permissions(info.mode),
        "crc": f"{info.crc:08x}" if info.crc else None,
        "labels": archive.table.labels(position).tolist()[:MOST_FIELDS],
        "fields": _fields(archive, position)
        if samples is None or number is None
        else [
            {"extension": escape_message(name), **describe_row(archive, row)}
            for name, row in samples.members(number)
        ],
        "sample": number,
    }


def _fields(archive: Archive, position: int) -> list[dict[str, Any]]:
    """Return the members of the sample that a member belongs to."""
    table = archive.table
    own = np.array([position], np.uint64)
    names, offsets = gather(table.names, table.name_offsets, own)
    ends = key_ends(names, offsets)
    if not belong_to_samples(names, offsets, ends)[0]:
        return []
    key = table.name_bytes(position)[: int(ends[0])]
    low, high = table.lookup.bounds(key + b".")
    rows = np.ascontiguousarray(table.name_order[low : min(high, low + 16 * MOST_FIELDS)])
    names, offsets = gather(table.names, table.name_offsets, rows)
    ends = key_ends(names, offsets)
    same = (ends == len(key)) & belong_to_samples(names, offsets, ends)
    if len(archive.paths) > 1:
        # Samples of the same name in several archives are different samples.
        numbers = [table.file_number(int(table.entries["shard"][row])) for row in rows.tolist()]
        own_number = table.file_number(int(table.entries["shard"][position]))
        same &= np.array(numbers, np.int64) == own_number
    return [
        {
            "extension": escape_message(decode(table.name_bytes(row)[len(key) + 1 :])),
            **describe_row(archive, row),
        }
        for row in rows[same][:MOST_FIELDS].tolist()
    ]


def describe_content(archive: Archive, position: int) -> dict[str, Any]:
    """Return the content of a member in a form that can be shown as text.

    Returns
    -------
    dict
        ``kind`` is "image", "json", "text", "array", "arrays", or "bytes"; ``text`` is what to
        show, and ``truncated`` whether there is more. An image that is damaged has an ``error``.
    """
    try:
        return _content(archive, position)
    except (ImageArchiveError, OSError) as error:
        return {"kind": "error", "error": escape_message(str(error))}


def _content(archive: Archive, position: int) -> dict[str, Any]:
    name = archive.name(position).lower()
    size = archive.info(position).size
    if is_image(name) and size <= LARGEST_FILE:
        width, height = image_size(archive.read(position))
        return {"kind": "image", "width": width, "height": height}
    if name.endswith(".npy"):
        return {"kind": "array", "text": _array_text(archive, position), "truncated": False}
    if name.endswith(".npz") and size <= LARGEST_NPZ:
        return {"kind": "arrays", "text": _arrays_text(archive, position), "truncated": False}
    with archive.open(position) as file:
        head = file.read(LARGEST_JSON if name.endswith(".json") else SHOWN_TEXT)
    if name.endswith(".json") and size <= LARGEST_JSON:
        pretty = _pretty(head)
        if pretty is not None:
            return {
                "kind": "json",
                "text": pretty[:SHOWN_TEXT],
                "truncated": len(pretty) > SHOWN_TEXT,
            }
    head = head[:SHOWN_TEXT]
    if name.endswith(_TEXT) or _is_text(head):
        text = head.decode("utf-8", "replace")
        return {"kind": "text", "text": text, "truncated": size > len(head)}
    return {
        "kind": "bytes",
        "text": _hex_lines(head[:SHOWN_HEX]),
        "truncated": size > SHOWN_HEX,
    }


def _pretty(data: bytes) -> str | None:
    try:
        return json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _is_text(head: bytes) -> bool:
    try:
        # The last character may be cut.
        text = head[:-4].decode() if len(head) == SHOWN_TEXT else head.decode()
    except UnicodeDecodeError:
        return False
    return all(one.isprintable() or one in "\n\r\t" for one in text[:4096])


def _hex_lines(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):47}  {shown}")
    return "\n".join(lines)


def _array_text(archive: Archive, position: int) -> str:
    # Only the header is read.
    header = npy.parse_header(archive.member(position), where=archive.name(position))
    return f"{header.dtype} {tuple(header.shape)}"


def _arrays_text(archive: Archive, position: int) -> str:
    arrays = NpzArrays(archive.read(position), limits=Limits(max_size=LARGEST_NPZ))
    lines = []
    for name in islice(arrays, MOST_ARRAYS):
        try:
            array = arrays[name]
            shown = f"{array.dtype} {array.shape}"
        except ImageArchiveError as error:
            shown = f"({escape_message(str(error))})"
        lines.append(f"{escape_message(name)}: {shown}")
    if len(arrays) > MOST_ARRAYS:
        lines.append(f"… {len(arrays) - MOST_ARRAYS} more")
    return "\n".join(lines) or "no arrays"
