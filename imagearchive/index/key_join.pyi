from typing import Final

import numpy as np
import numpy.typing as npt

MOST_REPEATS: Final[int]

def match_names(
    names: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.uint64],
    literals: list[bytes],
    first_dot: bool,
) -> tuple[
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
]: ...

class SortedKeys:
    def __init__(
        self,
        text: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.uint64],
        order: npt.NDArray[np.uint64],
        groups: npt.NDArray[np.int64] | None = ...,
    ) -> None: ...
    def __len__(self) -> int: ...
    def repeated(self) -> npt.NDArray[np.uint64]: ...
    def find_in(self, other: SortedKeys) -> npt.NDArray[np.int64]: ...
