from cython cimport final
from libc.stdint cimport int64_t

cdef extern from "pixels.h" nogil:
    ctypedef struct px_geometry:
        int64_t source_w, source_h, view_x, view_y, view_w, view_h
        double box_x0, box_y0, box_x1, box_y1
        int64_t size_w, size_h, win_x, win_y, win_w, win_h, canvas_w, canvas_h, at_x, at_y
        int flip_x, flip_y, filter, resized
        double min_reduction
        float fill[4]
    ctypedef struct px_output_format:
        float scale[4]
        float bias[4]
        int dtype, planar


cdef enum:
    # Larger sides would overflow the 32-bit positions of the resampling tables.
    MAX_SIDE = 1 << 24


@final
cdef class Geometry:
    cdef px_geometry g
    cdef bint filled


@final
cdef class OutputFormat:
    cdef px_output_format f
    cdef readonly object dtype
    cdef readonly bint planar
