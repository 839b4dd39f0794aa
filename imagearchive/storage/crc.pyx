"""CRC-32 and CRC-32C at the speed of memory, and which members were compared with theirs."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t, uint32_t

__all__ = ["PositionSet", "crc32", "crc32c", "use_instructions"]

cdef extern from "crc.h" nogil:
    int CRC_32, CRC_32C
    void crc_prepare()
    uint32_t crc_update(int kind, uint32_t before, const uint8_t* data, size_t size)
    int crc_use_instructions(int wanted)

cdef enum:
    # Releasing the GIL costs more than the checksum of fewer bytes.
    RELEASE_BYTES = 32768

crc_prepare()


cdef object update(int kind, data, uint32_t before):
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len < RELEASE_BYTES:
            result = crc_update(kind, before, <const uint8_t*> view.buf, view.len)
        else:
            with nogil:
                result = crc_update(kind, before, <const uint8_t*> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return result


cdef uint32_t crc32_after(uint32_t before, const uint8_t* data, size_t size) noexcept nogil:
    """Do `crc32` for native code."""
    return crc_update(CRC_32, before, data, size)


cdef uint32_t crc32c_after(uint32_t before, const uint8_t* data, size_t size) noexcept nogil:
    """Do `crc32c` for native code."""
    return crc_update(CRC_32C, before, data, size)


def crc32(data, uint32_t value=0, /):
    """Return the CRC-32 of bytes that follow others whose CRC-32 is `value`."""
    return update(CRC_32, data, value)


def crc32c(data, uint32_t value=0, /):
    """Return the CRC-32C of bytes that follow others whose CRC-32C is `value`."""
    return update(CRC_32C, data, value)


def use_instructions(bint wanted):
    """Choose instructions of the processor or tables, for tests; return whether it has them."""
    return bool(crc_use_instructions(wanted))


cdef class PositionSet:
    """A set of positions below `count`, one bit each. It takes no memory until the first `add`.

    With ``full=True`` all integers are in it. Safe for threads, and after fork, which copies it.
    """

    cdef uint8_t* bits
    cdef Py_ssize_t count
    cdef bint full

    def __cinit__(self, Py_ssize_t count, bint full=False):
        self.count = max(count, 0)
        self.full = full

    def __dealloc__(self):
        PyMem_Free(self.bits)

    def __contains__(self, Py_ssize_t position):
        cdef bint found = self.full
        if not found and 0 <= position < self.count:
            with cython.critical_section(self):
                if self.bits != NULL:
                    found = self.bits[position >> 3] >> (position & 7) & 1
        return found

    def has_all(self, const int64_t[::1] positions not None):
        """Return whether all of these positions are in it."""
        cdef Py_ssize_t i, position
        cdef bint found = True
        if self.full:
            return True
        with cython.critical_section(self):
            for i in range(positions.shape[0]):
                position = positions[i]
                if self.bits == NULL or not 0 <= position < self.count or (
                        not self.bits[position >> 3] >> (position & 7) & 1):
                    found = False
                    break
        return found

    def add(self, Py_ssize_t position):
        """Add a position; one outside of the range is ignored."""
        if not 0 <= position < self.count:
            return
        with cython.critical_section(self):
            if self.bits == NULL:
                self.bits = <uint8_t*> PyMem_Calloc((self.count + 7) // 8, 1)
                if self.bits == NULL:
                    raise MemoryError
            self.bits[position >> 3] |= 1 << (position & 7)

    def add_all(self, const int64_t[::1] positions not None):
        """Add several positions; see `add`."""
        cdef Py_ssize_t i
        for i in range(positions.shape[0]):
            self.add(positions[i])
