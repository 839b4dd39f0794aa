from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

def key_ends(
    names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]: ...
def belong_to_samples(
    names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]: ...
def have_extension(
    names: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.uint64],
    ends: npt.NDArray[np.uint64],
    wanted: Sequence[bytes],
) -> npt.NDArray[np.bool_]: ...
