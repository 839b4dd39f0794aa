"""`Permutation` and `BlockPermutation`: orders of ``range(n)``, computed and never stored."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import SampleIndexError
from imagearchive.errors.arguments import check_integer
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.lru import LRUCache

__all__ = ["MAX_SAMPLES", "BlockPermutation", "Permutation", "permute_ranges"]

# Up to this many elements are shuffled explicitly: a Feistel network on few bits does not reach
# all permutations evenly. The bound keeps the memory constant (64 KiB).
EXPLICIT_LIMIT: Final = 8192
ROUNDS: Final = 8
MAX_SAMPLES: Final = 1 << 62
_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15

_Positions = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


def _mix(words: _Words) -> _Words:
    """Apply SplitMix64's output function in place; return the same array.

    Steele, Lea and Flood 2014; constants by David Stafford.
    """
    shifted = words >> np.uint64(30)
    words ^= shifted
    words *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(words, np.uint64(27), out=shifted)
    words ^= shifted
    words *= np.uint64(0x94D049BB133111EB)
    np.right_shift(words, np.uint64(31), out=shifted)
    words ^= shifted
    return words


def _key_schedule(seed: int, epoch: int, count: int) -> _Words:
    """`count` independent 64-bit keys; every bit of seed and epoch changes all of them."""
    keys: _Words = _key_schedules(seed, [epoch], count)[0]
    return keys


def _key_schedules(seed: int, epochs: Sequence[int], count: int) -> _Words:
    """Return one row of `count` keys for each epoch."""
    state = np.zeros(1, np.uint64)
    for values in ([seed], epochs):
        # 128 bits of each, so that negative and large seeds keep their own orders.
        for shift in (0, 64):
            parts = np.array([(value >> shift) & _MASK for value in values], np.uint64)
            state = _mix(state + (parts + np.uint64(_GOLDEN)))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(state[:, None] + steps)


def _sort_keys(
    positions: npt.NDArray[np.integer[Any]], first: _Words | np.uint64, second: _Words | np.uint64
) -> _Words:
    """Return independent 64-bit words; the order that sorts them is a uniform shuffle.

    But for ties, which a stable sort breaks and which occur once in 10**11 orders of
    `EXPLICIT_LIMIT` elements.
    """
    words = _mix(first + positions.astype(np.uint64) * np.uint64(_GOLDEN))
    return _mix(words ^ second)


def permute_ranges(sizes: Sequence[int], seed: int, epochs: Sequence[int]) -> Iterator[_Positions]:
    """Yield all elements of ``Permutation(n, seed, epoch)`` for each size and epoch.

    Small ranges are permuted many at a time, so that each costs microseconds less than a
    `Permutation`.
    """
    low = 0
    while low < len(sizes):
        if sizes[low] > EXPLICIT_LIMIT:
            yield Permutation(sizes[low], seed, epochs[low]).take(np.arange(sizes[low]))
            low += 1
            continue
        high, total = low, 0
        while high < len(sizes) and high - low < EXPLICIT_LIMIT:
            total += sizes[high]
            if total > EXPLICIT_LIMIT:
                break
            high += 1
        lengths = np.array(sizes[low:high], np.int64)
        ends = np.cumsum(lengths)
        positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        first, second = np.repeat(_key_schedules(seed, epochs[low:high], 2), lengths, axis=0).T
        words = _sort_keys(positions, first, second)
        start = 0
        for end in ends.tolist():
            yield words[start:end].argsort(kind="stable")
            start = end
        low = high


class Permutation:
    """A pseudo-random permutation of ``range(n)`` with random access and constant memory.

    A Feistel network adds hashes of one half of a position to the other half, eight times, on the
    smallest grid that holds `n` cells; results outside ``range(n)`` are permuted again until they
    fall inside ("cycle walking", Black and Rogaway 2002), which keeps it bijective. Small `n` are
    shuffled explicitly.

    Parameters
    ----------
    n : int
        Number of elements, 0 to 2**62.
    seed, epoch : int
        Any integers; together they choose the permutation.

    Notes
    -----
    Immutable, so threads and processes may share it. Not meant for cryptography.

    Examples
    --------
    >>> order = Permutation(5, seed=1)
    >>> sorted(order)
    [0, 1, 2, 3, 4]
    """

    __slots__ = ("_explicit", "_keys", "_left", "_right", "epoch", "n", "seed")

    def __init__(self, n: int, seed: int = 0, epoch: int = 0) -> None:
        self.n = check_integer("n", n, 0, MAX_SAMPLES)
        self.seed = check_integer("seed", seed)
        self.epoch = check_integer("epoch", epoch)
        self._keys = _key_schedule(self.seed, self.epoch, ROUNDS)
        self._explicit: _Positions | None = None
        self._left = self._right = np.uint64(0)
        if self.n <= EXPLICIT_LIMIT:
            words = _sort_keys(np.arange(self.n), self._keys[0], self._keys[1])
            self._explicit = np.argsort(words, kind="stable").astype(np.int64)
        else:
            left = _ceil_sqrt(self.n)
            self._left = np.uint64(left)
            self._right = np.uint64(-(-self.n // left))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, position: int) -> int:
        """Return the element at one position; negative ones count from the end."""
        where = operator.index(position)
        if not -self.n <= where < self.n:
            raise SampleIndexError(
                f"position {where} of a permutation of {pluralize(self.n, 'element')}"
            )
        return int(self.take(np.array([where % self.n], np.int64))[0])

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.n, 8192):
            stop = min(start + 8192, self.n)
            yield from self.take(np.arange(start, stop, dtype=np.int64)).tolist()

    def take(self, positions: npt.NDArray[np.integer[Any]]) -> _Positions:
        """Return the elements at many positions.

        Parameters
        ----------
        positions : ndarray of int, any shape
            Each in ``range(n)``.

        Returns
        -------
        ndarray of int64, same shape
        """
        where = _check_positions(positions, self.n)
        if self._explicit is not None:
            return self._explicit[where]
        flat = self._network(where.ravel().astype(np.uint64))
        outside = np.flatnonzero(flat >= np.uint64(self.n))
        while outside.size:
            flat[outside] = self._network(flat[outside])
            outside = outside[flat[outside] >= np.uint64(self.n)]
        return flat.astype(np.int64).reshape(where.shape)

    def _network(self, words: _Words) -> _Words:
        high, low = np.divmod(words, self._right)
        for turn, key in enumerate(self._keys):
            if turn % 2:
                _shift(low, _mix(high + key), self._right)
            else:
                _shift(high, _mix(low + key), self._left)
        high *= self._right
        high += low
        return high

    def __repr__(self) -> str:
        return f"Permutation({self.n}, seed={self.seed}, epoch={self.epoch})"


class BlockPermutation:
    """A permutation of ``range(n)`` in which neighbors stay near each other, with random access.

    ``range(n)`` is cut into blocks of `block_size`, and the blocks are shuffled. Then the elements
    of every *window*, which is `blocks_per_window` of the shuffled blocks, are shuffled among
    themselves. So whoever walks through the order needs the blocks of one window at a time.

    The blocks begin at an element that depends on seed and epoch, and wrap around at the end. The
    ``n % block_size`` elements that are left belong to the last window.

    Parameters
    ----------
    n : int
        Number of elements, 0 to 2**62.
    seed, epoch : int
        Any integers; together they choose the permutation.
    block_size : int
        Elements of a block, at least 1.
    blocks_per_window : int
        Most blocks of a window, at least 1. Windows differ by at most one block.

    Notes
    -----
    Immutable, so threads and processes may share it. It keeps at most 128 KiB.
    """

    __slots__ = (
        "_arguments",
        "_blocks",
        "_first",
        "_kept",
        "_long_windows",
        "_per_window",
        "_window_seed",
        "block_size",
        "n",
        "windows",
    )

    def __init__(
        self, n: int, seed: int, epoch: int, block_size: int, blocks_per_window: int
    ) -> None:
        self.n = check_integer("n", n, 0, MAX_SAMPLES)
        self.block_size = check_integer("block_size", block_size, 1, MAX_SAMPLES)
        most = check_integer("blocks_per_window", blocks_per_window, 1)
        self._blocks = Permutation(self.n // self.block_size, seed, epoch)
        first, window_seed = _key_schedule(seed, epoch, ROUNDS + 2)[ROUNDS:].tolist()
        self._first = first % max(self.n, 1)
        self._window_seed = window_seed
        #: The number of windows.
        self.windows = max(1, -(-self._blocks.n // most))
        # The first windows have one block more than the others.
        self._per_window, self._long_windows = divmod(self._blocks.n, self.windows)
        self._kept = LRUCache[int, Permutation](2)
        self._arguments = (n, seed, epoch, block_size, blocks_per_window)

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockPermutation, self._arguments

    def __len__(self) -> int:
        return self.n

    def window(self, number: int) -> tuple[int, int]:
        """Return the first position of a window, and the position after its last."""
        if number == self.windows - 1:
            return self._start(number), self.n
        return self._start(number), self._start(number + 1)

    def _start(self, window: int) -> int:
        return (window * self._per_window + min(window, self._long_windows)) * self.block_size

    def window_of(self, positions: npt.NDArray[np.integer[Any]]) -> _Positions:
        """Return the numbers of the windows that positions are in."""
        blocks = np.asarray(positions) // self.block_size
        in_long = self._long_windows * (self._per_window + 1)
        after = self._long_windows + (blocks - in_long) // max(self._per_window, 1)
        found = np.where(blocks < in_long, blocks // (self._per_window + 1), after)
        return np.minimum(found, self.windows - 1).astype(np.int64)

    def take(self, positions: npt.NDArray[np.integer[Any]]) -> _Positions:
        """Return the elements at many positions.

        Parameters
        ----------
        positions : ndarray of int, any shape
            Each in ``range(n)``.

        Returns
        -------
        ndarray of int64, same shape
        """
        where = _check_positions(positions, self.n)
        flat = where.ravel()
        windows = self.window_of(flat)
        slots = np.empty_like(flat)
        for window in np.unique(windows).tolist():
            start, stop = self.window(window)
            order = self._kept.get(window)
            if order is None:
                order = Permutation(stop - start, self._window_seed, window)
                self._kept.setdefault(window, order)
            inside = windows == window
            slots[inside] = start + order.take(flat[inside] - start)
        whole = slots < self._blocks.n * self.block_size
        places, rest = np.divmod(slots[whole], self.block_size)
        slots[whole] = self._blocks.take(places) * self.block_size + rest
        found: _Positions = (slots + self._first) % max(self.n, 1)
        return found.reshape(where.shape)

    def __repr__(self) -> str:
        return (
            f"BlockPermutation({self.n}, seed={self._blocks.seed}, epoch={self._blocks.epoch}, "
            f"block_size={self.block_size}, windows={self.windows})"
        )


def _check_positions(positions: npt.NDArray[np.integer[Any]], n: int) -> _Positions:
    """Return positions as int64; raise SampleIndexError unless each is in ``range(n)``."""
    where = np.asarray(positions).astype(np.int64)
    if where.size and (where.min() < 0 or where.max() >= n):
        raise SampleIndexError(
            f"positions {where.min()} to {where.max()} of a permutation of "
            f"{pluralize(n, 'element')}"
        )
    return where


def _shift(words: _Words, hashes: _Words, size: np.uint64) -> None:
    """Add hashes to words below `size`, modulo `size`; overwrites both."""
    # The upper 32 bits of a hash, scaled to range(size) without a division.
    hashes >>= np.uint64(32)
    hashes *= size
    hashes >>= np.uint64(32)
    words += hashes
    # Of words that are small enough, the difference is negative, and so large without a sign.
    np.minimum(words, words - size, out=words)


def _ceil_sqrt(n: int) -> int:
    root = int(n**0.5)
    while root * root < n:
        root += 1
    while (root - 1) * (root - 1) >= n:
        root -= 1
    return root
