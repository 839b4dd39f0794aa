"""`Geometry` says where the pixels of an image go, `OutputFormat` how their values are written."""

from libc.math cimport isfinite
from libc.stdint cimport int64_t

import numpy as np

from imagearchive.errors import OptionError

FILTERS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
DTYPES = ("uint8", "float32", "float16")


cdef class Geometry:
    """Crops, one resize, flips and padding, combined into one step.

    Each method acts on the image as the previous ones left it, whose size is `width` x `height`.
    """

    def __cinit__(self, int64_t width, int64_t height):
        if not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE):
            raise OptionError(f"cannot transform an image of {width} x {height} pixels")
        self.g.source_w = self.g.view_w = self.g.size_w = self.g.win_w = self.g.canvas_w = width
        self.g.source_h = self.g.view_h = self.g.size_h = self.g.win_h = self.g.canvas_h = height
        self.g.box_x1 = <double> width
        self.g.box_y1 = <double> height
        self.g.filter = 2
        self.filled = False

    @property
    def width(self):
        return self.g.canvas_w

    @property
    def height(self):
        return self.g.canvas_h

    @property
    def fresh(self):
        """Whether `resize` is still possible, that is, only crops were added so far."""
        return not (self.g.resized or self.filled or self.g.flip_x or self.g.flip_y)

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
        if not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE):
            raise OptionError(f"cannot resize to {width} x {height} pixels")
        if box is not None:
            x0, y0, x1, y1 = box
            # Written so that NaN fails.
            if not (0 <= x0 < x1 <= g.canvas_w and 0 <= y0 < y1 <= g.canvas_h):
                raise OptionError(
                    f"box {box} is not inside an image of {g.canvas_w} x {g.canvas_h} pixels"
                )
        if filter not in FILTERS:
            raise OptionError(f"interpolation must be one of {FILTERS}, got {filter!r}")
        g.view_x += g.win_x
        g.view_y += g.win_y
        g.view_w = g.canvas_w
        g.view_h = g.canvas_h
        g.box_x0, g.box_y0, g.box_x1, g.box_y1 = x0, y0, x1, y1
        g.size_w = g.win_w = g.canvas_w = width
        g.size_h = g.win_h = g.canvas_h = height
        g.win_x = g.win_y = g.at_x = g.at_y = 0
        g.filter = FILTERS.index(filter)
        g.resized = 1

    def crop(self, int64_t x, int64_t y, int64_t width, int64_t height):
        """Keep `width` x `height` pixels from (x, y) on."""
        cdef px_geometry *g = &self.g
        if not (0 <= x and 0 <= y and 0 < width <= g.canvas_w - x
                and 0 < height <= g.canvas_h - y):
            raise OptionError(
                f"a crop of {width} x {height} pixels at ({x}, {y}) is not inside an image of "
                f"{g.canvas_w} x {g.canvas_h} pixels"
            )
        if g.flip_x:
            x = g.canvas_w - x - width
        if g.flip_y:
            y = g.canvas_h - y - height
        cut(x, width, &g.win_x, &g.win_w, &g.canvas_w, &g.at_x)
        cut(y, height, &g.win_y, &g.win_h, &g.canvas_h, &g.at_y)

    def pad(self, int64_t left, int64_t top, int64_t right, int64_t bottom, fill=(0, 0, 0, 0)):
        """Add a border of one color."""
        cdef px_geometry *g = &self.g
        cdef int i
        cdef float[4] color
        if min(left, top, right, bottom) < 0:
            raise OptionError(f"padding must be at least 0, got {(left, top, right, bottom)}")
        # One by one first, because their sum may overflow.
        if max(left, top, right, bottom) >= MAX_SIDE or not (
                g.canvas_w + left + right < MAX_SIDE and g.canvas_h + top + bottom < MAX_SIDE):
            raise OptionError(f"padding {(left, top, right, bottom)} is too large")
        four_numbers(fill, color)
        if g.flip_x:
            left, right = right, left
        if g.flip_y:
            top, bottom = bottom, top
        g.at_x += left
        g.at_y += top
        g.canvas_w += left + right
        g.canvas_h += top + bottom
        for i in range(4):
            g.fill[i] = color[i]
        self.filled = True

    def flip_x(self):
        """Mirror left to right."""
        self.g.flip_x = not self.g.flip_x

    def flip_y(self):
        """Mirror top to bottom."""
        self.g.flip_y = not self.g.flip_y


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
