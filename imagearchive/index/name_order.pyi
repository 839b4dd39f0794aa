import numpy as np
import numpy.typing as npt

def sort_names(
    names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]: ...
def sort_and_compare_names(
    names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint64], bool]: ...
def is_first_of_name(
    names: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.uint64],
    order: npt.NDArray[np.uint64],
) -> npt.NDArray[np.bool_]: ...
def is_last_of_name(
    names: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.uint64],
    order: npt.NDArray[np.uint64],
) -> npt.NDArray[np.bool_]: ...
