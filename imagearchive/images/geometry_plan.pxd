from cython cimport final
from libc.stdint cimport int64_t, uint32_t, uint64_t

from imagearchive.images.geometry cimport px_geometry


cdef struct Operation


@final
cdef class GeometryPlan:
    cdef readonly tuple steps
    cdef Operation *operations
    cdef Py_ssize_t count
    cdef int add(self, uint32_t position, str name, tuple arguments) except -1
    # Draw the geometry of an image. Returns -1 if a step refuses the image.
    cdef int draw(self, int64_t width, int64_t height, uint64_t seed, uint32_t epoch,
                  uint64_t index, px_geometry *g) noexcept nogil
