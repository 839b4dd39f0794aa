"""A report as one HTML page that needs nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from imagearchive.containers.left_out import describe_reason
from imagearchive.errors.plurals import pluralize
from imagearchive.images.notebook import format_bytes
from imagearchive.processing.report.charts import (
    escape,
    number,
    table,
)
from imagearchive.processing.report.data_sections import (
    RowPictures,
    array_section,
    sample_section,
)
from imagearchive.processing.report.facts import (
    ArchiveFacts,
    CommonImages,
    Example,
    ImageFacts,
    Report,
)
from imagearchive.processing.report.image_sections import (
    Pictures,
    class_section,
    damaged_section,
    duplicates_section,
    extremes_section,
    properties_section,
    strip,
)

__all__ = ["SHOWN_PAIRS", "render_page"]

SHOWN_PAIRS: Final = 20
# Pillow's modes with an alpha channel.
_TRANSPARENT: Final = ("LA", "PA", "RGBA")

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


def render_page(
    report: Report,
    pictures: Pictures,
    row_pictures: RowPictures,
    examples: Sequence[Mapping[str, Sequence[Example]]],
) -> str:
    """Return the HTML of a report.

    Parameters
    ----------
    report : Report
    pictures : mapping
        Thumbnails as ``data:`` URLs, by archive and position. Others are shown as a gray box.
    row_pictures : mapping
        Thumbnails of rows of arrays, by the number of the archive and the name of the array.
    examples : sequence of mapping
        For each archive, the images to show of each class.
    """
    names = [facts.path.rstrip("/").rpartition("/")[2] or facts.path for facts in report.archives]
    title = f"Report: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    sections = [
        _archive_section(number, facts, pictures, row_pictures, examples[number])
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


def _archive_section(
    archive: int,
    facts: ArchiveFacts,
    pictures: Pictures,
    row_pictures: RowPictures,
    examples: Mapping[str, Sequence[Example]],
) -> str:
    parts = [f'<section id="archive-{archive}"><h2>{escape(facts.path)}</h2>']
    if facts.problem:
        parts.append(f'<p class="bad">It cannot be opened: {escape(facts.problem)}</p>')
    else:
        parts.append(_totals(facts))
        parts.append(_container(facts.container))
    if facts.arrays:
        parts.append(array_section(facts.arrays, archive, row_pictures))
    images = facts.images
    if images is not None:
        if images.damaged:
            parts.append(damaged_section(images))
        if facts.classes is not None:
            parts.append(class_section(facts.classes, archive, pictures, examples))
        else:
            chosen = examples.get("", ())
            parts.append(f"<h3>Examples</h3>{strip(archive, chosen, pictures)}")
        parts.append(properties_section(images))
        parts.append(extremes_section(images, archive, pictures))
        parts.append(
            duplicates_section(
                "Identical files", _compared(images), images.identical, archive, pictures
            )
        )
        parts.append(
            duplicates_section(
                "Images that look the same",
                "difference hashes that differ in at most 3 of 64 bits, which may be chance",
                images.similar,
                archive,
                pictures,
            )
        )
    if facts.samples is not None:
        parts.append(sample_section(facts.samples))
    return "".join(parts) + "</section>"


def _cards(values: Iterable[tuple[str, str]]) -> str:
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values
    )
    return f'<dl class="cards">{shown}</dl>'


def _totals(facts: ArchiveFacts) -> str:
    found = facts.container
    cards = [("Members", number(found["members"])), ("Size", format_bytes(found["size"]))]
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
        shared = ", identical files," if images.compared == images.count else ""
        text = (
            f"<p>Of the {images.count:,} images, {images.measured:,} were read, evenly spread over "
            f"the archive. Bytes{shared} and class directories are of all images, everything else "
            "is of these. <code>--all</code> reads all.</p>"
        )
    if images is not None:
        text += _transparency(images)
    return _cards(cards) + text


def _transparency(images: ImageFacts) -> str:
    count = sum(images.modes.get(mode, 0) for mode in _TRANSPARENT)
    if not count:
        return ""
    have = "image has" if count == 1 else "images have"
    return (
        f"<p>{count:,} {have} an alpha channel. It is dropped here, as in loading, so what was "
        "transparent may be black.</p>"
    )


def _container(found: Mapping[str, object]) -> str:
    rows: list[tuple[str, object]] = [("Format", found["format"])]
    if found["compressed"]:
        rows.append(("Compressed with", found["compressed"]))
    rows += [
        ("Files", _listed(found["files"])),
        ("Directories", number(_integer(found["directories"]))),
        ("Stored", format_bytes(_integer(found["stored"]))),
        ("Largest member", format_bytes(_integer(found["largest"]))),
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


def _compared(images: ImageFacts) -> str:
    """Return what identical files have in common, and which images were compared."""
    if images.compared == images.count:
        return "the same bytes"
    return f"the same bytes, among the {images.compared:,} images that were read"


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _counted(value: object) -> str:
    assert isinstance(value, Mapping)
    return ", ".join(f"{name} {count:,}" for name, count in value.items()) or "-"


def _listed(value: object) -> str:
    assert isinstance(value, Sequence)
    return ", ".join(map(str, value[:3])) + (f", … ({len(value):,})" if len(value) > 3 else "")


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
        similar = pluralize(
            one.similar, "further pair that looks", "further pairs that look", grouped=True
        )
        parts.append(
            f'<h3>{escape(title)}</h3><p class="bad">'
            f"{pluralize(one.identical, 'identical file', grouped=True)}, and "
            f"{similar} the same.</p>"
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
        strip(archive, [one], pictures) for archive, one in zip((common.first, common.second), pair)
    )
    return first.removesuffix("</ul>") + second.removeprefix('<ul class="strip">')
