from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from imagearchive.containers.rows import RowBuffer

REASONS: Final[dict[int, str]]

class Code(IntEnum):
    FINE = 0
    CUT = 1
    BAD_SIGNATURE = 2
    BAD_ZIP64 = 3
    BAD_SIZE = 4
    BAD_OFFSET = 5
    UNREADABLE = 6
    PAUSE = 7
    SYSTEM_ERROR = 8

def dos_time(date: int, time: int) -> int: ...
def central_records(
    data: Buffer,
    buffer: RowBuffer,
    digests: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.uint16],
    shift: int,
    disk: int,
) -> tuple[int, int, int]: ...
def local_headers(
    window: Buffer,
    start: int,
    buffer: RowBuffer,
    digests: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.uint16],
    row: int,
    limit: int,
) -> tuple[int, int]: ...
def local_headers_of_file(
    fd: int,
    buffer: RowBuffer,
    digests: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.uint16],
    row: int,
    limit: int,
) -> tuple[int, int, int]: ...
