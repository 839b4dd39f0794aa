"""A report as one HTML page that needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from imagearchive.containers.left_out import describe_reason
from imagearchive.processing.report.charts import (
    bar_chart,
    escape,
    heat_map,
    histogram_chart,
    number,
    table,
)
from imagearchive.processing.report.facts import (
    ArchiveFacts,
    ArrayFacts,
    ClassFacts,
    CommonImages,
    Duplicates,
    Example,
    ImageFacts,
    Report,
    SampleFacts,
)

__all__ = [
    "MOST_BARS",
    "SHOWN_GROUPS",
    "SHOWN_OF_GROUP",
    "SHOWN_PAIRS",
    "Pictures",
    "fold",
    "render_page",
]

#: Thumbnails as ``data:`` URLs, by the number of the archive and the position of the image.
Pictures = Mapping[tuple[int, int], str]
MOST_BARS: Final = 30
SHOWN_PAIRS: Final = 20
SHOWN_GROUPS: Final = 12
SHOWN_OF_GROUP: Final = 4
_SHOWN_DAMAGED: Final = 200

_STYLE: Final = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--faint:#5b6570;--line:#d8dee4;
--card:#f6f8fa;--bar:#2f6fb3;--bad:#b3261e;--link:#0b5cad}
@media(prefers-color-scheme:dark){:root{--back:#14181d;--text:#e3e8ee;--faint:#9aa6b2;
--line:#323a43;--card:#1c2229;--bar:#6aa9e9;--bad:#ff8a80;--link:#8cc2ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:1.5rem;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.7rem;margin:0 0 .25rem}h2{font-size:1.3rem;margin:2.5rem 0 .5rem;
border-top:1px solid var(--line);padding-top:1.25rem;overflow-wrap:anywhere}
h3{font-size:1.05rem;margin:1.75rem 0 .5rem}
p{margin:.4rem 0;max-width:75ch}a{color:var(--link)}.faint{color:var(--faint)}
nav ul{padding:0;list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:.75rem;
margin:1rem 0;padding:0}
.cards div{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:.6rem .8rem}
.cards dt{color:var(--faint);font-size:.85rem}.cards dd{margin:0;font-size:1.25rem;
font-weight:600;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,360px),1fr));
gap:1rem;align-items:start}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:.75rem}
figcaption{font-weight:600;margin-bottom:.4rem}
svg{width:100%;height:auto;display:block;color:var(--text)}
svg rect{fill:var(--bar)}svg rect:hover{fill:currentColor}
svg text{fill:currentColor;font-size:12px}svg .axis{fill:none;stroke:var(--faint)}
details{margin-top:.5rem}summary{cursor:pointer;color:var(--faint)}
.scroll{overflow:auto;max-height:26rem}
table{border-collapse:collapse;font-size:.9rem}
th,td{text-align:left;padding:.2rem .75rem .2rem 0;border-bottom:1px solid var(--line);
overflow-wrap:anywhere;vertical-align:top}th{overflow-wrap:normal}
.number{text-align:right;font-variant-numeric:tabular-nums}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.75rem;
overflow:auto;font-size:.9rem}
.strip{display:flex;flex-wrap:wrap;gap:.5rem;margin:.4rem 0 1rem;padding:0;list-style:none}
.strip li{width:104px;font-size:.75rem;color:var(--faint);overflow-wrap:anywhere;line-height:1.3}
.strip img,.none{display:block;width:104px;height:104px;object-fit:contain;background:var(--card);
border:1px solid var(--line);border-radius:6px}
.none{display:flex;align-items:center;justify-content:center}
.classes{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,350px),1fr));
gap:0 1.5rem}.classes h4{margin:.25rem 0;font-size:.9rem;overflow-wrap:anywhere}
.bad{color:var(--bad);font-weight:600}
"""

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


def render_page(
    report: Report, pictures: Pictures, examples: Sequence[Mapping[str, Sequence[Example]]]
) -> str:
    """Return the HTML of a report.

    Parameters
    ----------
    report : Report
    pictures : mapping
        Thumbnails as ``data:`` URLs, by archive and position. Others are shown as a gray box.
    examples : sequence of mapping
        For each archive, the images to show of each class.
    """
    names = [facts.path.rstrip("/").rpartition("/")[2] or facts.path for facts in report.archives]
    title = f"Report: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    sections = [
        _archive_section(number, facts, pictures, examples[number])
        for number, facts in enumerate(report.archives)
    ]
    links = [(f"archive-{number}", name) for number, name in enumerate(names)]
    if report.common:
        links.append(("common", "Images in several archives"))
        sections.append(_common_section(report.common, names, pictures))
    menu = "".join(f'<li><a href="#{target}">{escape(name)}</a></li>' for target, name in links)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>"
        '<p class="faint">Made by imagearchive report. This page needs no network.</p></header>'
        + (f'<nav aria-label="Archives"><ul>{menu}</ul></nav>' if len(links) > 1 else "")
        + f"<main>{''.join(sections)}</main></body></html>\n"
    )


def fold(counts: Mapping[str, int], most: int, rest: str) -> list[tuple[str, int]]:
    """Return counts, of which those after the first `most` are one, called ``N other`` + `rest`."""
    items = list(counts.items())
    if len(items) <= most:
        return items
    others = items[most - 1 :]
    total = sum(count for _, count in others)
    return [*items[: most - 1], (f"{len(others):,} other {rest}", total)]


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:,.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _archive_section(
    archive: int, facts: ArchiveFacts, pictures: Pictures, examples: Mapping[str, Sequence[Example]]
) -> str:
    parts = [f'<section id="archive-{archive}"><h2>{escape(facts.path)}</h2>']
    if facts.problem:
        parts.append(f'<p class="bad">It cannot be opened: {escape(facts.problem)}</p>')
    else:
        parts.append(_totals(facts))
        parts.append(_container(facts.container))
    if facts.arrays:
        parts.append(_arrays(facts.arrays))
    images = facts.images
    if images is not None:
        if images.damaged:
            parts.append(_damaged(images))
        if facts.classes is not None:
            parts.append(_classes(facts.classes, archive, pictures, examples))
        else:
            chosen = examples.get("", ())
            parts.append(f"<h3>Examples</h3>{_strip(archive, chosen, pictures)}")
        parts.append(_properties(images))
        parts.append(_extremes(images, archive, pictures))
        parts.append(
            _duplicates("Identical files", "the same bytes", images.identical, archive, pictures)
        )
        parts.append(
            _duplicates(
                "Images that look the same",
                "difference hashes that differ in at most 3 of 64 bits, which may be chance",
                images.similar,
                archive,
                pictures,
            )
        )
    if facts.samples is not None:
        parts.append(_samples(facts.samples))
    return "".join(parts) + "</section>"


def _cards(values: Iterable[tuple[str, str]]) -> str:
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values
    )
    return f'<dl class="cards">{shown}</dl>'


def _totals(facts: ArchiveFacts) -> str:
    found = facts.container
    cards = [("Members", number(found["members"])), ("Size", _bytes(found["size"]))]
    images = facts.images
    if images is not None:
        cards.append(("Images", number(images.count)))
    if facts.classes is not None:
        cards.append(("Classes", number(len(facts.classes.counts))))
    if images is not None:
        cards.append(("Broken or truncated", number(images.damaged)))
        cards.append(("In groups of identical files", number(images.identical.images)))
    if "left_out" in found:
        cards.append(("Left out", number(found["left_out"]["count"])))
    if facts.arrays:
        cards.append(("Arrays", number(len(facts.arrays))))
    text = ""
    if not found["members"]:
        text = "<p>The archive is empty.</p>"
    elif images is None and not facts.arrays:
        text = "<p>The archive contains no images, by the extensions of its members.</p>"
    elif images is not None and images.measured < images.count:
        text = (
            f"<p>Of the {images.count:,} images, {images.measured:,} were read, evenly spread over "
            "the archive. Bytes and class directories are of all images, everything else is of "
            "these. <code>--all</code> reads all.</p>"
        )
    return _cards(cards) + text


def _container(found: Mapping[str, object]) -> str:
    rows: list[tuple[str, object]] = [("Format", found["format"])]
    if found["compressed"]:
        rows.append(("Compressed with", found["compressed"]))
    rows += [
        ("Files", _listed(found["files"])),
        ("Directories", number(_integer(found["directories"]))),
        ("Stored", _bytes(_integer(found["stored"]))),
        ("Largest member", _bytes(_integer(found["largest"]))),
        ("Compression of members", _counted(found["compression"])),
        ("Extensions", _counted(found["extensions"])),
    ]
    if "nested" in found:
        rows.append(("Archives inside", _counted(found["nested"])))
    text = f"<h3>Container</h3>{table(['Property', 'Value'], rows)}"
    if found.get("damage"):
        text += f'<p class="bad">The archive is damaged: {escape(found["damage"])}</p>'
    left_out = found.get("left_out")
    if isinstance(left_out, Mapping):
        reasons = ", ".join(
            f"{count:,} {describe_reason(reason, count)}"
            for reason, count in left_out["counts"].items()
        )
        listed = [(one["name"], describe_reason(one["reason"])) for one in left_out["members"]]
        text += (
            f"<p>{left_out['count']:,} left out or unreadable: {escape(reasons)}</p>"
            f"<details><summary>The first {len(listed)}</summary>"
            f"{table(['Name', 'Why'], listed)}</details>"
        )
    return text


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _counted(value: object) -> str:
    assert isinstance(value, Mapping)
    return ", ".join(f"{name} {count:,}" for name, count in value.items()) or "-"


def _listed(value: object) -> str:
    assert isinstance(value, Sequence)
    return ", ".join(map(str, value[:3])) + (f", … ({len(value):,})" if len(value) > 3 else "")


def _damaged(images: ImageFacts) -> str:
    listed = images.damaged_images[:_SHOWN_DAMAGED]
    rows = [
        (one.name, "decodes in part" if one.decodes else "does not decode", one.problem)
        for one in listed
    ]
    more = f" The first {len(rows)} are:" if images.damaged > len(rows) else ""
    return (
        f'<h3>Broken and truncated images</h3><p class="bad">{images.damaged:,} of '
        f"{images.measured:,} images are broken or truncated.{more}</p>"
        f"{table(['Name', 'State', 'Problem'], rows)}"
    )


def _classes(
    classes: ClassFacts,
    archive: int,
    pictures: Pictures,
    examples: Mapping[str, Sequence[Example]],
) -> str:
    source = f"The classes are the directories{f' in {classes.root}' if classes.root else ''}."
    if classes.label_extension:
        source = f"The classes are those in the .{classes.label_extension} files beside images."
    counts = list(classes.counts.values())
    text = (
        f"{source} The largest has {counts[0]:,} images, the "
        f"smallest {counts[-1]:,}, and the median {sorted(counts)[len(counts) // 2]:,}."
    )
    if classes.outside:
        text += f" {classes.outside:,} images are in no class."
    shown = "".join(
        f"<div><h4>{escape(name)} ({classes.counts[name]:,})</h4>"
        f"{_strip(archive, chosen, pictures, captions=False)}</div>"
        for name, chosen in examples.items()
    )
    return (
        f'<h3>Classes</h3><p>{escape(text)}</p><div class="charts">'
        f"{bar_chart('Images of each class', fold(classes.counts, MOST_BARS, 'classes'), 'images')}"
        f'</div><div class="classes">{shown}</div>'
    )


def _properties(images: ImageFacts) -> str:
    charts = []
    for title, found in (
        ("Width in pixels", images.width),
        ("Height in pixels", images.height),
        ("Aspect ratio (width / height)", images.aspect),
        ("Megapixels", images.megapixels),
    ):
        if found is not None:
            charts.append(histogram_chart(title, found.histogram, "images"))
    charts.append(histogram_chart("Size of the file", images.bytes.histogram, "images", _bytes))
    if images.sizes is not None:
        charts.append(heat_map("Width and height", images.sizes, images.common_sizes))
    for title, counts in (
        ("Format", images.formats),
        ("Color mode", images.modes),
        ("EXIF orientation", {_ORIENTATIONS[k]: n for k, n in images.orientations.items()}),
    ):
        if counts:
            charts.append(bar_chart(title, fold(counts, MOST_BARS, "kinds"), "images"))
    rows = [
        (name, *(shown(value) for value in found[:4]))
        for name, found, shown in (
            ("Width in pixels", images.width, number),
            ("Height in pixels", images.height, number),
            ("Aspect ratio", images.aspect, number),
            ("Megapixels", images.megapixels, number),
            ("File size", images.bytes, _bytes),
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


def _extremes(images: ImageFacts, archive: int, pictures: Pictures) -> str:
    parts = []
    for key, examples in images.extremes.items():
        title, unit = _EXTREMES[key]
        if examples:
            parts.append(
                f'<div><h4>{title} <span class="faint">({unit})</span></h4>'
                f"{_strip(archive, examples, pictures, values=True)}</div>"
            )
    shown = "".join(parts)
    return f'<h3>Extremes</h3><div class="classes">{shown}</div>' if parts else ""


def _strip(
    archive: int,
    examples: Sequence[Example],
    pictures: Pictures,
    *,
    captions: bool = True,
    values: bool = False,
) -> str:
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


def _duplicates(
    title: str, criterion: str, found: Duplicates, archive: int, pictures: Pictures
) -> str:
    if not found.groups:
        return f"<h3>{title}</h3><p>None were found ({criterion}).</p>"
    strips = "".join(
        _strip(archive, group[:SHOWN_OF_GROUP], pictures) for group in found.listed[:SHOWN_GROUPS]
    )
    rows = [(place, one.name) for place, group in enumerate(found.listed, start=1) for one in group]
    groups = "1 group" if found.groups == 1 else f"{found.groups:,} groups"
    return (
        f"<h3>{title}</h3><p>{found.images:,} images in {groups}: {criterion}.</p>"
        f'<div class="classes">{strips}</div><details><summary>Names</summary>'
        f"{table(['Group', 'Name'], rows)}</details>"
    )


def _samples(samples: SampleFacts) -> str:
    text = f"{samples.count:,} samples of several files each."
    if samples.examined < samples.count:
        text += f" Of {samples.examined:,} of them, this is known:"
    if samples.incomplete:
        text += f" {samples.incomplete:,} lack a file that most have."
    else:
        text += " Each has every file that most have."
    counts = fold(samples.extensions, MOST_BARS, "extensions")
    rows = [(key, kind) for key, kind in samples.missing]
    missing = (
        f"<details><summary>Samples that lack a file</summary>"
        f"{table(['Sample', 'Missing'], rows)}</details>"
        if rows
        else ""
    )
    return (
        f"<h3>Samples of several files</h3><p>{text}</p>{missing}"
        f'<div class="charts">{bar_chart("Files by extension", counts, "samples")}</div>'
    )


def _arrays(arrays: Sequence[ArrayFacts]) -> str:
    rows = [
        (
            one.name,
            one.dtype or "-",
            " x ".join(f"{side:,}" for side in one.shape) or "-",
            one.rows,
            *("-" if value is None else value for value in (one.minimum, one.maximum, one.mean)),
            one.nan,
            one.infinite,
            one.problem or "-",
        )
        for one in arrays
    ]
    headings = ["Array", "Type", "Shape", "Rows read", "Minimum", "Maximum", "Mean", "NaN"]
    charts = "".join(
        bar_chart(f"Values of {one.name}", fold(one.labels, MOST_BARS, "values"), "rows")
        for one in arrays
        if one.labels
    )
    return (
        f"<h3>Arrays</h3>{table([*headings, 'Infinite', 'Problem'], rows)}"
        f'<div class="charts">{charts}</div>'
    )


def _common_section(
    common: Sequence[CommonImages], names: Sequence[str], pictures: Pictures
) -> str:
    parts = []
    for one in common:
        title = f"{names[one.first]} and {names[one.second]}"
        strips = "".join(
            f"<div>{_strip_of_pair(one, pair, pictures)}</div>" for pair in one.pairs[:SHOWN_PAIRS]
        )
        rows = [
            (
                first.name,
                second.name,
                "identical" if first.value < 0 else f"{int(first.value)} of 64 bits differ",
            )
            for first, second in one.pairs
        ]
        parts.append(
            f'<h3>{escape(title)}</h3><p class="bad">{one.identical:,} identical files, and '
            f"{one.similar:,} further pairs that look the same.</p>"
            f'<div class="classes">{strips}</div><details><summary>Names</summary>'
            f"{table([names[one.first], names[one.second], 'Difference'], rows)}</details>"
        )
    return (
        '<section id="common"><h2>Images in several archives</h2><p>If one archive is for training '
        "and the other for validation, these images make the result look better than it is.</p>"
        f"{''.join(parts)}</section>"
    )


def _strip_of_pair(common: CommonImages, pair: tuple[Example, Example], pictures: Pictures) -> str:
    first, second = (
        _strip(archive, [one], pictures)
        for archive, one in zip((common.first, common.second), pair)
    )
    return first.removesuffix("</ul>") + second.removeprefix('<ul class="strip">')
