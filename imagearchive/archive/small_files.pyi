import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

def fill(
    folder: int,
    prefix: bytes,
    names: tuple[bytes, ...],
    start: int,
    template: bytes,
    keep_mtime: bool,
    largest: int,
    buffer: Buffer,
) -> tuple[int, int, bool]: ...
def create_files(
    folder: int,
    names: tuple[bytes, ...],
    source: Buffer,
    offsets: npt.NDArray[np.uint64],
    sizes: npt.NDArray[np.uint64],
    modes: npt.NDArray[np.uint32],
    mtimes: npt.NDArray[np.int64],
) -> int: ...
