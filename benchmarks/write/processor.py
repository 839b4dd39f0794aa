"""Claim: two workers of `DataProcessor` do 1.7 times the work of one, in memory that does not grow.

The images are JPEG photographs of 500 x 375 pixels, generated here. Memory is the sum of the
private and proportionally shared pages (PSS) of the process and its workers, sampled during the
run; throughput is measured by turns in one run.

    python -m benchmarks.write.processor [--images N]
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.harness.interleave import compare, report

SIZES = (1000, 4000)

RUN = """
from imagearchive.processing.processor import DataProcessor
DataProcessor({raw!r}, {out!r}, num_workers=2, progress=False).process_landmarker()
"""


def photographs(folder: str, count: int) -> None:
    """Write `count` copies of eight different JPEGs, each with its landmarks."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(8):
        coarse = Image.fromarray(generator.integers(0, 255, (24, 32, 3), np.uint8))
        image = coarse.resize((500, 375), Image.Resampling.BICUBIC)
        noise = Image.fromarray(generator.integers(0, 255, (375, 500, 3), np.uint8))
        image = Image.blend(image, noise.filter(ImageFilter.GaussianBlur(1)), 0.3)
        data = io.BytesIO()
        image.save(data, "JPEG", quality=90)
        images.append(data.getvalue())
    os.makedirs(folder)
    for k in range(count):
        with open(os.path.join(folder, f"{k}.jpg"), "wb") as file:
            file.write(images[k % len(images)])
        with open(os.path.join(folder, f"{k}.pts"), "w") as text:
            text.write("version: 1\nn_points: 2\n{\n10 20\n300 200\n}\n")


def memory(pid: int) -> int:
    """Proportional set size of a process and its children, in bytes; 0 once it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            own = next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return own + sum(memory(int(child)) for child in file.read().split())
    except OSError:
        return 0


def peak(raw: str, out: str) -> int:
    """Run once in a new process and return the highest memory that was sampled."""
    highest = 0
    with subprocess.Popen([sys.executable, "-c", RUN.format(raw=raw, out=out)]) as child:
        while child.poll() is None:
            highest = max(highest, memory(child.pid))
            time.sleep(0.02)
    return highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="for the throughput")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    from imagearchive.processing.processor import DataProcessor

    with tempfile.TemporaryDirectory() as folder:
        counts = sorted({*SIZES, arguments.images})
        for count in counts:
            photographs(os.path.join(folder, str(count), "landmarker", "x"), count)
        raw = os.path.join(folder, str(arguments.images))

        cpu: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}

        def run(workers: int) -> None:
            out = os.path.join(folder, "out")
            processor = DataProcessor(raw, out, num_workers=workers, progress=False)
            before = os.times()
            processor.process_landmarker()
            after = os.times()
            own = after.user + after.system - before.user - before.system
            children = after.children_user + after.children_system
            children -= before.children_user + before.children_system
            cpu[workers].append((own, children))

        contestants = {f"{n} workers": lambda n=n: run(n) for n in cpu}
        contestants |= {f"arithmetic in {n} processes": lambda n=n: arithmetic(n) for n in (1, 2)}
        times = compare(contestants, rounds=arguments.rounds)
        title = "DataProcessor, 500 x 375 to 224 x 224"
        ours = {name: values for name, values in times.items() if name.endswith("workers")}
        report(title, ours, "2 workers", arguments.images, "image")
        print("\nTwo workers against one, and what two processes of pure arithmetic gain meanwhile")
        gains = gained(times["1 workers"], times["2 workers"])
        print(f"  DataProcessor  {gains}")
        one, two = (times[f"arithmetic in {n} processes"] for n in (1, 2))
        print(f"  arithmetic     {gained([2 * value for value in one], two)}")
        own, children = (statistics.median(value) for value in zip(*cpu[2]))
        print(
            f"  CPU time of the parent {own / arguments.images * 1e6:.0f} us an image, of the "
            f"workers {children / arguments.images * 1e6:.0f}"
        )
        print("\nPeak memory (PSS), two workers and their parent together")
        peaks = {}
        for count in SIZES:
            source, out = os.path.join(folder, str(count)), os.path.join(folder, "out")
            peaks[count] = max(peak(source, out) for _ in range(3))
            print(f"  {count:5} images  {peaks[count] / 1e6:7.1f} MB")
        print(f"  {SIZES[1]} against {SIZES[0]} images: {peaks[SIZES[1]] / peaks[SIZES[0]]:.2f}x")


def arithmetic(processes: int) -> None:
    """Run work that two processes do twice as fast unless the machine is busy."""
    command = [sys.executable, "-c", "sum(i * i for i in range(10_000_000))"]
    children = [subprocess.Popen(command) for _ in range(processes)]
    for child in children:
        child.wait()


def gained(slow: list[float], fast: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(slow, fast))
    return f"median {statistics.median(ratios):.2f}x, {ratios[0]:.2f}x to {ratios[-1]:.2f}x"


if __name__ == "__main__":
    main()
