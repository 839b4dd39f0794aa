"""The parts of a report's page about images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from imagearchive.errors.plurals import pluralize
from imagearchive.images.notebook import format_bytes
from imagearchive.processing.report.charts import (
    bar_chart,
    escape,
    fold,
    heat_map,
    histogram_chart,
    number,
    table,
)
from imagearchive.processing.report.facts import ClassFacts, Duplicates, Example, ImageFacts

__all__ = [
    "MOST_BARS",
    "SHOWN_GROUPS",
    "SHOWN_OF_GROUP",
    "Pictures",
    "class_section",
    "damaged_section",
    "duplicates_section",
    "extremes_section",
    "properties_section",
    "strip",
]

#: Thumbnails as ``data:`` URLs, by the number of the archive and the position of the image.
Pictures = Mapping[tuple[int, int], str]
MOST_BARS: Final = 30
SHOWN_GROUPS: Final = 12
SHOWN_OF_GROUP: Final = 4
_SHOWN_DAMAGED: Final = 200

_EXTREMES: Final = {
    "smallest": ("Smallest", "pixels"),
    "largest": ("Largest", "pixels"),
    "darkest": ("Darkest", "mean brightness, from 0 to 1"),
    "brightest": ("Brightest", "mean brightness, from 0 to 1"),
    "most_elongated": ("Most elongated", "longer side / shorter side"),
}
_ORIENTATIONS: Final = {
    "1": "1 (upright)",
    "2": "2 (mirrored)",
    "3": "3 (upside down)",
    "4": "4 (upside down, mirrored)",
    "5": "5 (on its side, mirrored)",
    "6": "6 (turn right)",
    "7": "7 (on its side, mirrored)",
    "8": "8 (turn left)",
}


def damaged_section(images: ImageFacts) -> str:
    """Return the list of broken images."""
    listed = images.damaged_images[:_SHOWN_DAMAGED]
    rows = [
        (one.name, "decodes in part" if one.decodes else "does not decode", one.problem)
        for one in listed
    ]
    more = f" The first {len(rows)} are:" if images.damaged > len(rows) else ""
    return (
        f'<h3>Broken and truncated images</h3><p class="bad">{images.damaged:,} of '
        f"{pluralize(images.measured, 'image', grouped=True)}.{more}</p>"
        f"{table(['Name', 'State', 'Problem'], rows)}"
    )


def class_section(
    classes: ClassFacts,
    archive: int,
    pictures: Pictures,
    examples: Mapping[str, Sequence[Example]],
) -> str:
    """Return the classes, with a few images of each."""
    source = f"The classes are the directories{f' in {classes.root}' if classes.root else ''}."
    if classes.label_extension:
        source = f"The classes are those in the .{classes.label_extension} files beside images."
    counts = list(classes.counts.values())
    text = (
        f"{source} The largest has {pluralize(counts[0], 'image', grouped=True)}, the "
        f"smallest {counts[-1]:,}, and the median {sorted(counts)[len(counts) // 2]:,}."
    )
    if classes.outside:
        text += (
            f" {pluralize(classes.outside, 'image is', 'images are', grouped=True)} in no class."
        )
    shown = "".join(
        f"<div><h4>{escape(name)} ({classes.counts[name]:,})</h4>"
        f"{strip(archive, chosen, pictures, captions=False)}</div>"
        for name, chosen in examples.items()
    )
    return (
        f'<h3>Classes</h3><p>{escape(text)}</p><div class="charts">'
        f"{bar_chart('Images of each class', fold(classes.counts, MOST_BARS, 'classes'), 'image')}"
        f'</div><div class="classes">{shown}</div>'
    )


def properties_section(images: ImageFacts) -> str:
    """Return what the images are like: charts, and what `Normalize` takes."""
    charts = []
    for title, found in (
        ("Width in pixels", images.width),
        ("Height in pixels", images.height),
        ("Aspect ratio (width / height)", images.aspect),
        ("Megapixels", images.megapixels),
    ):
        if found is not None:
            charts.append(histogram_chart(title, found.histogram, "image"))
    charts.append(
        histogram_chart("Size of the file", images.bytes.histogram, "image", format_bytes)
    )
    if images.sizes is not None:
        charts.append(heat_map("Width and height", images.sizes, images.common_sizes))
    for title, counts in (
        ("Format", images.formats),
        ("Color mode", images.modes),
        ("EXIF orientation", {_ORIENTATIONS[k]: n for k, n in images.orientations.items()}),
    ):
        if counts:
            charts.append(bar_chart(title, fold(counts, MOST_BARS, "kinds"), "image"))
    rows = [
        (name, *(shown(value) for value in found[:4]))
        for name, found, shown in (
            ("Width in pixels", images.width, number),
            ("Height in pixels", images.height, number),
            ("Aspect ratio", images.aspect, number),
            ("Megapixels", images.megapixels, number),
            ("File size", images.bytes, format_bytes),
        )
        if found is not None
    ]
    text = f"<h3>Images</h3>{table(['Property', 'Minimum', 'Median', 'Mean', 'Maximum'], rows)}"
    if images.mean is not None and images.std is not None:
        mean, std = (
            ", ".join(f"{value:.4f}" for value in values) for values in (images.mean, images.std)
        )
        text += (
            "<p>Mean and standard deviation of red, green, and blue, where each image counts the "
            "same, whatever its size:</p>"
            f"<pre>Normalize(mean=({mean}), std=({std}))</pre>"
        )
    return text + f'<div class="charts">{"".join(charts)}</div>'


def extremes_section(images: ImageFacts, archive: int, pictures: Pictures) -> str:
    """Return the images that stand out."""
    parts = []
    for key, examples in images.extremes.items():
        title, unit = _EXTREMES[key]
        if examples:
            parts.append(
                f'<div><h4>{title} <span class="faint">({unit})</span></h4>'
                f"{strip(archive, examples, pictures, values=True)}</div>"
            )
    shown = "".join(parts)
    return f'<h3>Extremes</h3><div class="classes">{shown}</div>' if parts else ""


def duplicates_section(
    title: str, criterion: str, found: Duplicates, archive: int, pictures: Pictures
) -> str:
    """Return groups of images; `criterion` says what they have in common."""
    if not found.groups:
        return f"<h3>{title}</h3><p>None were found ({criterion}).</p>"
    strips = "".join(
        strip(archive, group[:SHOWN_OF_GROUP], pictures) for group in found.listed[:SHOWN_GROUPS]
    )
    rows = [(place, one.name) for place, group in enumerate(found.listed, start=1) for one in group]
    groups = pluralize(found.groups, "group", grouped=True)
    return (
        f"<h3>{title}</h3><p>{pluralize(found.images, 'image', grouped=True)} in {groups}: "
        f"{criterion}.</p>"
        f'<div class="classes">{strips}</div><details><summary>Names</summary>'
        f"{table(['Group', 'Name'], rows)}</details>"
    )


def strip(
    archive: int,
    examples: Sequence[Example],
    pictures: Pictures,
    *,
    captions: bool = True,
    values: bool = False,
) -> str:
    """Return images in a row."""
    items = []
    for one in examples:
        url = pictures.get((archive, one.position))
        drawn = (
            f'<img src="{url}" alt="{escape(one.name)}" title="{escape(one.name)}" loading="lazy">'
            if url
            else f'<span class="none" title="{escape(one.name)}">no picture</span>'
        )
        value = f"{number(one.value)}: " if values else ""
        caption = f"{value}{escape(_short(one.name))}" if captions else ""
        items.append(f"<li>{drawn}{caption}</li>")
    return f'<ul class="strip">{"".join(items)}</ul>'


def _short(name: str) -> str:
    return name if len(name) <= 60 else "…" + name[-59:]
