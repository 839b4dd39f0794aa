import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

__all__ = ["LOOKAHEAD", "PickleIndexer"]

LOOKAHEAD: int
OUTCOMES: tuple[str, ...]

class PickleIndexer:
    position: int
    size: int
    list_start: int
    def __new__(cls, size: int, expected: int, stride: int = 1) -> PickleIndexer: ...
    def feed(self, window: Buffer) -> str: ...
    def walk_file(self, descriptor: int, offset: int) -> str: ...
    def top(self, below: int) -> int: ...
    def tables(
        self,
    ) -> tuple[
        npt.NDArray[np.uint64],
        npt.NDArray[np.uint32],
        npt.NDArray[np.uint32],
        npt.NDArray[np.uint32],
        npt.NDArray[np.uint64],
        npt.NDArray[np.uint64],
    ]: ...
