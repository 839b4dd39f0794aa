"""Decode, render, warp and recolor images. The loops are in the C files in ``native``.

All work runs without the GIL.
"""

from cython cimport final
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDED_RO, PyBUF_WRITABLE,
    PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from operator import index

import numpy as np

from imagearchive.errors import DecodeError, LimitError, OptionError, OptionTypeError
from imagearchive.images.geometry import FILTERS
from imagearchive.storage.limits import limit_hint

from imagearchive.images.geometry cimport (
    MAX_SIDE, Geometry, OutputFormat, px_geometry, px_output_format,
)
from imagearchive.images.geometry_plan cimport GeometryPlan
from imagearchive.images.random cimport low_bits
from imagearchive.storage.crc cimport crc32_after

cdef extern from "pixels.h" nogil:
    int HAVE_JPEG_ "HAVE_JPEG"
    enum:
        PX_OK, PX_NO_MEMORY, PX_CORRUPT, PX_TOO_LARGE, PX_UNSUPPORTED, PX_MISMATCH
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
    uint64_t px_decoder_entropy_images(const px_decoder *)
    int px_decode(px_decoder *, const uint8_t *, size_t, int64_t, int64_t, uint8_t *)
    int px_render_jpeg(px_decoder *, const uint8_t *, size_t, const px_geometry *,
                       const px_output_format *, void *)
    ctypedef struct px_png:
        pass
    void px_png_set_crc32(uint32_t (*)(uint32_t, const uint8_t *, size_t) noexcept nogil)
    int px_png_info(const uint8_t *, size_t, px_info *)
    px_png *px_png_new(uint64_t)
    void px_png_free(px_png *)
    int px_decode_png(px_png *, const uint8_t *, size_t, int64_t, int64_t, uint8_t *)
    int px_decode_png_indices(px_png *, const uint8_t *, size_t, int64_t, int64_t, uint8_t *)
    int px_render_png(px_png *, px_work *, const uint8_t *, size_t, const px_geometry *,
                      const px_output_format *, void *)
    int px_render_array(px_work *, const px_geometry *, const px_output_format *, const uint8_t *,
                        int64_t, int, void *)
    int px_render_float(px_work *, const px_geometry *, const float *, int64_t, int, float *)
    void px_convert_array(const px_output_format *, const uint8_t *, int64_t, int64_t, int64_t, int,
                         void *)
    int px_warp(const void *, int64_t, int64_t, int64_t, int, int, const double *, int,
                const float *, int64_t, int64_t, void *)
    void px_blend_value(uint8_t *, size_t, double, int)
    void px_blend_gray(uint8_t *, size_t, double)
    void px_shift_hue(uint8_t *, size_t, int)
    int px_mean_gray(const uint8_t *, size_t)
    void px_gray(const uint8_t *, size_t, uint8_t *)

cdef extern from "<stdatomic.h>" nogil:
    ctypedef int atomic_int
    int atomic_exchange(atomic_int *, int)
    void atomic_store(atomic_int *, int)

cdef extern from "simd.h" nogil:
    int PX_PLAIN, PX_AVX2, PX_AVX512
    int px_simd(int)

# Once, before there are threads.
px_simd(PX_AVX512)
px_png_set_crc32(crc32_after)
HAVE_JPEG = bool(HAVE_JPEG_)
JPEG_VERSION = px_jpeg_version().decode()
#: Above this, Pillow refuses images as decompression bombs.
MAX_PIXELS = 178_956_970


class UnsupportedJpegError(DecodeError):
    """A kind of JPEG that is left to Pillow, whose libjpeg-turbo is of another release."""


class UnsupportedPngError(DecodeError):
    """A PNG of a rare kind, or with any damage, which is left to Pillow."""


def use_simd(bint wanted, bint wide=True):
    """Turn the vector kernels on or off, those for AVX-512 only if `wide`.

    Returns the level in use: 0 for none, 1 for AVX2, 2 for AVX-512 as well.
    """
    return px_simd(PX_PLAIN if not wanted else PX_AVX512 if wide else PX_AVX2)


cdef unsupported_png():
    """Return the error for a PNG that is left to Pillow."""
    return UnsupportedPngError("a PNG that is damaged, or of a kind that Pillow decodes")


cdef bint read_jpeg_header(const uint8_t *data, size_t size, px_info *info) except -1:
    """Read the header of a JPEG; return whether it is one."""
    cdef int code = px_jpeg_info(data, size, info)
    if code and code != PX_UNSUPPORTED:
        raise DecodeError("the JPEG has no frame header; it is truncated or damaged")
    return code == PX_OK


def jpeg_info(const uint8_t[::1] data not None):
    """Return width, height, components and EXIF orientation of a JPEG, or None if it is not one."""
    cdef px_info info
    if not data.shape[0] or not read_jpeg_header(&data[0], data.shape[0], &info):
        return None
    return info.width, info.height, info.components, info.orientation


cdef bint is_png(const uint8_t *data, size_t size) noexcept nogil:
    return size > 0 and data[0] == 0x89


cdef bint starts_as_png(const uint8_t[::1] data) except -1:
    return data.shape[0] > 0 and is_png(&data[0], data.shape[0])


def native_info(const uint8_t[::1] data not None):
    """Return the same as `jpeg_info` of any image that `Decoder` may decode, or None.

    The orientation is 0 if only Pillow can find it.
    """
    cdef px_info info
    if starts_as_png(data):
        if px_png_info(&data[0], data.shape[0], &info):
            return None
        return info.width, info.height, info.components, info.orientation
    return jpeg_info(data) if HAVE_JPEG_ else None


@final
cdef class Decoder:
    """Decodes and renders images, and keeps its buffers between calls.

    Serves one thread at a time; another thread that calls it gets an `OptionError`. Its own methods
    refuse damaged and unsupported images. `decode_image` and `Pipeline` leave these to Pillow, and
    count damaged JPEGs in `damaged_images`; `damage` says what was wrong with the last of them.
    """

    cdef px_decoder *d
    cdef px_png *png
    cdef atomic_int busy
    cdef public int64_t damaged_images
    cdef public str damage
    cdef readonly uint64_t max_pixels

    def __cinit__(self, max_pixels=MAX_PIXELS):
        if max_pixels is None:
            max_pixels = MAX_SIDE * <int64_t> MAX_SIDE
        try:
            self.max_pixels = index(max_pixels)
        except (TypeError, OverflowError):
            raise OptionTypeError(
                f"max_pixels must be an integer of at least 0 or None, got {max_pixels!r}"
            ) from None
        self.d = px_decoder_new(self.max_pixels)
        self.png = px_png_new(self.max_pixels)
        if self.d == NULL or self.png == NULL:
            raise MemoryError("out of memory, or libjpeg-turbo has another version than its "
                              "headers had at build time")

    def __dealloc__(self):
        px_decoder_free(self.d)
        px_png_free(self.png)

    def __reduce__(self):
        return Decoder, (self.max_pixels,)

    @property
    def fast_jpegs(self):
        """How many JPEGs were decoded without libjpeg-turbo's own, slower decoder of Huffman codes."""
        return px_decoder_entropy_images(self.d)

    cdef int enter(self) except -1:
        if atomic_exchange(&self.busy, 1):
            raise OptionError("another thread is using this Decoder; create one for each thread")
        return 0

    cdef int leave(self, int code, bint png) except -1:
        atomic_store(&self.busy, 0)
        if code == PX_OK:
            return 0
        if code == PX_NO_MEMORY:
            raise MemoryError("out of memory while decoding an image")
        if png:
            raise unsupported_png()
        message = px_decoder_message(self.d).decode("utf-8", "replace")
        if code == PX_TOO_LARGE:
            raise LimitError(message, hints=[limit_hint("max_pixels", self.max_pixels)])
        raise (UnsupportedJpegError if code == PX_UNSUPPORTED else DecodeError)(message)

    def decode(self, data):
        """Decode a whole image to (H, W, 3) uint8."""
        return self.decode_new(data, False)

    def decode_indices(self, data):
        """Decode a palette or gray PNG to the integers that it stores, (H, W) uint8."""
        return self.decode_new(data, True)

    cdef object decode_new(self, data, bint indices):
        """Decode a whole image into a new array."""
        cdef Py_buffer source
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            return self.decode_bytes(<const uint8_t *> source.buf, source.len, indices)
        finally:
            PyBuffer_Release(&source)

    cdef object decode_bytes(self, const uint8_t *data, size_t size, bint indices):
        cdef Py_buffer target
        cdef px_info info
        cdef bint png = is_png(data, size)
        cdef int code = PX_UNSUPPORTED
        if png:
            if px_png_info(data, size, &info):
                raise unsupported_png()
        elif indices:
            raise unsupported_png()
        elif not size or not HAVE_JPEG_ or not read_jpeg_header(data, size, &info):
            raise DecodeError("not a JPEG or a PNG")
        if <uint64_t> (info.width * info.height) > self.max_pixels:
            raise LimitError(f"the image has {info.width} x {info.height} pixels",
                             hints=[limit_hint("max_pixels", self.max_pixels)])
        shape = (info.height, info.width)
        result = np.empty(shape if indices else (*shape, 3), np.uint8)
        PyObject_GetBuffer(result, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        try:
            self.enter()
            with nogil:
                if not png:
                    code = px_decode(self.d, data, size, info.width, info.height,
                                     <uint8_t *> target.buf)
                elif indices:
                    code = px_decode_png_indices(self.png, data, size, info.width, info.height,
                                                 <uint8_t *> target.buf)
                else:
                    code = px_decode_png(self.png, data, size, info.width, info.height,
                                         <uint8_t *> target.buf)
            self.leave(code, png)
        finally:
            PyBuffer_Release(&target)
        return result

    def render(self, data, Geometry geometry not None, OutputFormat output_format not None, out):
        """Decode the part of an image that `geometry` needs, and render it into `out`."""
        self.render_images((data,), (geometry,), output_format, out[None])

    def render_images(self, images, geometries, OutputFormat output_format not None, out):
        """Render many encoded images into ``out[0]``, ``out[1]``, …

        The GIL is released once, which for small images costs as much as the work. If an image
        fails, the images after it are not rendered.
        """
        cdef Run run = Run(tuple(images), out, True)
        cdef Py_ssize_t i
        cdef const uint8_t *data
        cdef size_t size
        cdef bint png = False
        cdef int code = PX_OK
        run.set_geometries(tuple(geometries), output_format)
        self.enter()
        with nogil:
            for i in range(run.n):
                data, size = <const uint8_t *> run.views[i].buf, run.views[i].len
                png = is_png(data, size)
                if png:
                    code = px_render_png(self.png, px_decoder_work(self.d), data, size,
                                         &run.geometries[i], &output_format.f, run.target(i))
                else:
                    code = px_render_jpeg(self.d, data, size, &run.geometries[i],
                                          &output_format.f, run.target(i))
                if code:
                    break
        self.leave(code, png)

    def render_planned(self, images, seed, epoch, indices, GeometryPlan plan not None,
                       OutputFormat output_format not None, out, bint exif_transpose,
                       double min_reduction):
        """Draw the geometry of encoded images by a plan, and render them, up to the first refused.

        Nothing is raised for an image that is damaged, that only Pillow decodes, that a transform
        refuses, or whose result does not fit: the caller does it in another way, and sees why.

        Parameters
        ----------
        images : sequence of buffers
        seed, epoch : int
            Of the random numbers; see `imagearchive.transforms.Key`.
        indices : sequence of int
            The index of each image, for its random numbers.
        plan : GeometryPlan
        output_format : OutputFormat
        out : ndarray, shape (len(images), ...)
        exif_transpose : bool
            Refuse images whose EXIF orientation is not 1.
        min_reduction : float
            See `Geometry.min_reduction`.

        Returns
        -------
        int
            How many images were rendered.
        """
        cdef Run run = Run(tuple(images), out, True)
        cdef px_info info
        cdef px_geometry g
        cdef Py_ssize_t i
        cdef const uint8_t *data
        cdef size_t size
        cdef bint png
        cdef int64_t height = 0, width = 0
        cdef uint64_t seed_bits = low_bits(seed, "seed")
        cdef uint32_t epoch_bits = <uint32_t> low_bits(epoch, "epoch")
        run.set_indices(tuple(indices))
        if not run.find_size(output_format, &height, &width):
            return 0
        self.enter()
        with nogil:
            for i in range(run.n):
                data, size = <const uint8_t *> run.views[i].buf, run.views[i].len
                png = is_png(data, size)
                if not png and not HAVE_JPEG_:
                    break
                if (px_png_info if png else px_jpeg_info)(data, size, &info):
                    break
                if exif_transpose and info.orientation != 1:
                    break
                if plan.draw(info.width, info.height, seed_bits, epoch_bits, run.indices[i], &g):
                    break
                if g.canvas_h != height or g.canvas_w != width:
                    break
                g.min_reduction = min_reduction
                if png:
                    if px_render_png(self.png, px_decoder_work(self.d), data, size, &g,
                                     &output_format.f, run.target(i)):
                        break
                elif px_render_jpeg(self.d, data, size, &g, &output_format.f, run.target(i)):
                    break
            else:
                i = run.n
        self.leave(PX_OK, False)
        return i

    def render_array(self, array, Geometry geometry not None, OutputFormat output_format not None,
                     out):
        """Render an (H, W, C) array of uint8, or of float32 without normalization."""
        self.render_arrays((array,), (geometry,), output_format, out[None])

    def render_arrays(self, arrays, geometries, OutputFormat output_format not None, out):
        """Render many arrays of one dtype and number of channels; see `render_images`."""
        cdef Run run = Run(tuple(arrays), out, False)
        cdef Py_ssize_t i
        cdef int code = PX_OK
        if run.floats and (output_format.f.planar or output_format.f.dtype != 1):
            raise OptionError("float32 arrays can only be rendered to float32 (H, W, C)")
        run.set_geometries(tuple(geometries), output_format)
        self.enter()
        with nogil:
            for i in range(run.n):
                if run.floats:
                    code = px_render_float(px_decoder_work(self.d), &run.geometries[i],
                                           <const float *> run.views[i].buf,
                                           run.views[i].strides[0], run.channels,
                                           <float *> run.target(i))
                else:
                    code = px_render_array(px_decoder_work(self.d), &run.geometries[i],
                                           &output_format.f, <const uint8_t *> run.views[i].buf,
                                           run.views[i].strides[0], run.channels, run.target(i))
                if code:
                    break
        self.leave(code, False)


@final
cdef class Run:
    """Holds the buffers of images and of the output while they are rendered."""

    cdef Py_buffer *views
    cdef px_geometry *geometries
    cdef uint64_t *indices
    cdef Py_buffer out
    cdef Py_ssize_t n, opened
    cdef int channels
    cdef bint encoded, floats
    cdef object result

    def __cinit__(self, tuple images not None, out, bint encoded):
        cdef Py_ssize_t n = len(images)
        if not n:
            raise OptionError("no images to render")
        if len(out) != n:
            raise OptionError(f"{n} images need an output for {n} images, got one for {len(out)}")
        self.result = out
        self.views = <Py_buffer *> PyMem_Calloc(n, sizeof(Py_buffer))
        if self.views == NULL:
            raise MemoryError()
        self.n = n
        self.encoded = encoded
        self.channels = 3
        if encoded:
            for image in images:
                PyObject_GetBuffer(image, &self.views[self.opened], PyBUF_SIMPLE)
                self.opened += 1
        else:
            self.open_arrays(images)
        hold_output(out, &self.out)

    cdef int open_arrays(self, tuple arrays) except -1:
        dtype, shape = arrays[0].dtype, arrays[0].shape
        self.floats = dtype == np.float32
        if not self.floats and dtype != np.uint8:
            raise OptionTypeError(f"an image must be uint8 or float32, got {dtype}")
        if len(shape) != 3 or shape[2] not in (1, 3, 4):
            raise OptionError(f"an image must be (H, W, C) with 1, 3 or 4 channels, got {shape}")
        self.channels = shape[2]
        for array in arrays:
            if array.dtype != dtype or array.shape[2:] != shape[2:]:
                raise OptionError("images rendered together must have the same dtype and number of "
                                  "channels")
            open_rows(array, &self.views[self.opened])
            self.opened += 1
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.opened):
            PyBuffer_Release(&self.views[i])
        PyBuffer_Release(&self.out)
        PyMem_Free(self.views)
        PyMem_Free(self.geometries)
        PyMem_Free(self.indices)

    cdef int set_geometries(self, tuple geometries, OutputFormat output_format) except -1:
        """Store the geometry of each image. Every result must fit the output."""
        cdef Geometry geometry
        cdef Py_ssize_t i
        if len(geometries) != self.n:
            raise OptionError(f"{self.n} images need {self.n} geometries, got {len(geometries)}")
        self.geometries = <px_geometry *> PyMem_Calloc(self.n, sizeof(px_geometry))
        if self.geometries == NULL:
            raise MemoryError()
        for i in range(self.n):
            if not isinstance(geometries[i], Geometry):
                raise OptionTypeError(f"expected a Geometry, got {type(geometries[i]).__name__}")
            geometry = geometries[i]
            if not self.encoded and (self.views[i].shape[0] != geometry.g.source_h
                                     or self.views[i].shape[1] != geometry.g.source_w):
                raise OptionError(f"the geometry is for another size than that of the image, "
                                  f"{self.views[i].shape[1]} x {self.views[i].shape[0]}")
            self.check(output_format, geometry.g.canvas_h, geometry.g.canvas_w)
            self.geometries[i] = geometry.g
        return 0

    cdef int set_indices(self, tuple indices) except -1:
        cdef Py_ssize_t i
        if len(indices) != self.n:
            raise OptionError(f"{self.n} images need {self.n} keys, got {len(indices)}")
        self.indices = <uint64_t *> PyMem_Calloc(self.n, sizeof(uint64_t))
        if self.indices == NULL:
            raise MemoryError()
        for i in range(self.n):
            self.indices[i] = low_bits(indices[i], "index")
        return 0

    cdef bint find_size(self, OutputFormat output_format, int64_t *height,
                        int64_t *width) except -1:
        """Find the size of the images that fit the output; return whether there is one."""
        shape = self.result.shape[1:]
        if len(shape) != 3 or self.result.dtype != output_format.dtype:
            return False
        height[0], width[0] = shape[1:] if output_format.f.planar else shape[:2]
        return shape == output_format.shape(height[0], width[0], self.channels)

    cdef int check(self, OutputFormat output_format, int64_t height, int64_t width) except -1:
        """Raise unless an image of this size fits its slot of the output."""
        shape = output_format.shape(height, width, self.channels)
        if self.result.shape[1:] != shape or self.result.dtype != output_format.dtype:
            raise OptionError(f"the output must be {output_format.dtype} {shape}, got "
                              f"{self.result.dtype} {self.result.shape[1:]}")
        return 0

    cdef void *target(self, Py_ssize_t i) noexcept nogil:
        return <char *> self.out.buf + i * (self.out.len // self.n)


cdef int open_rows(array, Py_buffer *view) except -1:
    """Open a buffer of three axes, the last two without gaps."""
    PyObject_GetBuffer(array, view, PyBUF_STRIDED_RO)
    if view.ndim != 3 or (view.shape[2] > 1 and view.strides[2] != view.itemsize) or (
            view.shape[1] > 1 and view.strides[1] != view.itemsize * view.shape[2]):
        PyBuffer_Release(view)
        raise OptionError("each row of an image must be contiguous; pass a contiguous array")
    return 0


cdef int hold_output(out, Py_buffer *view) except -1:
    try:
        PyObject_GetBuffer(out, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT)
    except (BufferError, ValueError) as error:
        raise OptionError(f"the output must be contiguous and writable: {error}") from None
    return 0


def convert_array(array, OutputFormat output_format not None, out):
    """Normalize and cast an (H, W, C) uint8 array into `out`."""
    convert_arrays((array,), output_format, out[None])


def convert_arrays(arrays, OutputFormat output_format not None, out):
    """Convert many arrays with the same number of channels into ``out[0]``, ``out[1]``, …"""
    cdef Run run = Run(tuple(arrays), out, False)
    cdef Py_ssize_t i
    if run.floats:
        raise OptionTypeError("convert_arrays needs uint8 arrays, got float32")
    for i in range(run.n):
        run.check(output_format, run.views[i].shape[0], run.views[i].shape[1])
    with nogil:
        for i in range(run.n):
            px_convert_array(&output_format.f, <const uint8_t *> run.views[i].buf,
                            run.views[i].strides[0], run.views[i].shape[1],
                            run.views[i].shape[0], run.channels, run.target(i))


def warp_array(array, coefficients, str filter, fill, out):
    """Sample an (H, W, C) array of uint8 or float32 by a homography into `out`, of any size.

    The pixel of `out` with center (x, y) is taken from ``((a*x + b*y + c) / w, (d*x + e*y + f) /
    w)`` with ``w = g*x + h*y + 1``, as by Pillow's ``Image.transform(..., PERSPECTIVE)``; it is
    `fill` where that is outside. Alpha is premultiplied for all filters but "nearest".
    """
    cdef Run run = Run((array,), out[None], False)
    cdef double[8] a
    cdef float[4] color
    cdef int i, code, number
    cdef int64_t height = out.shape[0], width = out.shape[1]
    if out.dtype != array.dtype or out.shape[2:] != array.shape[2:]:
        raise OptionError(f"the output must be {array.dtype} with {run.channels} channels, got "
                          f"{out.dtype} {out.shape}")
    if filter not in ("nearest", "bilinear", "bicubic"):
        raise OptionError(f"filter must be 'nearest', 'bilinear' or 'bicubic', got {filter!r}")
    number = FILTERS.index(filter)
    if len(coefficients) != 8 or len(fill) != run.channels:
        raise OptionError("warp_array needs 8 coefficients and one fill value per channel")
    for i in range(8):
        a[i] = coefficients[i]
    for i in range(run.channels):
        color[i] = fill[i]
    with nogil:
        code = px_warp(run.views[0].buf, run.views[0].strides[0], run.views[0].shape[1],
                       run.views[0].shape[0], run.channels, run.floats, a, number, color,
                       width, height, run.target(0))
    if code:
        raise MemoryError("out of memory while warping an image")


def blend_value(uint8_t[:, :, ::1] pixels not None, double factor, int value):
    """Compute ``value + factor * (pixel - value)`` in place, truncated and clipped."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1] * pixels.shape[2]
    if n:
        with nogil:
            px_blend_value(&pixels[0, 0, 0], n, factor, value)


cdef int expect_rgb(Py_ssize_t channels) except -1:
    if channels != 3:
        raise OptionError(f"needs RGB pixels, (H, W, 3), got {channels} channels")
    return 0


def blend_gray(uint8_t[:, :, ::1] pixels not None, double factor):
    """Blend each RGB pixel with its gray value in place, as `blend_value` does."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    expect_rgb(pixels.shape[2])
    if n:
        with nogil:
            px_blend_gray(&pixels[0, 0, 0], n, factor)


def shift_hue(uint8_t[:, :, ::1] pixels not None, int shift):
    """Add `shift`, in 256ths of a circle, to the hue of RGB pixels in place."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    expect_rgb(pixels.shape[2])
    if n:
        with nogil:
            px_shift_hue(&pixels[0, 0, 0], n, shift)


def mean_gray(const uint8_t[:, :, ::1] pixels not None):
    """Return the mean gray value of RGB pixels, rounded."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    cdef int mean = 0
    expect_rgb(pixels.shape[2])
    if n:
        with nogil:
            mean = px_mean_gray(&pixels[0, 0, 0], n)
    return mean


def gray(const uint8_t[:, :, ::1] pixels not None):
    """Convert RGB to gray, (H, W, 1), with the weights of ITU-R 601."""
    cdef size_t n = pixels.shape[0] * pixels.shape[1]
    expect_rgb(pixels.shape[2])
    result = np.empty((pixels.shape[0], pixels.shape[1], 1), np.uint8)
    cdef uint8_t[:, :, ::1] out = result
    if n:
        with nogil:
            px_gray(&pixels[0, 0, 0], n, &out[0, 0, 0])
    return result
