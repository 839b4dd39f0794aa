"""Claim: `DataLoader` crops images more than three times as fast as FFCV and TurboLoader.

It is as fast as libjpeg-turbo that decodes the same regions and nothing else. All take turns in one
process, with two threads or two worker processes, on the same JPEGs of about 480 x 400 pixels.
`harness/peers.py` says what each needs; those that are not installed are left out, and named. The
figures of docs/guides/comparison.md come from this script.

    python -m benchmarks.loader.compare_loaders [--cpu] --photos /usr/share/backgrounds

FFCV needs the packages libopencv-dev and libturbojpeg0-dev of Debian, SPDL its package ffmpeg.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import add_options, jpeg_tar
from benchmarks.harness.peers import PEERS, Epoch, Task, count
from benchmarks.loader.loader_jpegs import Limit, PillowDataset, add_cpu_option, ours, turbo
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

FINISH = [ImageNetNormalize(), ToTensor()]
TRANSFORMS = {
    "crop": Compose([RandomResizedCrop(224), RandomHorizontalFlip(), *FINISH]),
    "resize": Compose([Resize(224, 224), *FINISH]),
}
TITLES = {
    "crop": "random resized crop 224, flip, normalize",
    "resize": "resize 224 x 224 of the whole image, normalize",
}


def our_epoch(task: Task) -> Epoch:
    loader = ours(task.tar, TRANSFORMS["crop" if task.crop else "resize"], task.workers)
    return lambda: count(loader)


def turbo_epoch(task: Task) -> Epoch:
    loader = turbo(task.tar, task.workers, train_aug=task.crop)
    return lambda: count(loader)


def limit_epoch(task: Task) -> Epoch:
    data = PillowDataset(task.tar, train=task.crop)
    limit = Limit(task.tar, TRANSFORMS["crop"][0] if task.crop else Resize(224, 224), data)

    def epoch() -> int:
        limit.run(task.workers)
        return len(data)

    return epoch


#: Those that work in threads of this process.
IN_THREADS = {"imagearchive", "libjpeg-turbo alone, same regions", "TurboLoader", "FFCV", "SPDL"}


def prepare(task: Task, chosen: set[str] | None) -> dict[str, Epoch]:
    """Return an epoch of each contestant that is installed and wanted."""
    contestants: dict[str, Callable[[Task], Epoch]] = {
        "imagearchive": our_epoch,
        "libjpeg-turbo alone, same regions": limit_epoch,
        "TurboLoader": turbo_epoch,
        **PEERS,
    }
    found = {}
    for name, make in contestants.items():
        if chosen and name not in chosen and make not in (our_epoch, limit_epoch):
            continue
        try:
            found[name] = make(task)
        except ImportError as error:
            print(f"{name}: not installed ({error})")
        except NotImplementedError as error:
            print(f"{name}: {error}")
    return found


def checked(name: str, epoch: Epoch, expected: int) -> Callable[[], None]:
    """Return an epoch that must deliver all images."""

    def run() -> None:
        total = epoch()
        if total != expected:
            raise SystemExit(f"{name}: {total} images instead of {expected}")

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=list(TRANSFORMS))
    parser.add_argument("--peers", nargs="*", help="names of peers; all that are installed")
    add_cpu_option(parser)
    options = parser.parse_args()
    tar = jpeg_tar(options)
    chosen = set(options.peers) if options.peers else None
    if options.cpu:
        chosen = IN_THREADS & (chosen or IN_THREADS)
    clock = time.process_time if options.cpu else time.perf_counter
    for recipe in [options.only] if options.only else TRANSFORMS:
        task = Task(tar, options.cache, options.workers, crop=recipe == "crop")
        epochs = {
            name: checked(name, epoch, options.count)
            for name, epoch in prepare(task, chosen).items()
        }
        times = compare(epochs, rounds=options.rounds, clock=clock)
        report(TITLES[recipe], times, "imagearchive", options.count, "image")
        del epochs
        gc.collect()


if __name__ == "__main__":
    main()
