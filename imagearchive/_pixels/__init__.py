"""Native pixels: JPEG regions, resampling, normalisation, colour, and random streams.

`Geometry` gathers crops, one resize, flips and padding; `Finish` says how bytes become output
values; `Decoder.render` decodes of a JPEG the region that the geometry needs and writes the
result. `Decoder.render_array` does the same from a decoded array and gives the same pixels.
`render_jpegs` and `render_arrays` take many images in one call. All of it runs without the GIL.
"""

from imagearchive._pixels.geometry import DTYPES, FILTERS, Finish, Geometry
from imagearchive._pixels.pixels import (
    HAVE_JPEG,
    JPEG_VERSION,
    MAX_PIXELS,
    Decoder,
    blend_grey,
    blend_value,
    finish_array,
    finish_arrays,
    grey,
    jpeg_info,
    mean_grey,
    shift_hue,
    use_simd,
)
from imagearchive._pixels.stream import Stream, philox_block

__all__ = [
    "DTYPES",
    "FILTERS",
    "HAVE_JPEG",
    "JPEG_VERSION",
    "MAX_PIXELS",
    "Decoder",
    "Finish",
    "Geometry",
    "Stream",
    "blend_grey",
    "blend_value",
    "finish_array",
    "finish_arrays",
    "grey",
    "jpeg_info",
    "mean_grey",
    "philox_block",
    "shift_hue",
    "use_simd",
]
