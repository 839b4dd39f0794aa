"""The interface of a harness, and what counts as a finding."""

from __future__ import annotations

import re
import resource
import sys
import time
import traceback
from collections.abc import Hashable, Iterable
from random import Random
from typing import ClassVar, NamedTuple

from fuzz.mutation import mutate
from imagearchive.errors import ImageArchiveError

MEBIBYTE = 1 << 20


class DifferenceError(Exception):
    """Our result differs from that of the oracle."""


class Harness:
    """Reads one kind of input.

    Attributes
    ----------
    name : str
    tokens : sequence of bytes
        Byte strings that occur in such inputs; mutation inserts them.
    max_size : int
        Longer inputs are cut.
    smoke_runs : int
        Runs that take about 20 s without sanitizers, for the run on a fixed seed.
    max_seconds : float
        CPU time of one input; more is a finding.
    max_memory : int
        Bytes by which one input may raise the peak of resident memory; more is a finding.
    """

    name: ClassVar[str]
    tokens: ClassVar[tuple[bytes, ...]] = ()
    max_size: ClassVar[int] = 1 << 16
    smoke_runs: ClassVar[int]
    max_seconds: ClassVar[float] = 5.0
    max_memory: ClassVar[int] = 256 * MEBIBYTE

    def seeds(self) -> Iterable[bytes]:
        """Return valid inputs to start from."""
        raise NotImplementedError

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Return a changed copy of an input; `other` is another input to take parts from."""
        return mutate(rng, data, other, self.tokens)

    def run(self, data: bytes) -> Hashable:
        """Read an input.

        Returns
        -------
        Hashable
            What the input did, in few words: an input that does something new is kept, and
            changed further.

        Raises
        ------
        ImageArchiveError
            The input is refused, as it may be.
        Exception
            Any other exception is a finding.
        """
        raise NotImplementedError


class Finding(NamedTuple):
    """An input that must not do what it does.

    Attributes
    ----------
    signature : str
        The same for inputs that fail at the same place.
    report : str
    """

    signature: str
    report: str


def check(condition: object, reason: str) -> None:
    """Raise DifferenceError unless the condition holds."""
    if not condition:
        raise DifferenceError(reason)


def execute(
    harness: Harness, data: bytes, slowdown: float = 1.0
) -> tuple[Hashable, Finding | None]:
    """Run a harness on an input.

    Parameters
    ----------
    harness : Harness
    data : bytes
    slowdown : float
        Factor for the limits of time and memory; sanitizers take more of both.

    Returns
    -------
    outcome : Hashable
        Equal for inputs that do the same.
    finding : Finding or None
    """
    _unraisable.clear()
    peak = _peak_memory()
    start = time.process_time()
    try:
        outcome: Hashable = harness.run(data)
    except ImageArchiveError as error:
        outcome = _outcome_of(error)
    except Exception as error:
        return None, Finding(_place(error), traceback.format_exc())
    if _unraisable:
        return outcome, Finding(f"unraisable {_unraisable[0].partition(':')[0]}", _unraisable[0])
    seconds = time.process_time() - start
    if seconds > harness.max_seconds * slowdown:
        return outcome, Finding("slow", f"took {seconds:.1f} s of CPU time; outcome: {outcome}\n")
    grown = _peak_memory() - peak
    if grown > harness.max_memory * slowdown:
        return outcome, Finding("memory", f"took {grown >> 20} MiB; outcome: {outcome}\n")
    return outcome, None


# What destructors and callbacks raised during a run.
_unraisable: list[str] = []


def record_unraisable() -> None:
    """Make findings of exceptions that Python only prints."""

    def record(error: sys.UnraisableHookArgs) -> None:
        _unraisable.append(f"{error.exc_type.__name__}: {error.exc_value} in {error.object!r:.200}")

    sys.unraisablehook = record


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# Scratch folders have another name in each process.
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|fuzz-\w+|[0-9]+")


def _outcome_of(error: ImageArchiveError) -> Hashable:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    line = 0 if frame is None else frame.tb_lineno
    message = error.args[0] if error.args else ""
    return type(error).__name__, line, _VARIABLE.sub("", str(message)[:160])[:60]


def _place(error: BaseException) -> str:
    """Return the type of an error, and the last line of the package that it passed through."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        name = frame.filename.replace("\\", "/")
        if "imagearchive/" in name or "fuzz/harnesses/" in name:
            place = f"{name.rpartition('/')[2]}:{frame.lineno}"
    kind = type(error).__name__
    if isinstance(error, DifferenceError):
        return f"{kind} {str(error).partition(':')[0]}"
    return f"{kind} {place}"
