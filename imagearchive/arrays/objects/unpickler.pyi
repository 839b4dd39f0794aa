from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

__all__ = ["PlainUnpickler"]

class PlainUnpickler:
    where: str
    def __init__(
        self,
        read: Callable[[int, int], Buffer],
        where: str,
        memo_ids: npt.NDArray[np.uint32],
        memo_bases: npt.NDArray[np.uint32],
        memo_starts: npt.NDArray[np.uint64],
        memo_ends: npt.NDArray[np.uint64],
    ) -> None: ...
    def value(self, start: int, end: int, base: int) -> Any: ...
    def whole(self, end: int) -> Any: ...
    def values(
        self, start: int, end: int, base: int, count: int, memo: dict[int, Any] | None = None
    ) -> list[Any]: ...
    def check(self, values: tuple[Any, ...], memo: dict[int, Any]) -> None: ...
    def preamble(self, end: int) -> list[Any]: ...
