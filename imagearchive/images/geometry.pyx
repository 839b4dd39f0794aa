"""`Geometry` says where the pixels of an image go, `OutputFormat` how their values are written."""

from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.string cimport memset

import numpy as np

from imagearchive.errors import OptionError

FILTERS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
DTYPES = ("uint8", "float32", "float16")


cdef bint is_size(int64_t width, int64_t height) noexcept nogil:
    return 0 < width < MAX_SIDE and 0 < height < MAX_SIDE


cdef int geometry_start(px_geometry *g, int64_t width, int64_t height) noexcept nogil:
    if not is_size(width, height):
        return -1
    memset(g, 0, sizeof(px_geometry))
    g.source_w = g.view_w = g.size_w = g.win_w = g.canvas_w = width
    g.source_h = g.view_h = g.size_h = g.win_h = g.canvas_h = height
    g.box_x1 = <double> width
    g.box_y1 = <double> height
    g.filter = 2
    return 0


cdef bint can_resize(const px_geometry *g) noexcept nogil:
    return not (g.resized or g.padded or g.flip_x or g.flip_y)


cdef int geometry_resize(px_geometry *g, int64_t width, int64_t height, double x0, double y0,
                         double x1, double y1, int filter) noexcept nogil:
    # Written so that NaN fails.
    if not (can_resize(g) and is_size(width, height) and 0 <= x0 < x1 <= g.canvas_w
            and 0 <= y0 < y1 <= g.canvas_h):
        return -1
    g.view_x += g.win_x
    g.view_y += g.win_y
    g.view_w = g.canvas_w
    g.view_h = g.canvas_h
    g.box_x0, g.box_y0, g.box_x1, g.box_y1 = x0, y0, x1, y1
    g.size_w = g.win_w = g.canvas_w = width
    g.size_h = g.win_h = g.canvas_h = height
    g.win_x = g.win_y = g.at_x = g.at_y = 0
    g.filter = filter
    g.resized = 1
    return 0


cdef int geometry_crop(px_geometry *g, int64_t x, int64_t y, int64_t width,
                       int64_t height) noexcept nogil:
    if not (0 <= x and 0 <= y and 0 < width <= g.canvas_w - x and 0 < height <= g.canvas_h - y):
        return -1
    if g.flip_x:
        x = g.canvas_w - x - width
    if g.flip_y:
        y = g.canvas_h - y - height
    cut(x, width, &g.win_x, &g.win_w, &g.canvas_w, &g.at_x)
    cut(y, height, &g.win_y, &g.win_h, &g.canvas_h, &g.at_y)
    return 0


cdef int geometry_pad(px_geometry *g, int64_t left, int64_t top, int64_t right, int64_t bottom,
                      const float *fill) noexcept nogil:
    cdef int i
    # One by one first, because their sum may overflow.
    if not (0 <= left < MAX_SIDE and 0 <= top < MAX_SIDE and 0 <= right < MAX_SIDE
            and 0 <= bottom < MAX_SIDE and g.canvas_w + left + right < MAX_SIDE
            and g.canvas_h + top + bottom < MAX_SIDE):
        return -1
    g.at_x += right if g.flip_x else left
    g.at_y += bottom if g.flip_y else top
    g.canvas_w += left + right
    g.canvas_h += top + bottom
    for i in range(4):
        g.fill[i] = fill[i]
    g.padded = 1
    return 0


cdef void cut(int64_t start, int64_t length, int64_t *win, int64_t *win_size, int64_t *canvas,
              int64_t *at) noexcept nogil:
    """One axis of a crop: shrink the window to what is visible on the new canvas."""
    cdef int64_t lo = max(start, at[0]), hi = min(start + length, at[0] + win_size[0])
    if hi <= lo:
        lo = hi = at[0]
        win_size[0] = 0
        at[0] = 0
    else:
        win[0] += lo - at[0]
        win_size[0] = hi - lo
        at[0] = lo - start
    canvas[0] = length


cdef class Geometry:
    """Crops, one resize, flips and padding, combined into one step.

    Each method acts on the image as the previous ones left it, whose size is `width` x `height`.
    """

    def __cinit__(self, int64_t width, int64_t height):
        if geometry_start(&self.g, width, height):
            raise OptionError(f"cannot transform an image of {width} x {height} pixels")

    @property
    def width(self):
        return self.g.canvas_w

    @property
    def height(self):
        return self.g.canvas_h

    @property
    def fresh(self):
        """Whether `resize` is still possible, that is, only crops were added so far."""
        return can_resize(&self.g)

    @property
    def min_reduction(self):
        """Decode a JPEG scaled down if resampling still reduces by this factor. 0 never does."""
        return self.g.min_reduction

    @min_reduction.setter
    def min_reduction(self, double value):
        self.g.min_reduction = value

    def resize(self, int64_t width, int64_t height, box=None, str filter="bilinear"):
        """Resize `box` (x0, y0, x1, y1), by default the whole image."""
        cdef px_geometry *g = &self.g
        cdef double x0 = 0, y0 = 0, x1 = <double> g.canvas_w, y1 = <double> g.canvas_h
        if not self.fresh:
            raise OptionError("a geometry resizes once, before it flips or pads")
        if not is_size(width, height):
            raise OptionError(f"cannot resize to {width} x {height} pixels")
        if box is not None:
            x0, y0, x1, y1 = box
        if filter not in FILTERS:
            raise OptionError(f"interpolation must be one of {FILTERS}, got {filter!r}")
        if geometry_resize(g, width, height, x0, y0, x1, y1, FILTERS.index(filter)):
            raise OptionError(
                f"box {box} is not inside an image of {g.canvas_w} x {g.canvas_h} pixels"
            )

    def crop(self, int64_t x, int64_t y, int64_t width, int64_t height):
        """Keep `width` x `height` pixels from (x, y) on."""
        if geometry_crop(&self.g, x, y, width, height):
            raise OptionError(
                f"a crop of {width} x {height} pixels at ({x}, {y}) is not inside an image of "
                f"{self.g.canvas_w} x {self.g.canvas_h} pixels"
            )

    def pad(self, int64_t left, int64_t top, int64_t right, int64_t bottom, fill=(0, 0, 0, 0)):
        """Add a border of one color."""
        cdef float[4] color
        if min(left, top, right, bottom) < 0:
            raise OptionError(f"padding must be at least 0, got {(left, top, right, bottom)}")
        four_numbers(fill, color)
        if geometry_pad(&self.g, left, top, right, bottom, color):
            raise OptionError(f"padding {(left, top, right, bottom)} is too large")

    def flip_x(self):
        """Mirror left to right."""
        self.g.flip_x = not self.g.flip_x

    def flip_y(self):
        """Mirror top to bottom."""
        self.g.flip_y = not self.g.flip_y


cdef int four_numbers(values, float *out) except -1:
    """Write four finite numbers; the last of fewer is repeated."""
    cdef tuple given = tuple(values)
    cdef Py_ssize_t i, n = len(given)
    if not 1 <= n <= 4:
        raise OptionError(f"needs one to four numbers, got {given}")
    for i in range(4):
        out[i] = given[min(i, n - 1)]
        if not isfinite(out[i]):
            raise OptionError(f"needs finite numbers, got {given}")
    return 0


cdef class OutputFormat:
    """How 8-bit values become the output: ``value * scale + bias`` per channel, dtype, layout."""

    def __cinit__(self, str dtype="uint8", bint planar=False, scale=(1.0, 1.0, 1.0, 1.0),
                  bias=(0.0, 0.0, 0.0, 0.0)):
        if dtype not in DTYPES:
            raise OptionError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        self.dtype = np.dtype(dtype)
        self.planar = planar
        self.f.dtype = DTYPES.index(dtype)
        self.f.planar = planar
        four_numbers(scale, self.f.scale)
        four_numbers(bias, self.f.bias)

    def shape(self, height, width, channels):
        """Return the shape of the output array."""
        return (channels, height, width) if self.planar else (height, width, channels)
