"""`Mixture`: samples of several datasets in a fixed ratio."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np

from imagearchive.datasets.combined import DatasetGroup
from imagearchive.datasets.dataset_base import resolve_index
from imagearchive.datasets.permutation import MAX_SAMPLES, Permutation
from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_flag, check_integer, check_number, check_sequence
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.lru import LRUCache

__all__ = ["Mixture"]

# A weight is a fraction of at most this denominator.
MAX_DENOMINATOR: Final = 1_000_000


class Mixture(DatasetGroup):
    """Samples of several datasets in a fixed ratio, spread evenly.

    Of the first ``m`` samples, the ``k``-th dataset has ``m * weights[k] / sum(weights)``, up to
    less than two samples, for every ``m``. So the ratio is exact in each batch of a loader that
    does not shuffle, on every number of ranks, and after resuming. A dataset whose share is larger
    than its length begins again, in a new order.

    Parameters
    ----------
    datasets : iterable of datasets
        Anything with ``len`` and ``[i]`` that is not empty.
    weights : sequence of float
        A positive number for each dataset. Fractions are rounded to a denominator of at most a
        million.
    length : int, optional
        Number of samples. By default so many that every dataset is read to its end at least once.
    shuffle : bool
        Whether each dataset is read in a random order, and in another one whenever it begins again.
    seed : int
        Determines these orders.

    Attributes
    ----------
    datasets : list

    Raises
    ------
    OptionError
        A dataset is empty, or a weight is not positive.

    Notes
    -----
    Sample ``i`` is computed from ``i`` alone, without state, so processes, ranks, and resumed runs
    agree. With ``DataLoader(mixture, shuffle=False)`` every epoch is the same; pass a `length` of
    several passes to get other orders. With ``shuffle=True`` the loader shuffles the mixture as a
    whole: the ratio is exact for the epoch, and random within a batch.

    Examples
    --------
    >>> mixture = Mixture([a, b, c], weights=[2, 1, 1])  # doctest: +SKIP
    >>> loader = DataLoader(mixture, batch_size=64, transform=transform)  # doctest: +SKIP
    """

    def __init__(
        self,
        datasets: Iterable[Any],
        weights: Sequence[float],
        *,
        length: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(datasets)
        numbers = check_sequence("weights", weights, "a list of positive numbers")
        if len(numbers) != len(self.datasets):
            raise OptionError(
                f"weights must have {pluralize(len(self.datasets), 'number')}, one for each "
                f"dataset, got {len(numbers)}"
            )
        self.weights = [check_number("weights", weight, above=0) for weight in numbers]
        self.shuffle = check_flag("shuffle", shuffle)
        self.seed = check_integer("seed", seed)
        shares = [Fraction(weight).limit_denominator(MAX_DENOMINATOR) for weight in self.weights]
        if not all(shares):
            raise OptionError(f"weights must be at least 1/{MAX_DENOMINATOR}, got {self.weights}")
        # What a dataset takes of the samples that those before it leave.
        self._shares = [share / sum(shares[number:]) for number, share in enumerate(shares)]
        self._sizes = [len(dataset) for dataset in self.datasets]
        empty = next((number for number, size in enumerate(self._sizes) if not size), None)
        if empty is not None:
            raise OptionError(f"datasets must not be empty, but datasets[{empty}] has no samples")
        if length is None:
            total = sum(shares)
            # One more than the share itself takes, since shares are rounded at each dataset.
            self._length = max(
                -(-size * total // share) for size, share in zip(self._sizes, shares)
            )
            while any(self.counts(self._length)[k] < size for k, size in enumerate(self._sizes)):
                self._length += 1
        else:
            self._length = check_integer("length", length, 1, MAX_SAMPLES)
        self._orders = LRUCache[str, Permutation](4 * len(self.datasets))

    def __len__(self) -> int:
        return self._length

    def counts(self, m: int) -> list[int]:
        """Return how many of the first `m` samples are from each dataset."""
        counts = []
        for share in self._shares:
            taken = _rounded(m, share)
            counts.append(taken)
            m -= taken
        return counts

    def locate(self, index: Any) -> tuple[int, int]:
        """Return the number of the dataset that a sample is from, and its index there."""
        rest = resolve_index(
            index, self._length, f"a mixture of {pluralize(len(self.datasets), 'dataset')}"
        )
        for number, share in enumerate(self._shares):
            before = _rounded(rest, share)
            if _rounded(rest + 1, share) > before:
                return number, self._inner(number, before)
            rest -= before
        raise AssertionError("the last dataset takes all that is left")

    def mixed_datasets(self) -> list[Any]:
        """Return the datasets; `DataLoader` reads from them directly."""
        return self.datasets

    def _inner(self, number: int, count: int) -> int:
        """Return which sample of a dataset comes after `count` others."""
        size = self._sizes[number]
        done, place = divmod(count, size)
        if not self.shuffle:
            return place
        name = f"{number} {done}"
        order = self._orders.get(name)
        if order is None:
            # The seeds of the datasets differ, or equal ones would be in step.
            order = Permutation(size, self.seed + number, done)
            self._orders.setdefault(name, order)
        return int(order.take(np.array([place]))[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.datasets, self.weights, self._length, self.shuffle, self.seed)

    def __repr__(self) -> str:
        samples = pluralize(self._length, "sample")
        return f"Mixture({self.datasets!r}, weights={self.weights!r}, {samples})"


def _restore(
    datasets: list[Any], weights: list[float], length: int, shuffle: bool, seed: int
) -> Mixture:
    return Mixture(datasets, weights, length=length, shuffle=shuffle, seed=seed)


def _rounded(m: int, share: Fraction) -> int:
    """Return ``m * share``, rounded to the nearest integer, halves up."""
    return (2 * m * share.numerator + share.denominator) // (2 * share.denominator)
