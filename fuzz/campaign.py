"""Runs harnesses in processes of their own, and reports what they found.

``python -m fuzz.campaign --seconds 600`` runs all of them, two at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz import ROOT, TESTS
from fuzz.catalog import all_harnesses
from fuzz.environment import sanitized_environment
from fuzz.harness import Finding
from fuzz.worker import read_current_input, save_finding

# A worker that runs one input for longer is stopped; the input is a finding.
HANG_SECONDS = 60.0
# Until its first input, it imports modules and makes seeds, which takes long on a busy machine.
START_SECONDS = 600.0
SANITIZER_SLOWDOWN = 5.0


@dataclass(eq=False)
class Process:
    """A running worker."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    started: float
    runs_seen: int = -1
    changed: float = 0.0


@dataclass
class Total:
    """What all processes of one harness did."""

    runs: int = 0
    seconds: float = 0.0
    corpus: int = 0
    peak_mib: int = 0
    findings: int = 0


class Campaign:
    """Runs workers and starts those again that die.

    Parameters
    ----------
    folder : Path
        Gets a folder for each harness.
    sanitized : Path, optional
        A build with sanitizers, as ``setup.py build`` makes it.
    """

    def __init__(self, folder: Path, sanitized: Path | None) -> None:
        self.folder = folder
        self.totals: dict[str, Total] = {}
        self._slowdown = SANITIZER_SLOWDOWN if sanitized else 1.0
        # The threads of a BLAS, one for each processor, would use up the address space.
        self._environment = dict(os.environ, PYTHONHASHSEED="0", OPENBLAS_NUM_THREADS="1")
        # The current directory comes first on the path of imports.
        self._directory = ROOT
        if sanitized is not None:
            self._environment.update(sanitized_environment())
            self._directory = sanitized
        self._environment["PYTHONPATH"] = os.pathsep.join(
            [str(self._directory), str(ROOT), str(TESTS)]
        )

    def run(self, limits: Sequence[tuple[str, float, float]], jobs: int, seed: int) -> None:
        """Run harnesses.

        Parameters
        ----------
        limits : sequence of (name, runs, seconds)
            A worker stops at either limit.
        jobs : int
            How many run at a time.
        seed : int
        """
        waiting = [(name, runs, seconds, seed) for name, runs, seconds in limits]
        running: dict[Process, tuple[str, float, float, int]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.pop(0)
                    running[self._start(*task)] = task
                time.sleep(0.2)
                for process in list(running):
                    again = self._poll(process, *running[process])
                    if again is not None:
                        del running[process]
                        waiting[:0] = again
        finally:
            for process in running:
                process.process.terminate()
            for process in running:
                process.process.wait()
                self._add(process)

    def _start(self, name: str, runs: float, seconds: float, seed: int) -> Process:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for left in ("statistics.json", "current"):
            (folder / left).unlink(missing_ok=True)
        command = [sys.executable, "-m", "fuzz.campaign", "--work", name, str(seed), str(folder)]
        command += [str(runs), str(seconds), str(self._slowdown)]
        with open(folder / "log", "wb") as log:
            child = subprocess.Popen(
                command, cwd=self._directory, env=self._environment, stdout=log, stderr=log
            )
        now = time.monotonic()
        return Process(name, folder, child, now, changed=now)

    def _poll(
        self, process: Process, name: str, runs: float, seconds: float, seed: int
    ) -> list[tuple[str, float, float, int]] | None:
        """Return what to start instead of a process that ended; None while it works."""
        now = time.monotonic()
        code = process.process.poll()
        current = process.folder / "current"
        has_begun = current.exists()
        done, data = read_current_input(current)
        if code is None:
            seen = done if has_begun else -1
            if seen != process.runs_seen:
                process.runs_seen, process.changed = seen, now
            patience = HANG_SECONDS if has_begun else START_SECONDS
            if now - process.changed < patience * self._slowdown:
                return None
            process.process.kill()
            process.process.wait()
            reason = "hang"
        elif code == 0:
            self._add(process)
            return []
        else:
            reason = f"died with exit status {code}"
        log = (process.folder / "log").read_text(errors="replace")
        path = save_finding(process.folder, data, Finding(reason, log[-20_000:]))
        print(f"{name}: {reason}; input saved as {path}", flush=True)
        total = self._add(process)
        total.runs += done - _runs_in(process.folder)
        total.findings += 1
        left = seconds - (now - process.started)
        if not done or left < 1 or runs - done < 1:
            return []
        return [(name, runs - done, left, seed + 1)]

    def _add(self, process: Process) -> Total:
        total = self.totals.setdefault(process.name, Total())
        path = process.folder / "statistics.json"
        if path.exists():
            found = json.loads(path.read_text())
            total.runs += found["runs"]
            total.seconds += found["seconds"]
            total.corpus = found["corpus"]
            total.peak_mib = max(total.peak_mib, found["peak_mib"])
            total.findings += len(found["findings"])
            with open(self.folder / "history.jsonl", "a") as history:
                line = {"harness": process.name, "sanitized": self._slowdown > 1, **found}
                history.write(json.dumps(line) + "\n")
        return total

    def report(self) -> int:
        """Print a table; return how many findings there are."""
        print(
            f"{'harness':14}{'runs':>12}{'runs/s':>9}{'corpus':>8}{'peak MiB':>10}{'findings':>10}"
        )
        for name, total in sorted(self.totals.items()):
            rate = total.runs / total.seconds if total.seconds else 0
            print(
                f"{name:14}{total.runs:12,}{rate:9,.0f}{total.corpus:8}{total.peak_mib:10,}"
                f"{total.findings:10}"
            )
        found = sum(total.findings for total in self.totals.values())
        runs = sum(total.runs for total in self.totals.values())
        print(f"{'together':14}{runs:12,}{'':27}{found:10}", flush=True)
        for path in sorted(self.folder.glob("*/findings/*.txt")):
            print(f"{path.with_suffix('')}: {path.read_text().splitlines()[0]}")
        return found


def _runs_in(folder: Path) -> int:
    path = folder / "statistics.json"
    return int(json.loads(path.read_text())["runs"]) if path.exists() else 0


def main() -> int:
    """Run a campaign; return 1 if there are findings."""
    if sys.argv[1:2] == ["--work"]:
        from fuzz.worker import work

        name, seed, folder, runs, seconds, slowdown = sys.argv[2:]
        work(name, int(seed), Path(folder), float(runs), float(seconds), float(slowdown))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("harnesses", nargs="*", help="which to run; all by default")
    parser.add_argument("--seconds", type=float, help="for all together")
    parser.add_argument("--runs", type=float, help="for each harness")
    parser.add_argument("--smoke", action="store_true", help="about 20 s each, on a fixed seed")
    parser.add_argument("--seed", type=int, help="by default another one each time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sanitized", type=Path, help="a build with sanitizers")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz" / "results")
    arguments = parser.parse_args()
    harnesses = all_harnesses()
    names = arguments.harnesses or list(harnesses)
    for name in names:
        if name not in harnesses:
            parser.error(f"no harness is named {name!r}; there are {', '.join(harnesses)}")
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    if arguments.smoke:
        seed = 0
        shutil.rmtree(arguments.folder, ignore_errors=True)
        limits = [(name, float(harnesses[name].smoke_runs), float("inf")) for name in names]
    else:
        runs = arguments.runs or float("inf")
        seconds = arguments.seconds or (float("inf") if arguments.runs else 600.0)
        limits = [(name, runs, seconds * arguments.jobs / len(names)) for name in names]
    print(f"seed {seed}, results in {arguments.folder}", flush=True)
    campaign = Campaign(
        arguments.folder.resolve(), arguments.sanitized and arguments.sanitized.resolve()
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        campaign.run(limits, arguments.jobs, seed)
    except KeyboardInterrupt:
        pass
    return 1 if campaign.report() else 0


if __name__ == "__main__":
    sys.exit(main())
