from typing import Any

import numpy as np
import numpy.typing as npt

UNBOUNDED: int

def first_bad_entry(
    entries: npt.NDArray[Any], sizes: npt.NDArray[np.uint64], start: int, stop: int
) -> int: ...
def first_bad_offset(offsets: npt.NDArray[np.uint64], total: int) -> int: ...
def is_permutation(order: npt.NDArray[np.uint64]) -> bool: ...
