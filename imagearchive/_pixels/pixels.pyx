"""Geometry, normalisation and decoding of images; the loops are in the C files beside this one.

All work runs without the GIL. A `Decoder` serves one thread at a time and keeps its buffers.
"""

from cython cimport final
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDED_RO, PyBUF_WRITABLE,
    PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t, uint64_t

import numpy as np

from imagearchive.errors import DecodeError, LimitError, OptionError, OptionTypeError

cdef extern from "pixels.h" nogil:
    int HAVE_JPEG_ "HAVE_JPEG"
    enum:
        PX_OK, PX_NO_MEMORY, PX_CORRUPT, PX_TOO_LARGE, PX_UNSUPPORTED, PX_MISMATCH
    ctypedef struct px_geometry:
        int64_t source_w, source_h, view_x, view_y, view_w, view_h
        double box_x0, box_y0, box_x1, box_y1
        int64_t size_w, size_h, win_x, win_y, win_w, win_h, canvas_w, canvas_h, at_x, at_y
        int flip_x, flip_y, filter, resized
        double gap
        float fill[4]
    ctypedef struct px_finish:
        float scale[4]
        float bias[4]
        int dtype, planar
    ctypedef struct px_work:
        pass
    ctypedef struct px_info:
        int64_t width, height
        int components, orientation
    ctypedef struct px_decoder:
        pass
    int px_jpeg_info(const uint8_t *, size_t, px_info *)
    const char *px_jpeg_version()
    px_decoder *px_decoder_new(uint64_t)
    void px_decoder_free(px_decoder *)
    px_work *px_decoder_work(px_decoder *)
    const char *px_decoder_message(const px_decoder *)
    int px_decode(px_decoder *, const uint8_t *, size_t, int64_t, int64_t, uint8_t *)
    int px_render_jpeg(px_decoder *, const uint8_t *, size_t, const px_geometry *,
                       const px_finish *, void *)
    int px_render_array(px_work *, const px_geometry *, const px_finish *, const uint8_t *,
                        int64_t, int, void *)
    int px_render_float(px_work *, const px_geometry *, const float *, int64_t, int, float *)
    void px_finish_array(const px_finish *, const uint8_t *, int64_t, int64_t, int64_t, int,
                         void *)
    int px_simd(int)
    void px_blend_value(uint8_t *, size_t, double, int)
    void px_blend_grey(uint8_t *, size_t, double)
    void px_shift_hue(uint8_t *, size_t, int)
    int px_mean_grey(const uint8_t *, size_t)
    void px_grey(const uint8_t *, size_t, uint8_t *)

HAVE_JPEG = bool(HAVE_JPEG_)
JPEG_VERSION = px_jpeg_version().decode()
#: Twice the size at which Pillow warns of a decompression bomb, which is where it refuses.
MAX_PIXELS = 178_956_970
FILTERS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
DTYPES = ("uint8", "float32", "float16")

# Larger sides would overflow the 32-bit positions of the resampling tables.
cdef int64_t MAX_SIDE = 1 << 24


def use_simd(bint wanted):
    """Choose between the vector kernels and the plain ones; return whether vectors are used."""
    return bool(px_simd(wanted))


def jpeg_info(const uint8_t[::1] data not None):
    """Width, height, components and EXIF orientation from the headers of a JPEG."""
    cdef px_info info
    cdef int code = PX_UNSUPPORTED
    if data.shape[0]:
        code = px_jpeg_info(&data[0], data.shape[0], &info)
    if code == PX_UNSUPPORTED:
        return None
    if code:
        raise DecodeError("JPEG without a frame header: the file is truncated or damaged")
    return info.width, info.height, info.components, info.orientation


@final
cdef class Geometry:
    """Crops, one resize, flips and padding, gathered into one step from a source image."""

    cdef px_geometry g
    cdef bint filled

    def __cinit__(self, int64_t width, int64_t height):
        if not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE):
            raise OptionError(f"an image of {width} x {height} pixels cannot be transformed")
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
        """Whether `resize` is still possible: nothing but crops so far."""
        return not (self.g.resized or self.filled or self.g.flip_x or self.g.flip_y)

    @property
    def gap(self):
        """Scaled JPEG decoding leaves at least this factor to the resampler; 0: never used."""
        return self.g.gap

    @gap.setter
    def gap(self, double value):
        self.g.gap = value

    def resize(self, int64_t width, int64_t height, box=None, str filter="bilinear"):
        """Resize `box` (x0, y0, x1, y1 of the present canvas; None: all of it)."""
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
                    f"box {box} does not lie inside {g.canvas_w} x {g.canvas_h} pixels"
                )
        if filter not in FILTERS:
            raise OptionError(f"interpolation={filter!r}: choose one of {FILTERS}")
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
        """Keep `width` x `height` pixels of the canvas from (x, y)."""
        cdef px_geometry *g = &self.g
        if not (0 <= x and 0 <= y and 0 < width <= g.canvas_w - x
                and 0 < height <= g.canvas_h - y):
            raise OptionError(
                f"a crop of {width} x {height} at ({x}, {y}) does not lie inside "
                f"{g.canvas_w} x {g.canvas_h} pixels"
            )
        if g.flip_x:
            x = g.canvas_w - x - width
        if g.flip_y:
            y = g.canvas_h - y - height
        cut(x, width, &g.win_x, &g.win_w, &g.canvas_w, &g.at_x)
        cut(y, height, &g.win_y, &g.win_h, &g.canvas_h, &g.at_y)

    def pad(self, int64_t left, int64_t top, int64_t right, int64_t bottom, fill=(0, 0, 0, 0)):
        """Add a border of constant colour."""
        cdef px_geometry *g = &self.g
        cdef int i
        if min(left, top, right, bottom) < 0:
            raise OptionError(f"padding {(left, top, right, bottom)} is negative")
        if not (g.canvas_w + left + right < MAX_SIDE and g.canvas_h + top + bottom < MAX_SIDE):
            raise OptionError(f"padding {(left, top, right, bottom)} is too large")
        if g.flip_x:
            left, right = right, left
        if g.flip_y:
            top, bottom = bottom, top
        g.at_x += left
        g.at_y += top
        g.canvas_w += left + right
        g.canvas_h += top + bottom
        for i in range(4):
            g.fill[i] = fill[min(i, len(fill) - 1)]
        self.filled = True

    def flip_x(self):
        """Mirror left to right."""
        self.g.flip_x = not self.g.flip_x

    def flip_y(self):
        """Mirror top to bottom."""
        self.g.flip_y = not self.g.flip_y


cdef void cut(int64_t start, int64_t length, int64_t *win, int64_t *win_size, int64_t *canvas,
              int64_t *at) noexcept nogil:
    """One axis of a crop: the window shrinks to what the new canvas still shows of it."""
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


@final
cdef class Finish:
    """How bytes become the output: ``value * scale + bias`` per channel, dtype and layout."""

    cdef px_finish f
    cdef readonly object dtype
    cdef readonly bint planar

    def __cinit__(self, str dtype="uint8", bint planar=False, scale=(1.0, 1.0, 1.0, 1.0),
                  bias=(0.0, 0.0, 0.0, 0.0)):
        cdef int i
        if dtype not in DTYPES:
            raise OptionError(f"dtype={dtype!r}: choose one of {DTYPES}")
        self.dtype = np.dtype(dtype)
        self.planar = planar
        self.f.dtype = DTYPES.index(dtype)
        self.f.planar = planar
        for i in range(4):
            self.f.scale[i] = scale[min(i, len(scale) - 1)]
            self.f.bias[i] = bias[min(i, len(bias) - 1)]

    def shape(self, height, width, channels):
        """Shape of the output array."""
        return (channels, height, width) if self.planar else (height, width, channels)


@final
cdef class Decoder:
    """Decodes and renders, for one thread at a time; keeps its buffers between calls."""

    cdef px_decoder *d
    cdef bint busy
    cdef readonly uint64_t max_pixels

    def __cinit__(self, max_pixels=MAX_PIXELS):
        self.max_pixels = MAX_SIDE * MAX_SIDE if max_pixels is None else max_pixels
        self.d = px_decoder_new(self.max_pixels)
        if self.d == NULL:
            raise MemoryError("no memory for a decoder, or libjpeg-turbo is of another version "
                              "than its headers were at build time")

    def __dealloc__(self):
        px_decoder_free(self.d)

    def __reduce__(self):
        return Decoder, (self.max_pixels,)

    cdef int enter(self) except -1:
        if self.busy:
            raise OptionError("this Decoder is at work in another thread; give each its own")
        self.busy = True
        return 0

    cdef int leave(self, int code) except -1:
        self.busy = False
        if code == PX_OK:
            return 0
        if code == PX_NO_MEMORY:
            raise MemoryError("no memory to decode an image")
        message = px_decoder_message(self.d).decode("utf-8", "replace")
        if code == PX_TOO_LARGE:
            raise LimitError(f"{message}; pass a larger max_pixels if the image is trusted")
        raise DecodeError(message)

    def decode(self, data):
        """The whole JPEG as (H, W, 3) uint8."""
        cdef Py_buffer source
        cdef uint8_t[:, :, ::1] out
        cdef int64_t width, height
        cdef int code
        info = jpeg_info(data)
        if info is None:
            raise DecodeError("not a JPEG")
        width, height = info[0], info[1]
        if <uint64_t> (width * height) > self.max_pixels:
            raise LimitError(f"{width} x {height} pixels are more than max_pixels="
                             f"{self.max_pixels}; pass a larger one if the image is trusted")
        result = np.empty((height, width, 3), np.uint8)
        out = result
        self.enter()
        try:
            PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        except BaseException:
            self.busy = False
            raise
        with nogil:
            code = px_decode(self.d, <const uint8_t *> source.buf, source.len, width, height,
                             &out[0, 0, 0])
        PyBuffer_Release(&source)
        self.leave(code)
        return result

    def render(self, data, Geometry geometry not None, Finish finish not None, out):
        """Decode of a JPEG what `geometry` needs and write it into `out`."""
        cdef Py_buffer source, target
        cdef int code
        self.enter()
        try:
            open_output(out, &target, geometry, finish, 3)
            try:
                PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
            except BaseException:
                PyBuffer_Release(&target)
                raise
        except BaseException:
            self.busy = False
            raise
        with nogil:
            code = px_render_jpeg(self.d, <const uint8_t *> source.buf, source.len, &geometry.g,
                                  &finish.f, target.buf)
        PyBuffer_Release(&source)
        PyBuffer_Release(&target)
        self.leave(code)

    def render_array(self, array, Geometry geometry not None, Finish finish not None, out):
        """The same from an (H, W, C) array of uint8 or, without normalisation, float32."""
        self.render_arrays((array,), (geometry,), finish, out[None])

    def render_arrays(self, arrays, geometries, Finish finish not None, out):
        """Render many arrays, of one dtype and number of channels, into ``out[0]``, ``out[1]``, …

        One call gives the GIL up once, which for small images costs as much as the work.
        """
        cdef tuple sources = tuple(arrays), places = tuple(geometries)
        cdef Rows rows = Rows(sources, out)
        cdef Geometry geometry
        cdef px_geometry *g
        cdef Py_ssize_t i
        cdef int code = PX_OK
        if len(places) != len(sources):
            raise OptionError(f"{len(sources)} arrays need as many geometries, not {len(places)}")
        if rows.floats and (finish.f.planar or finish.f.dtype != 1):
            raise OptionError("float32 arrays are rendered to float32 (H, W, C) only")
        for i in range(rows.n):
            if not isinstance(places[i], Geometry):
                raise OptionTypeError(f"a geometry is wanted, not {type(places[i]).__name__}")
            geometry = places[i]
            g = &geometry.g
            if rows.height(i) != g.source_h or rows.width(i) != g.source_w:
                raise OptionError(f"the geometry is for another size than {sources[i].shape}")
            rows.check(finish, g.canvas_h, g.canvas_w)
            rows.geometries[i] = g[0]
        self.enter()
        with nogil:
            for i in range(rows.n):
                if rows.floats:
                    code = px_render_float(px_decoder_work(self.d), &rows.geometries[i],
                                           <const float *> rows.pixels(i), rows.stride(i),
                                           rows.channels, <float *> rows.target(i))
                else:
                    code = px_render_array(px_decoder_work(self.d), &rows.geometries[i],
                                           &finish.f, <const uint8_t *> rows.pixels(i),
                                           rows.stride(i), rows.channels, rows.target(i))
                if code:
                    break
        self.leave(code)


@final
cdef class Rows:
    """The buffers of images and of the array that takes their results, until all are done."""

    cdef Py_buffer *views
    cdef px_geometry *geometries
    cdef Py_buffer out
    cdef Py_ssize_t n, opened
    cdef int channels
    cdef bint floats
    cdef object result

    def __cinit__(self, tuple arrays not None, out):
        cdef Py_ssize_t n = len(arrays)
        if not n:
            raise OptionError("no images to render")
        dtype, shape = arrays[0].dtype, arrays[0].shape
        self.floats = dtype == np.float32
        if not self.floats and dtype != np.uint8:
            raise OptionTypeError(f"an array of {dtype} is not an image: use uint8, float32")
        if len(shape) != 3 or shape[2] not in (1, 3, 4):
            raise OptionError(f"an image is (H, W, C) with 1, 3 or 4 channels, not {shape}")
        self.channels = shape[2]
        if len(out) != n:
            raise OptionError(f"{n} images need as many places in the output, not {len(out)}")
        self.result = out
        self.views = <Py_buffer *> PyMem_Calloc(n, sizeof(Py_buffer))
        self.geometries = <px_geometry *> PyMem_Calloc(n, sizeof(px_geometry))
        if self.views == NULL or self.geometries == NULL:
            raise MemoryError()
        self.n = n
        for array in arrays:
            if array.dtype != dtype or array.shape[2:] != shape[2:]:
                raise OptionError("images that are rendered together have one dtype and as many "
                                  "channels")
            open_rows(array, &self.views[self.opened])
            self.opened += 1
        hold_output(out, &self.out)

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.opened):
            PyBuffer_Release(&self.views[i])
        PyBuffer_Release(&self.out)
        PyMem_Free(self.views)
        PyMem_Free(self.geometries)

    cdef int check(self, Finish finish, int64_t height, int64_t width) except -1:
        """Whether an image of this size fits its place in the output."""
        return check_output(self.result.dtype, self.result.shape[1:], finish, height, width,
                            self.channels)

    cdef int64_t height(self, Py_ssize_t i) noexcept nogil:
        return self.views[i].shape[0]

    cdef int64_t width(self, Py_ssize_t i) noexcept nogil:
        return self.views[i].shape[1]

    cdef int64_t stride(self, Py_ssize_t i) noexcept nogil:
        return self.views[i].strides[0]

    cdef const void *pixels(self, Py_ssize_t i) noexcept nogil:
        return self.views[i].buf

    cdef void *target(self, Py_ssize_t i) noexcept nogil:
        return <char *> self.out.buf + i * (self.out.len // self.n)


cdef int open_rows(array, Py_buffer *view) except -1:
    """A buffer of three axes, the last two without gaps."""
    PyObject_GetBuffer(array, view, PyBUF_STRIDED_RO)
    if view.ndim != 3 or (view.shape[2] > 1 and view.strides[2] != view.itemsize) or (
            view.shape[1] > 1 and view.strides[1] != view.itemsize * view.shape[2]):
        PyBuffer_Release(view)
        raise OptionError("the pixels of a row must lie side by side: pass a contiguous array")
    return 0


cdef int open_output(out, Py_buffer *view, Geometry geometry, Finish finish,
                     int channels) except -1:
    check_output(out.dtype, out.shape, finish, geometry.g.canvas_h, geometry.g.canvas_w, channels)
    return hold_output(out, view)


cdef int hold_output(out, Py_buffer *view) except -1:
    try:
        PyObject_GetBuffer(out, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT)
    except (BufferError, ValueError) as error:
        raise OptionError(f"the output must be contiguous and writable: {error}") from None
    return 0


cdef int check_output(dtype, tuple found, Finish finish, int64_t height, int64_t width,
                      int channels) except -1:
    shape = finish.shape(height, width, channels)
    if found != shape or dtype != finish.dtype:
        raise OptionError(f"the output must be {finish.dtype} {shape}, it is {dtype} {found}")
    return 0


def finish_array(array, Finish finish not None, out):
    """Normalise, cast and lay out an (H, W, C) uint8 array into `out`."""
    finish_arrays((array,), finish, out[None])


def finish_arrays(arrays, Finish finish not None, out):
    """The same for many arrays, of one number of channels, into ``out[0]``, ``out[1]``, …"""
    cdef Rows rows = Rows(tuple(arrays), out)
    cdef Py_ssize_t i
    if rows.floats:
        raise OptionTypeError("needs (H, W, C) uint8, not float32")
    for i in range(rows.n):
        rows.check(finish, rows.height(i), rows.width(i))
    with nogil:
        for i in range(rows.n):
            px_finish_array(&finish.f, <const uint8_t *> rows.pixels(i), rows.stride(i),
                            rows.width(i), rows.height(i), rows.channels, rows.target(i))


def blend_value(uint8_t[:, :, ::1] pixels not None, double factor, int value):
    """``value + factor * (pixel - value)``, truncated and clipped, in place."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1] * pixels.shape[2]
    if n:
        with nogil:
            px_blend_value(&pixels[0, 0, 0], n, factor, value)


def blend_grey(uint8_t[:, :, ::1] pixels not None, double factor):
    """The same between each RGB pixel and its grey value, in place."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    if n and pixels.shape[2] == 3:
        with nogil:
            px_blend_grey(&pixels[0, 0, 0], n, factor)


def shift_hue(uint8_t[:, :, ::1] pixels not None, int shift):
    """Add `shift` to the hue of RGB pixels, a circle being 256, in place."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    if n and pixels.shape[2] == 3:
        with nogil:
            px_shift_hue(&pixels[0, 0, 0], n, shift)


def mean_grey(const uint8_t[:, :, ::1] pixels not None):
    """The mean grey value of RGB pixels, rounded."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    cdef int mean = 0
    if n and pixels.shape[2] == 3:
        with nogil:
            mean = px_mean_grey(&pixels[0, 0, 0], n)
    return mean


def grey(const uint8_t[:, :, ::1] pixels not None):
    """RGB to grey, (H, W, 1), by the weights of ITU-R 601."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    result = np.empty((pixels.shape[0], pixels.shape[1], 1), np.uint8)
    cdef uint8_t[:, :, ::1] out = result
    if n and pixels.shape[2] == 3:
        with nogil:
            px_grey(&pixels[0, 0, 0], n, &out[0, 0, 0])
    return result
