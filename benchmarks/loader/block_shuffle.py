"""Claim: ``shuffle="blocks"`` is nearly as good an order as a full shuffle.

For every order, over some epochs: how far a sample is from its place in the archive; the rank
correlation of the two; how often samples that are neighbors in the archive are in one batch; from
how many places of the archive a batch comes; and how often two samples that were in one batch are
in one batch in the next epoch.

    python -m benchmarks.loader.block_shuffle [PICTURE.svg]

With the name of a picture, it draws the orders of one epoch. It is in `docs/guides`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imagearchive.loader.order import BlockShuffle, EpochOrder

SAMPLES = 100_000
BATCH = 256
EPOCHS = 5

ORDERS: dict[str, bool | BlockShuffle] = {
    "shuffle=True": True,
    "blocks of 64, 16 per window": BlockShuffle(),
    "blocks of 64, 64 per window": BlockShuffle(64, 64),
    "blocks of 16, 64 per window": BlockShuffle(16, 64),
    "blocks of 1000, 4 per window": BlockShuffle(1000, 4),
}

# The picture: fewer samples, so that windows can be seen.
DRAWN = 1024
PANEL = 256
PANELS: dict[str, bool | BlockShuffle] = {
    "shuffle=True": True,
    "blocks of 8, 16 per window": BlockShuffle(8, 16),
    "blocks of 64, 4 per window": BlockShuffle(64, 4),
}

_Order = npt.NDArray[np.int64]


def order_of(n: int, shuffle: bool | BlockShuffle, epoch: int) -> _Order:
    order = EpochOrder(n, seed=0, epoch=epoch, shuffle=shuffle, batch_size=4096)
    return np.concatenate(list(order))


def quality(shuffle: bool | BlockShuffle) -> list[float]:
    """Return the five measures, averaged over the epochs."""
    places = np.arange(SAMPLES)
    found = []
    before: _Order | None = None
    for epoch in range(EPOCHS):
        order = order_of(SAMPLES, shuffle, epoch)
        position = np.empty(SAMPLES, np.int64)
        position[order] = places
        batch = position // BATCH
        runs = [
            1 + np.count_nonzero(np.diff(np.sort(order[first : first + BATCH])) > BATCH)
            for first in range(0, SAMPLES, BATCH)
        ]
        found.append(
            [
                float(np.abs(order - places).mean()) / SAMPLES,
                float(np.corrcoef(order, places)[0, 1]),
                float((batch[1:] == batch[:-1]).mean()),
                float(np.mean(runs)),
                np.nan if before is None else met_again(before, batch),
            ]
        )
        before = batch
    return [float(value) for value in np.nanmean(np.array(found), 0)]


def met_again(before: _Order, batch: _Order) -> float:
    """Return how many of the pairs of one batch are in one batch again."""
    _, both = np.unique(before * SAMPLES + batch, return_counts=True)
    _, first = np.unique(before, return_counts=True)
    return float((both * (both - 1)).sum() / (first * (first - 1)).sum())


def main() -> None:
    print(f"{SAMPLES} samples, batches of {BATCH}, {EPOCHS} epochs")
    print(
        f"{'order':<30}{'distance':>10}{'correlation':>13}{'neighbors':>11}{'places':>8}{'again':>9}"
    )
    for name, shuffle in ORDERS.items():
        distance, correlation, neighbors, runs, again = quality(shuffle)
        print(
            f"{name:<30}{distance:>10.3f}{correlation:>13.4f}{100 * neighbors:>10.1f}%"
            f"{runs:>8.0f}{100 * again:>8.2f}%"
        )


def draw(path: Path) -> None:
    """Draw a dot for each sample: when it comes in the epoch, and where it is in the archive."""
    gap = 40
    width, height = len(PANELS) * (PANEL + gap) + gap, PANEL + 2 * gap
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (name, shuffle) in enumerate(PANELS.items()):
        x, y = gap + number * (PANEL + gap), gap
        order = order_of(DRAWN, shuffle, 0)
        scale = DRAWN // PANEL
        dots = "".join(
            f"M{x + at / scale:g} {y + PANEL - place / scale:g}h1"
            for at, place in enumerate(order.tolist())
        )
        middle = x + PANEL / 2
        parts += [
            f'<rect x="{x}" y="{y}" width="{PANEL}" height="{PANEL}" fill="none" stroke="#999"/>',
            f'<text x="{middle:g}" y="{y - 12}" text-anchor="middle">{name}</text>',
            f'<text x="{middle:g}" y="{y + PANEL + 20}" text-anchor="middle">'
            f"position in the epoch</text>",
            f'<text transform="translate({x - 10} {y + PANEL / 2:g}) rotate(-90)" '
            f'text-anchor="middle">place in the archive</text>',
            f'<path d="{dots}" stroke="#0b57a4" stroke-width="1.2" fill="none"/>',
        ]
    path.write_text("\n".join([*parts, "</svg>\n"]))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))
    else:
        main()
