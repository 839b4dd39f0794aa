"""What notebooks show of archives and datasets: HTML with a few facts, a chart, and thumbnails.

Every text is escaped, colors suit light and dark pages, and the work and the size are bounded.
"""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.images.decode import image_size
from imagearchive.images.thumbnails import encode_thumbnail, thumbnail

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "SECONDS",
    "SIDE",
    "STRIP",
    "Summary",
    "check_decoding_time",
    "count_classes",
    "counting_step",
    "format_bytes",
    "summary_html",
]

#: How many thumbnails there are, and their longer side in pixels.
STRIP: Final = 12
SIDE: Final = 96
#: Thumbnails are made until so many seconds have passed or so many bytes are used.
SECONDS: Final = 0.15
_BYTES: Final = 120_000
#: Larger images are not decoded: a JPEG is decoded at an eighth of its size, others are not.
_JPEG_PIXELS: Final = 24_000_000
_PIXELS: Final = 4_000_000
_ENCODED_BYTES: Final = 16_000_000
_SHOWN_CLASSES: Final = 10
_LONGEST_TEXT: Final = 80
#: With more labels, some are counted and the rest is estimated.
_COUNTED: Final = 1_000_000

_BOX: Final = (
    f"display:inline-block;width:{SIDE}px;height:{SIDE}px;margin:2px;overflow:hidden;"
    "vertical-align:top;box-sizing:border-box;"
)


@dataclass
class Summary:
    """What is shown of an object.

    Attributes
    ----------
    title : str
    facts : sequence of (str, str)
        Names and values.
    classes : sequence of (str, int)
        Names of classes, and how many samples they have.
    is_estimate : bool
        Whether these numbers are estimates.
    pictures : iterable of (str, callable)
        For each thumbnail a caption, and a function that returns an encoded image, or the pixels
        of a small one, or None if there is no image. A function that raises gives a gray box.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    classes: Sequence[tuple[str, int]] = ()
    is_estimate: bool = False
    pictures: Iterable[tuple[str, Callable[[], Any]]] = field(default_factory=tuple)


def summary_html(shown: object, summarize: Callable[[], Summary]) -> str:
    """Return the HTML of an object's summary, or its escaped `repr` if that fails.

    Parameters
    ----------
    shown : object
    summarize : callable
        Returns the summary.
    """
    try:
        return _html(summarize())
    except Exception:  # noqa: BLE001 - a notebook must show something
        try:
            text = repr(shown)
        except Exception:  # noqa: BLE001
            text = f"<{type(shown).__name__}>"
        return f"<pre>{_escape(text, 1000)}</pre>"


def count_classes(
    labels: npt.NDArray[Any], names: Sequence[object]
) -> tuple[list[tuple[str, int]], bool]:
    """Return the names of classes with their numbers of samples, and whether those are estimates.

    Parameters
    ----------
    labels : ndarray of numbers, shape (N,)
        Others than the numbers of classes are not counted.
    names : sequence
    """
    step = counting_step(len(labels))
    counted = labels[::step]
    numbers = counted[(counted >= 0) & (counted < len(names))].astype(np.intp)
    counts = np.bincount(numbers, minlength=len(names)) * step
    return [(str(name), count) for name, count in zip(names, counts.tolist())], step > 1


def counting_step(count: int) -> int:
    """Return at which step labels are counted, so that it takes no more than some milliseconds."""
    return -(-count // _COUNTED) or 1


def format_bytes(size: float) -> str:
    """Return a size with its unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _html(summary: Summary) -> str:
    facts = " · ".join(f"{_escape(name)}: {_escape(value)}" for name, value in summary.facts)
    parts = [
        f'<div style="font-weight:bold">{_escape(summary.title, 200)}</div>',
        f'<div style="opacity:.8">{facts}</div>' if facts else "",
        _chart(summary),
        _strip(summary.pictures),
    ]
    return f'<div style="font-family:sans-serif;font-size:13px">{"".join(parts)}</div>'


def _chart(summary: Summary) -> str:
    if not summary.classes:
        return ""
    largest = sorted(summary.classes, key=lambda one: -one[1])
    shown, rest = largest[:_SHOWN_CLASSES], largest[_SHOWN_CLASSES:]
    top = max(1, shown[0][1])
    about = "about " if summary.is_estimate else ""
    rows = [
        f'<tr style="background:none"><td style="text-align:right;padding:0 8px 0 0">'
        f"{_escape(name, 40)}</td>"
        f'<td style="padding:0;width:200px"><div style="background:#4c8dd6;height:10px;'
        f'width:{max(1, round(200 * count / top))}px"></div></td>'
        f'<td style="text-align:left;padding:0 0 0 8px">{about}{count:,}</td></tr>'
        for name, count in shown
    ]
    note = ""
    if rest:
        total = sum(count for _, count in rest)
        note = f'<div style="opacity:.8">and {len(rest):,} more, with {about}{total:,}</div>'
    style = "border:none;margin:6px 0;color:inherit;font:inherit"
    return f'<table style="{style}">{"".join(rows)}</table>{note}'


def _strip(pictures: Iterable[tuple[str, Callable[[], Any]]]) -> str:
    deadline = time.monotonic() + SECONDS
    boxes: list[str] = []
    size = 0
    longest = 0.0
    for caption, read in pictures:
        start = time.monotonic()
        # The next one may take as long as any before.
        if len(boxes) == STRIP or start + longest > deadline:
            break
        box = _box(caption, read)
        longest = max(longest, time.monotonic() - start)
        size += len(box)
        if size > _BYTES:
            break
        boxes.append(box)
    return f"<div>{''.join(boxes)}</div>" if any(boxes) else ""


def _box(caption: str, read: Callable[[], Any]) -> str:
    """Return the HTML of a thumbnail; nothing if there is no image."""
    title = _escape(caption)
    try:
        value = read()
        if value is None:
            return ""
        pixels = value if isinstance(value, np.ndarray) else _decode(value)
        enlarged = "image-rendering:pixelated;" if 2 * max(pixels.shape[:2]) <= SIDE else ""
        data = base64.b64encode(encode_thumbnail(pixels)).decode("ascii")
    except Exception as error:  # noqa: BLE001 - shown in its place
        text = _escape(f"{type(error).__name__}: {error}", 200)
        return (
            f'<span title="{title}" style="{_BOX}background:rgba(128,128,128,.25);padding:3px;'
            f'font-size:10px;line-height:1.2;white-space:normal;word-break:break-word">'
            f"{text}</span>"
        )
    return (
        f'<img title="{title}" alt="{title}" src="data:image/jpeg;base64,{data}" '
        f'style="{_BOX}object-fit:contain;{enlarged}">'
    )


def _decode(encoded: Buffer) -> npt.NDArray[np.uint8]:
    check_decoding_time(encoded)
    return thumbnail(encoded, SIDE)


def check_decoding_time(encoded: Buffer, whole: bool = False) -> None:
    """Raise an error if an image would take too long to decode.

    Parameters
    ----------
    encoded : buffer
    whole : bool
        At full size, not as a thumbnail.

    Raises
    ------
    ValueError, DecodeError
    """
    size = memoryview(encoded).nbytes
    if size > _ENCODED_BYTES:
        raise ValueError(f"{format_bytes(size)} are too much for a thumbnail here")
    width, height = image_size(encoded)
    is_jpeg = bytes(memoryview(encoded)[:2]) == b"\xff\xd8"
    if width * height > (_JPEG_PIXELS if is_jpeg and not whole else _PIXELS):
        raise ValueError(f"{width} x {height} pixels are too many for a thumbnail here")


def _escape(text: str, longest: int = _LONGEST_TEXT) -> str:
    # Names that are not UTF-8 have surrogates, which cannot be sent.
    text = text.encode("utf-8", "replace").decode()
    return html.escape(text if len(text) <= longest else text[: longest - 1] + "…")
