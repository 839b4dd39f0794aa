from collections.abc import Sequence
from typing import Any, final

import numpy as np

FILTERS: tuple[str, ...]
DTYPES: tuple[str, ...]

@final
class Geometry:
    def __new__(cls, width: int, height: int) -> Geometry: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def fresh(self) -> bool: ...
    min_reduction: float
    def resize(
        self,
        width: int,
        height: int,
        box: Sequence[float] | None = None,
        filter: str = "bilinear",
    ) -> None: ...
    def crop(self, x: int, y: int, width: int, height: int) -> None: ...
    def pad(
        self, left: int, top: int, right: int, bottom: int, fill: Sequence[float] = (0, 0, 0, 0)
    ) -> None: ...
    def flip_x(self) -> None: ...
    def flip_y(self) -> None: ...

@final
class OutputFormat:
    def __new__(
        cls,
        dtype: str = "uint8",
        planar: bool = False,
        scale: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        bias: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    ) -> OutputFormat: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def planar(self) -> bool: ...
    def shape(self, height: int, width: int, channels: int) -> tuple[int, int, int]: ...
