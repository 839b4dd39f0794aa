"""One process that runs one harness on mutated inputs."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import resource
import signal
import struct
import time
import traceback
from collections.abc import Hashable
from pathlib import Path
from random import Random
from types import FrameType

from fuzz.catalog import harness_named
from fuzz.environment import prepare_process
from fuzz.harness import Finding, Harness, execute

# Runs so far, and the length of the input that follows.
_HEAD = struct.Struct("<QQ")
_MAX_CORPUS = 4000
_MAX_PER_PLACE = 200
_REPORT_EVERY = 2.0
_SHRINK_TRIES = 300


class CurrentInput:
    """A file that holds the input being run, for the parent to save if this process dies."""

    def __init__(self, path: Path, max_size: int) -> None:
        size = _HEAD.size + max_size
        path.write_bytes(bytes(size))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def set(self, runs: int, data: bytes) -> None:
        """Store an input before it is run."""
        _HEAD.pack_into(self._map, 0, runs, len(data))
        self._map[_HEAD.size : _HEAD.size + len(data)] = data


def read_current_input(path: Path) -> tuple[int, bytes]:
    """Return the number of runs before the last input, and that input."""
    content = path.read_bytes() if path.exists() else b""
    if len(content) < _HEAD.size:
        return 0, b""
    runs, size = _HEAD.unpack_from(content)
    return runs, content[_HEAD.size : _HEAD.size + size]


class Stop(BaseException):
    """The parent asked this process to stop."""


class Worker:
    """Mutates, runs, and keeps what does something new.

    Parameters
    ----------
    harness : Harness
    seed : int
        The same seed gives the same inputs, unless there is a saved corpus.
    folder : Path
        Gets findings, statistics and the corpus.
    slowdown : float
        As for `fuzz.harness.execute`.
    """

    def __init__(self, harness: Harness, seed: int, folder: Path, slowdown: float = 1.0) -> None:
        self.harness = harness
        self.slowdown = slowdown
        self.runs = 0
        self.findings: dict[str, int] = {}
        self._rng = Random(seed)
        self._folder = folder
        self._corpus: list[bytes] = []
        self._seen: set[Hashable] = set()
        self._places: dict[Hashable, int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._saved = folder / "corpus"
        self._saved.mkdir(exist_ok=True)
        self._current = CurrentInput(folder / "current", harness.max_size)

    def work(self, max_runs: float, seconds: float) -> None:
        """Run until either limit is reached."""
        start = report = time.monotonic()
        try:
            for data in [*self.harness.seeds(), *self._load_corpus()]:
                self._run(data[: self.harness.max_size], keep=True)
            while self.runs < max_runs:
                for _ in range(16):
                    data = self.harness.mutate(
                        self._rng, self._choose(), self._rng.choice(self._corpus)
                    )
                    self._run(data[: self.harness.max_size])
                now = time.monotonic()
                if now - start > seconds:
                    break
                if now - report > _REPORT_EVERY:
                    report = now
                    self._write_statistics(now - start)
        except Stop:
            pass
        self._write_statistics(time.monotonic() - start)

    def _choose(self) -> bytes:
        # What is new is changed most.
        if self._rng.random() < 0.5:
            return self._rng.choice(self._corpus[-50:])
        return self._rng.choice(self._corpus)

    def _load_corpus(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self._saved.iterdir())]

    def _run(self, data: bytes, keep: bool = False) -> None:
        self._current.set(self.runs, data)
        outcome, finding = execute(self.harness, data, self.slowdown)
        self.runs += 1
        if finding is not None:
            self._save(data, finding)
        if keep:
            self._seen.add(outcome)
            self._corpus.append(data)
        elif outcome not in self._seen and self._is_worth_keeping(outcome):
            self._seen.add(outcome)
            self._corpus.append(data)
            (self._saved / _digest(data)).write_bytes(data)

    def _is_worth_keeping(self, outcome: Hashable) -> bool:
        # Messages may quote the input, so they never run out.
        place = outcome[:2] if isinstance(outcome, tuple) else None
        count = self._places[place] = self._places.get(place, 0) + 1
        return count <= _MAX_PER_PLACE and len(self._corpus) < _MAX_CORPUS

    def _save(self, data: bytes, finding: Finding) -> None:
        count = self.findings[finding.signature] = self.findings.get(finding.signature, 0) + 1
        if count > 1:
            return
        if finding.signature not in ("slow", "memory"):
            data = self._shrink(data, finding.signature)
        save_finding(self._folder, data, finding)

    def _shrink(self, data: bytes, signature: str) -> bytes:
        """Return a shorter input that fails at the same place, found in a few hundred tries."""
        size = len(data) // 2
        tries = 0
        while size and tries < _SHRINK_TRIES:
            start = 0
            while start < len(data) and tries < _SHRINK_TRIES:
                shorter = data[:start] + data[start + size :]
                tries += 1
                self._current.set(self.runs, shorter)
                finding = execute(self.harness, shorter, self.slowdown)[1]
                if finding is not None and finding.signature == signature:
                    data = shorter
                else:
                    start += size
            size //= 2
        return data

    def _write_statistics(self, seconds: float) -> None:
        write_statistics(
            self._folder,
            {
                "runs": self.runs,
                "seconds": round(seconds, 1),
                "cpu": round(time.process_time(), 1),
                "corpus": len(self._corpus),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
                "findings": self.findings,
            },
        )


def write_statistics(folder: Path, statistics: dict[str, object]) -> None:
    """Save what a worker did so far."""
    temporary = folder / f"statistics.{os.getpid()}"
    temporary.write_text(json.dumps(statistics))
    temporary.replace(folder / "statistics.json")


def save_finding(folder: Path, data: bytes, finding: Finding) -> Path:
    """Save an input and its report; return the path of the input."""
    findings = folder / "findings"
    findings.mkdir(exist_ok=True)
    path = findings / _digest(data)
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(f"{finding.signature}\n\n{finding.report}")
    return path


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stop


def work(
    name: str, seed: int, folder: Path, max_runs: float, seconds: float, slowdown: float
) -> None:
    """Run a harness in this process."""
    prepare_process()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Worker(harness_named(name), seed, folder, slowdown).work(max_runs, seconds)
    except Exception:
        traceback.print_exc()
        raise
