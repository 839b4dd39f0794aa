"""Interleaved timing: every contestant runs once per round, so that slow phases affect them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["compare", "report"]


def compare(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds that each contestant took in each round, after `warmup` uncounted rounds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, function in contestants.items():
            start = clock()
            function()
            elapsed = clock() - start
            if turn >= warmup:
                times[name].append(elapsed)
    return times


def report(
    title: str,
    times: Mapping[str, list[float]],
    ours: str,
    count: int = 1,
    unit: str = "item",
) -> dict[str, float]:
    """Print the medians per `unit` and how often faster `ours` is; return those ratios.

    A ratio is the median of the ratios round by round: above 1, ours is faster.
    """
    print(f"\n{title}")
    ratios: dict[str, float] = {}
    for name, values in times.items():
        each = statistics.median(values) / count
        ratio = statistics.median(other / own for other, own in zip(values, times[ours]))
        ratios[name] = ratio
        note = "" if name == ours else f"   ours is {ratio:.2f}x as fast"
        print(f"  {name:<44} {each * 1e6:12.2f} us/{unit} {1 / each:14,.0f} {unit}s/s{note}")
    return ratios
