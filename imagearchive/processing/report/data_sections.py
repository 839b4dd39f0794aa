"""The parts of a report's page about arrays, and about samples of several files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from imagearchive.errors.plurals import pluralize
from imagearchive.processing.report.charts import (
    bar_chart,
    escape,
    fold,
    histogram_chart,
    table,
)
from imagearchive.processing.report.facts import ArrayFacts, FieldFacts, SampleFacts
from imagearchive.processing.report.image_sections import MOST_BARS

__all__ = ["RowPictures", "array_section", "sample_section"]

#: Numbers of rows and their thumbnails as ``data:`` URLs, by archive and array.
RowPictures = Mapping[tuple[int, str], Sequence[tuple[int, str]]]
# What the amount of a kind of field counts.
_AMOUNTS: Final = {"boxes": "Boxes", "keypoints": "Points", "text": "Characters"}


def sample_section(samples: SampleFacts) -> str:
    """Return what samples of several files or fields have, and what they lack."""
    parts = "fields" if samples.fields else "files"
    expected = "field" if samples.fields else "file that most have"
    text = f"{pluralize(samples.count, 'sample', grouped=True)} of several {parts} each."
    if samples.examined < samples.count:
        text += f" Of {samples.examined:,} of them, this is known:"
    if samples.incomplete:
        text += f" {_samples(samples.incomplete, 'lack')} a {expected}."
    else:
        text += f" Each has every {expected}."
    what = "fields" if samples.fields else "extensions"
    counts = fold(samples.extensions, MOST_BARS, what)
    rows = [(key, kind) for key, kind in samples.missing]
    missing = (
        f"<details><summary>Samples that lack a {parts[:-1]}</summary>"
        f"{table(['Sample', 'Missing'], rows)}</details>"
        if rows
        else ""
    )
    broken = ""
    if samples.broken:
        broken = (
            f'<p class="bad">{_samples(samples.broken, "contain")} a field that '
            "cannot be decoded.</p>"
            f"{table(['Sample', 'Problem'], samples.broken_samples)}"
        )
    title = f"{parts.capitalize()} by extension" if parts == "files" else "Samples with each field"
    return (
        f"<h3>Samples of several {parts}</h3><p>{text}</p>{missing}{broken}"
        f'<div class="charts">{bar_chart(title, counts, "sample")}'
        f"{''.join(map(_field, samples.fields))}</div>"
    )


def _samples(count: int, verb: str) -> str:
    """Return the beginning of a sentence about so many samples."""
    return pluralize(count, f"sample {verb}s", f"samples {verb}", grouped=True)


def _field(field: FieldFacts) -> str:
    """Return the charts of one field."""
    name = field.name
    charts = []
    for found, title, what in (
        (field.amount, f"{_AMOUNTS.get(field.kind, 'Values')} in {name}", "sample"),
        (field.width, f"Width of {name} in pixels", "box"),
        (field.height, f"Height of {name} in pixels", "box"),
        (field.area, f"Area of {name}, as a part of the image", "box"),
    ):
        if found is not None:
            charts.append(histogram_chart(title, found.histogram, what))
    if field.labels and field.kind == "mask":
        charts.append(
            bar_chart(f"Classes in {name}", fold(field.labels, MOST_BARS, "classes"), "mask")
        )
        shares = [(label, f"{share:.2%}") for label, share in field.pixels.items()]
        charts.append(
            f"<figure><figcaption>Part of the pixels of {escape(name)}</figcaption>"
            f"{table(['Class', 'Part'], shares)}</figure>"
        )
    elif field.labels:
        charts.append(
            bar_chart(f"Values of {name}", fold(field.labels, MOST_BARS, "values"), "label")
        )
    return "".join(charts)


def array_section(arrays: Sequence[ArrayFacts], archive: int, pictures: RowPictures) -> str:
    """Return the table of the arrays of an NPZ, and what is in those of labels and of images."""
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
        bar_chart(f"Values of {one.name}", fold(one.labels, MOST_BARS, "values"), "row")
        for one in arrays
        if one.labels
    )
    images = "".join(_images(one, pictures.get((archive, one.name), ())) for one in arrays)
    return (
        f"<h3>Arrays</h3>{table([*headings, 'Infinite', 'Problem'], rows)}"
        f'<div class="charts">{charts}</div>{images}'
    )


def _images(array: ArrayFacts, pictures: Sequence[tuple[int, str]]) -> str:
    if not array.channel_mean:
        return ""
    name = escape(array.name)
    mean, std = (
        ", ".join(f"{value:.4f}" for value in values)
        for values in (array.channel_mean, array.channel_std)
    )
    items = "".join(
        f'<li><img src="{url}" alt="row {row} of {name}" loading="lazy">row {row}</li>'
        for row, url in pictures
    )
    return (
        f"<h4>Images in {name}</h4><p>Mean and standard deviation of the channels:</p>"
        f"<pre>Normalize(mean=({mean}), std=({std}))</pre>"
        f'<ul class="strip">{items}</ul>'
    )
