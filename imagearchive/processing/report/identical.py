"""Digests of images, also of those that are not measured, to find files of the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.errors import ImageArchiveError
from imagearchive.processing.report.measure import digest_of
from imagearchive.storage.executors import Submits, run_tasks
from imagearchive.storage.location import locate

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Candidates", "Digests", "compare_bytes"]

Positions = npt.NDArray[np.int64]
# Of images of equal size, so many bytes at the end are compared before all of them.
_TAIL: Final = 1024
# Images per task.
_TASK: Final = 256


class Digests(NamedTuple):
    """The digests of images.

    Attributes
    ----------
    positions : ndarray of int64, shape (N,)
        Ascending.
    digests : ndarray of uint64, shape (N, 2)
    among : int
        Among how many images any equal ones are found. Those without a digest have no equal.
    """

    positions: Positions
    digests: npt.NDArray[np.uint64]
    among: int


class Candidates(NamedTuple):
    """The images of an archive, and the digests of those that were measured."""

    archive: Archive
    images: Positions
    known: Digests


def compare_bytes(
    archives: Sequence[Candidates], executor: Submits, threads: int, most: int
) -> list[Digests]:
    """Return digests of all images that may have an equal in any of the archives.

    The index tells which images have the same size. Only these are read, and of most of them only
    the end. Archives that cannot be read at random cheaply, because they are compressed or on a
    server, take part with the images that were measured.

    Parameters
    ----------
    archives : sequence of Candidates
    executor, threads
        Where images are read, and how many at a time.
    most : int
        If the ends of more images than these would be read, none are, and images that were not
        measured are not compared.
    """
    known = [one.known for one in archives]
    whole = [_is_cheap(one) for one in archives]
    if not any(len(one.images) > one.known.among for one, all in zip(archives, whole) if all):
        return known
    images = [one.images if all else one.known.positions for one, all in zip(archives, whole)]
    sizes = [one.archive.table.entries["size"][chosen] for one, chosen in zip(archives, images)]
    rest = _repeated(images, sizes)
    if sum(map(len, rest)) > most:
        return known
    tails = [
        _read(one.archive, chosen, _tail, executor, threads) for one, chosen in zip(archives, rest)
    ]
    rest = _repeated(rest, [digests[:, 0] for digests in tails])
    found = []
    for one, chosen, all in zip(archives, rest, whole):
        new = np.setdiff1d(chosen, one.known.positions)
        digests = _read(one.archive, new, _digest, executor, threads)
        readable = digests.any(axis=1)
        positions = np.concatenate([one.known.positions, new[readable]])
        order = np.argsort(positions)
        values = np.concatenate([one.known.digests, digests[readable]])
        among = len(one.images) if all else one.known.among
        found.append(Digests(positions[order], values[order], among))
    return found


def _is_cheap(one: Candidates) -> bool:
    table = one.archive.table
    return (
        all(locate(path).local_path is not None for path in one.archive.paths)
        and not table.compressed
        and not table.entries["method"][one.images].any()
    )


def _repeated(
    positions: Sequence[Positions], values: Sequence[npt.NDArray[Any]]
) -> list[Positions]:
    """Return the positions of the values that occur several times in all archives together."""
    every = np.concatenate(values)
    _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    repeated = counts[inverse.reshape(-1)] > 1
    bounds = np.cumsum([len(one) for one in positions])[:-1]
    return [one[mask] for one, mask in zip(positions, np.split(repeated, bounds))]


def _read(
    archive: Archive,
    positions: Positions,
    digest: Callable[[Archive, int], bytes],
    executor: Submits,
    threads: int,
) -> npt.NDArray[np.uint64]:
    """Return a digest of each member, of shape (N, 2); zeros for one that cannot be read."""
    parts = (positions[start : start + _TASK].tolist() for start in range(0, len(positions), _TASK))
    call = partial(_read_part, archive, digest)
    with closing(
        run_tasks(call, parts, executor, in_flight=2 * threads, in_order=True)
    ) as outcomes:
        digests = b"".join(outcome.get() for outcome in outcomes)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _read_part(
    archive: Archive, digest: Callable[[Archive, int], bytes], positions: Sequence[int]
) -> bytes:
    return b"".join(_digest_or_zeros(archive, position, digest) for position in positions)


def _digest_or_zeros(
    archive: Archive, position: int, digest: Callable[[Archive, int], bytes]
) -> bytes:
    try:
        return digest(archive, position)
    except (ImageArchiveError, OSError, MemoryError):
        return bytes(16)


def _tail(archive: Archive, position: int) -> bytes:
    member = archive.member(position)
    size = min(member.size, _TAIL)
    end = member.read(member.size - size, size)
    return hashlib.blake2b(b"%d " % member.size + bytes(end), digest_size=16).digest()


def _digest(archive: Archive, position: int) -> bytes:
    return digest_of(archive.read(position))
