"""Numbers of classes: of sorted names, or as the caller gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import LabelError, OptionTypeError
from imagearchive.errors.arguments import check_integer, shorten

__all__ = ["NO_CLASS", "ClassNumbers", "number_names"]

#: The number of samples outside of any class.
NO_CLASS: Final = -1

# How many classes a message lists.
SHOWN: Final = 5

_Numbers = npt.NDArray[np.int64]


def number_names(names: Sequence[str], classes: Sequence[str]) -> _Numbers:
    """Return the place of each name in `classes`, as int64 of shape (N,)."""
    number_of = {name: number for number, name in enumerate(classes)}
    return np.fromiter(map(number_of.__getitem__, names), np.int64, len(names))


@dataclass(frozen=True)
class ClassNumbers:
    """The numbers of classes as the argument ``class_to_idx=`` gives them.

    Attributes
    ----------
    number_of : dict
        From the name of a class, or its number in the archive or file, to its number.
    """

    number_of: dict[Any, int]

    @classmethod
    def check(cls, class_to_idx: Any) -> ClassNumbers:
        """Return the argument, checked."""
        if not isinstance(class_to_idx, Mapping):
            raise OptionTypeError(
                f"class_to_idx must be a dict from the names of classes to their numbers, got "
                f"{shorten(class_to_idx)}"
            )
        limit = (1 << 63) - 1
        return cls(
            {
                name: check_integer(f"class_to_idx[{name!r}]", number, -limit, limit)
                for name, number in class_to_idx.items()
            }
        )

    @property
    def classes(self) -> list[str]:
        """The names in the order of their numbers."""
        return [str(name) for name in sorted(self.number_of, key=self.number_of.__getitem__)]

    def number(self, value: Any, where: str) -> int:
        """Return the number of one class.

        Raises
        ------
        LabelError
            The class is not in the mapping.
        """
        return int(self.of_names([value], where)[0])

    def of_names(self, names: Sequence[Any], where: str) -> _Numbers:
        """Return the number of each class.

        A name that is a number is looked up as an integer too.

        Raises
        ------
        LabelError
            A class is not in the mapping.
        """
        numbers = [self._find(name) for name in names]
        missing = [name for name, number in zip(names, numbers) if number is None]
        if missing:
            listed = ", ".join(map(repr, missing[:SHOWN])) + (", ..." * (len(missing) > SHOWN))
            raise LabelError(
                f"{where}: class_to_idx has no number for {len(missing)} of {len(names)} classes: "
                f"{listed}"
            )
        return np.array(numbers, np.int64)

    def _find(self, name: Any) -> int | None:
        found = self.number_of.get(name)
        if found is None and isinstance(name, int):
            return self.number_of.get(str(name))
        if found is None and isinstance(name, str) and name.isascii() and name.isdecimal():
            return self.number_of.get(int(name)) if len(name) < 19 else None
        return found

    def of_numbered(self, classes: Sequence[str], numbers: _Numbers, where: str) -> _Numbers:
        """Replace numbers of `classes` by those of the mapping; `NO_CLASS` stays.

        Classes that no sample has need not be in the mapping.
        """
        used = np.unique(numbers[numbers != NO_CLASS])
        table = np.full(len(classes) + 1, NO_CLASS, np.int64)
        table[used] = self.of_names([classes[number] for number in used.tolist()], where)
        replaced: _Numbers = table[numbers]
        return replaced

    def of_values(self, values: npt.NDArray[Any], where: str) -> _Numbers:
        """Return the number of each value in an array of shape (N,)."""
        present, places = np.unique(values, return_inverse=True)
        found: _Numbers = self.of_names(present.tolist(), where)[places]
        return found
