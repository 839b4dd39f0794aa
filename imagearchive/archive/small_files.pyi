from typing import Any

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
def spill(
    folder: int,
    part: bytes,
    names: tuple[bytes, ...],
    source: Buffer,
    offsets: npt.NDArray[Any],
    sizes: npt.NDArray[Any],
    modes: npt.NDArray[Any],
    mtimes: npt.NDArray[Any],
    replace: bool,
) -> int: ...
