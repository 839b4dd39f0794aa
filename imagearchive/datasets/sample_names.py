"""`SampleNames`: the name and the label of every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from imagearchive.errors.plurals import pluralize

__all__ = ["SampleNames"]


# How many items `repr` shows.
SHOWN: Final = 3


class _Labeled(Protocol):
    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def label(self, index: int) -> Any: ...


class SampleNames(Sequence[tuple[str, Any]]):
    """``(name, label)`` of every sample of a dataset, made when it is asked for."""

    def __init__(self, dataset: _Labeled) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._dataset.name(index), self._dataset.label(index)

    def __repr__(self) -> str:
        shown = [repr(self[index]) for index in range(min(len(self), SHOWN))]
        if len(self) > SHOWN:
            shown.append("...")
        return f"SampleNames([{', '.join(shown)}], {pluralize(len(self), 'sample')})"
