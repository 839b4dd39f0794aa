"""Charts as plain SVG, each with a title, a description, and its numbers as a table.

They take their colors from the page, so they are readable on light and dark backgrounds.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from imagearchive.errors.plurals import plural_of, pluralize
from imagearchive.processing.report.facts import Histogram, SizeGrid

__all__ = [
    "bar_chart",
    "escape",
    "fold",
    "heat_map",
    "histogram_chart",
    "number",
    "table",
]

_WIDTH = 420
_HEIGHT = 180
_LEFT = 46
_BOTTOM = 24
_MAX_TEXT = 300
_BAR = 18
_LABEL = 190
_ids = itertools.count(1)


def escape(text: object) -> str:
    """Return text as HTML on one line; long text is cut, and what is invisible is escaped."""
    shown = str(text)
    if len(shown) > _MAX_TEXT:
        shown = shown[: _MAX_TEXT // 2] + "…" + shown[-_MAX_TEXT // 2 :]
    if not shown.isprintable():
        shown = "".join(
            one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
            for one in shown
        )
    return html.escape(shown)


def number(value: float) -> str:
    """Return a number as people write it: ``12,345``, ``0.485``, ``1.5``."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def fold(counts: Mapping[str, int], most: int, rest: str) -> list[tuple[str, int]]:
    """Return counts, of which those after the first `most` are one, called ``N other`` + `rest`."""
    items = list(counts.items())
    if len(items) <= most:
        return items
    others = items[most - 1 :]
    total = sum(count for _, count in others)
    return [*items[: most - 1], (f"{len(others):,} other {rest}", total)]


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; numbers are set to the right."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {escape(headings[0])}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'<td class="number">{number(value)}</td>'
    return f"<td>{escape(value)}</td>"


def _figure(title: str, description: str, box: tuple[float, float], drawn: str, data: str) -> str:
    name = f"chart-{next(_ids)}"
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {box[0]:g} {box[1]:g}" '
        f'role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-text">{escape(description)}</desc>{drawn}</svg>'
        f"<details><summary>Numbers</summary>{data}</details></figure>"
    )


def _text(x: float, y: float, text: object, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _rect(box: tuple[float, float, float, float], tip: str, opacity: float = 1.0) -> str:
    x, y, width, height = box
    faded = "" if opacity == 1 else f' fill-opacity="{opacity:.2f}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{faded}>'
        f"<title>{escape(tip)}</title></rect>"
    )


def bar_chart(title: str, counts: Sequence[tuple[str, int]], noun: str) -> str:
    """Draw one bar for each name.

    Parameters
    ----------
    title : str
    counts : sequence of (str, int)
        From top to bottom.
    noun : str
        What is counted, in the singular.
    """
    most = max((count for _, count in counts), default=0) or 1
    room = _WIDTH - _LABEL - 60
    drawn = []
    for row, (name, count) in enumerate(counts):
        y = row * (_BAR + 4)
        shown = name if len(name) <= 28 else name[:27] + "…"
        drawn += [
            _text(_LABEL - 8, y + 13, shown, "end"),
            _rect(
                (_LABEL, y, max(room * count / most, 1), _BAR),
                f"{name}: {pluralize(count, noun, grouped=True)}",
            ),
            _text(_LABEL + room * count / most + 6, y + 13, f"{count:,}"),
        ]
    text = ", ".join(f"{name} {count:,}" for name, count in counts[:5])
    description = (
        f"Bars of the number of {plural_of(noun)}: {text}{', …' if len(counts) > 5 else ''}."
    )
    data = table([title, plural_of(noun).capitalize()], counts)
    return _figure(title, description, (_WIDTH, len(counts) * (_BAR + 4)), "".join(drawn), data)


def histogram_chart(
    title: str, histogram: Histogram, noun: str, shown: Callable[[float], str] = number
) -> str:
    """Draw a histogram.

    Parameters
    ----------
    title : str
    histogram : Histogram
        With at least one bin.
    noun : str
        What is counted, in the singular.
    shown : callable
        From a value to text.
    """
    edges, counts = histogram
    if len(edges) > 2 and edges[-1] - edges[-2] > 1.001 * (edges[1] - edges[0]):
        title += ", logarithmic"
    most = max(counts) or 1
    step = (_WIDTH - _LEFT - 8) / len(counts)
    drawn = [
        _text(_LEFT - 6, 14, f"{most:,}", "end"),
        _text(_LEFT - 6, _HEIGHT - _BOTTOM, "0", "end"),
        f'<path class="axis" d="M{_LEFT} 4V{_HEIGHT - _BOTTOM}H{_WIDTH - 8}"/>',
    ]
    rows = []
    for position, count in enumerate(counts):
        low, high = shown(edges[position]), shown(edges[position + 1])
        span = low if low == high else f"{low} to {high}"
        rows.append((span, count))
        height = (_HEIGHT - _BOTTOM - 6) * count / most
        if count:
            box = (_LEFT + position * step, _HEIGHT - _BOTTOM - max(height, 1), step - 1)
            drawn.append(
                _rect((*box, max(height, 1)), f"{span}: {pluralize(count, noun, grouped=True)}")
            )
    middle = len(counts) // 2
    drawn.append(_text(_LEFT, _HEIGHT - 8, shown(edges[0])))
    if len(counts) > 3:
        drawn.append(_text(_LEFT + middle * step, _HEIGHT - 8, shown(edges[middle]), "middle"))
    if edges[-1] != edges[0]:
        drawn.append(_text(_WIDTH - 8, _HEIGHT - 8, shown(edges[-1]), "end"))
    peak = rows[counts.index(most)][0]
    description = (
        f"Histogram of {plural_of(noun)}, from {shown(edges[0])} to {shown(edges[-1])}. Most, "
        f"{most:,}, are in {peak}."
    )
    data = table([title, plural_of(noun).capitalize()], [row for row in rows if row[1]])
    return _figure(title, description, (_WIDTH, _HEIGHT), "".join(drawn), data)


def heat_map(title: str, grid: SizeGrid, common: Sequence[tuple[int, int, int]]) -> str:
    """Draw how many images have which width and height.

    Parameters
    ----------
    title : str
    grid : SizeGrid
    common : sequence of (int, int, int)
        Width, height, and count of the most common sizes, for the table.
    """
    counts = grid.counts
    most = max(map(max, counts)) or 1
    wide = (_WIDTH - _LEFT - 8) / len(counts[0])
    high = (_HEIGHT + 60 - _BOTTOM - 8) / len(counts)
    bottom = _HEIGHT + 60 - _BOTTOM
    drawn = [f'<path class="axis" d="M{_LEFT} 8V{bottom}H{_WIDTH - 8}"/>']
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if count:
                box = (_LEFT + column * wide, bottom - (row + 1) * high, wide, high)
                widths, heights = (
                    " to ".join(dict.fromkeys(map(number, edges[start : start + 2])))
                    for edges, start in ((grid.width_edges, column), (grid.height_edges, row))
                )
                tip = f"width {widths}, height {heights}: {pluralize(count, 'image', grouped=True)}"
                drawn.append(_rect(box, tip, 0.15 + 0.85 * (count / most) ** 0.5))
    drawn += [
        _text(_LEFT, bottom + 16, number(grid.width_edges[0])),
        _text((_LEFT + _WIDTH) / 2, bottom + 16, "width in pixels", "middle"),
        _text(_WIDTH - 8, bottom + 16, number(grid.width_edges[-1]), "end"),
        _text(_LEFT - 6, bottom, number(grid.height_edges[0]), "end"),
        _text(_LEFT - 6, (bottom + 8) / 2, "height", "end"),
        _text(_LEFT - 6, 18, number(grid.height_edges[-1]), "end"),
    ]
    width, height, count = common[0]
    description = (
        f"Map of the number of images by width and height. The most common size is {width} x "
        f"{height} pixels, of {pluralize(count, 'image', grouped=True)}."
    )
    rows = [(f"{width} x {height}", count) for width, height, count in common]
    data = table(["Most common sizes", "Images"], rows)
    return _figure(title, description, (_WIDTH, _HEIGHT + 60), "".join(drawn), data)
