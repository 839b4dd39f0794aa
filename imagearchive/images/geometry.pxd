from cython cimport final
from libc.stdint cimport int64_t

cdef extern from "pixels.h" nogil:
    ctypedef struct px_geometry:
        int64_t source_w, source_h, view_x, view_y, view_w, view_h
        double box_x0, box_y0, box_x1, box_y1
        int64_t size_w, size_h, win_x, win_y, win_w, win_h, canvas_w, canvas_h, at_x, at_y
        int flip_x, flip_y, filter, resized, padded
        double min_reduction
        float fill[4]
    ctypedef struct px_output_format:
        float scale[4]
        float bias[4]
        int dtype, planar


cdef enum:
    # Larger sides would overflow the 32-bit positions of the resampling tables.
    MAX_SIDE = 1 << 24


# The methods of `Geometry` without the GIL. They return -1, and change nothing, where those raise.
cdef int geometry_start(px_geometry *g, int64_t width, int64_t height) noexcept nogil
cdef int geometry_resize(px_geometry *g, int64_t width, int64_t height, double x0, double y0,
                         double x1, double y1, int filter) noexcept nogil
cdef int geometry_crop(px_geometry *g, int64_t x, int64_t y, int64_t width,
                       int64_t height) noexcept nogil
cdef int geometry_pad(px_geometry *g, int64_t left, int64_t top, int64_t right, int64_t bottom,
                      const float *fill) noexcept nogil
cdef int four_numbers(values, float *out) except -1


@final
cdef class Geometry:
    cdef px_geometry g


@final
cdef class OutputFormat:
    cdef px_output_format f
    cdef readonly object dtype
    cdef readonly bint planar
