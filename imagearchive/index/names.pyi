from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

def normalize(name: bytes) -> bytes: ...
def normalize_all(
    names: npt.NDArray[np.uint8],
    name_ends: npt.NDArray[np.uint64],
    link_ends: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]: ...
def ends_with(
    names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], suffixes: Sequence[bytes]
) -> npt.NDArray[np.bool_]: ...
def contains(
    names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], part: bytes
) -> npt.NDArray[np.bool_]: ...
def gather(
    names: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.uint64],
    rows: npt.NDArray[Any],
    prefix: bytes = b"",
    skip: int = 0,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]: ...
def take_parts(
    names: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.uint64],
    ends: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]: ...
