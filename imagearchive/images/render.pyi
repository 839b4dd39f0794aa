from collections.abc import Iterable, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from imagearchive.errors import DecodeError
from imagearchive.images.geometry import Geometry, OutputFormat
from imagearchive.images.geometry_plan import GeometryPlan

HAVE_JPEG: bool
JPEG_VERSION: str
MAX_PIXELS: int

class UnsupportedJpegError(DecodeError): ...
class UnsupportedPngError(DecodeError): ...

def use_simd(wanted: bool, wide: bool = True) -> int: ...
def jpeg_info(data: Buffer) -> tuple[int, int, int, int] | None: ...
def native_info(data: Buffer) -> tuple[int, int, int, int] | None: ...

@final
class Decoder:
    def __new__(cls, max_pixels: int | None = 178_956_970) -> Decoder: ...
    damaged_images: int
    damage: str | None
    @property
    def fast_jpegs(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...
    def decode(self, data: Buffer) -> npt.NDArray[np.uint8]: ...
    def decode_indices(self, data: Buffer) -> npt.NDArray[np.uint8]: ...
    def render(
        self, data: Buffer, geometry: Geometry, output_format: OutputFormat, out: npt.NDArray[Any]
    ) -> None: ...
    def render_images(
        self,
        images: Iterable[Buffer],
        geometries: Iterable[Geometry],
        output_format: OutputFormat,
        out: npt.NDArray[Any],
    ) -> None: ...
    def render_planned(
        self,
        images: Iterable[Buffer],
        seed: int,
        epoch: int,
        indices: Iterable[int],
        plan: GeometryPlan,
        output_format: OutputFormat,
        out: npt.NDArray[Any],
        exif_transpose: bool,
        min_reduction: float,
    ) -> int: ...
    def render_array(
        self,
        array: npt.NDArray[Any],
        geometry: Geometry,
        output_format: OutputFormat,
        out: npt.NDArray[Any],
    ) -> None: ...
    def render_arrays(
        self,
        arrays: Iterable[npt.NDArray[Any]],
        geometries: Iterable[Geometry],
        output_format: OutputFormat,
        out: npt.NDArray[Any],
    ) -> None: ...

def convert_array(
    array: npt.NDArray[np.uint8], output_format: OutputFormat, out: npt.NDArray[Any]
) -> None: ...
def convert_arrays(
    arrays: Iterable[npt.NDArray[np.uint8]], output_format: OutputFormat, out: npt.NDArray[Any]
) -> None: ...
def warp_array(
    array: npt.NDArray[Any],
    coefficients: Sequence[float],
    filter: str,
    fill: Sequence[float],
    out: npt.NDArray[Any],
) -> None: ...
def blend_value(pixels: npt.NDArray[np.uint8], factor: float, value: int) -> None: ...
def blend_gray(pixels: npt.NDArray[np.uint8], factor: float) -> None: ...
def shift_hue(pixels: npt.NDArray[np.uint8], shift: int) -> None: ...
def mean_gray(pixels: npt.NDArray[np.uint8]) -> int: ...
def gray(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]: ...
