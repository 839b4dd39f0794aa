"""Bytes of which many threads take views, among them those of a mapped file.

Missing pages of a mapped file read as zeros instead of ending the process; see
`native/bus_guard.c`.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
)
from cpython.bytes cimport PyBytes_FromObject
from cpython.exc cimport PyErr_SetFromErrno
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset
from posix.mman cimport (
    MADV_WILLNEED, MAP_FAILED, MAP_SHARED, PROT_READ, madvise, mmap, munmap
)

cdef extern from "bus_guard.h" nogil:
    struct guarded_range:
        pass

    void guard_prepare()
    void guard_ensure()
    guarded_range* guard_add(void* start, size_t size)
    void guard_remove(guarded_range* range)
    int guard_is_damaged(const guarded_range* range)
    int guard_damaged_count()

import mmap as python_mmap

from imagearchive.errors import OptionError

cdef Py_ssize_t PAGE_SIZE = python_mmap.PAGESIZE
cdef enum:
    REMEMBERED = 1 << 30
    MAX_REMEMBERED_RANGE = 1 << 24

guard_prepare()


cdef bint any_damaged() noexcept nogil:
    """Whether a mapping of this process has pages that could not be read."""
    return guard_damaged_count() != 0


def damaged_mappings():
    """Return how many mappings of this process have pages that could not be read."""
    return guard_damaged_count()


def copy_bytes(data, source):
    """Return ``bytes(data)``, all of which was there.

    Parameters
    ----------
    data : bytes-like
    source : object
        If a mapping of this process is damaged, its method `check_unchanged` is called after the
        copy.
    """
    copied = PyBytes_FromObject(data)
    if guard_damaged_count():
        source.check_unchanged()
    return copied


@cython.final
@cython.freelist(8)
cdef class Range:
    """A range of the bytes of an object, which it keeps alive; a read-only buffer."""

    cdef object owner
    cdef void* start
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        # Refuses writable buffers.
        PyBuffer_FillInfo(buffer, self, self.start, self.size, 1, flags)


cdef object view_of(owner, void* start, Py_ssize_t length, Py_ssize_t offset, Py_ssize_t size):
    """Return a view of a range of `length` bytes.

    It is not a slice of a view that threads share: a memoryview and its slices count each other,
    and without the GIL they would count wrong and be released while they are in use.
    """
    if offset < 0 or size < 0 or offset > length or size > length - offset:
        raise ValueError(f"{size} bytes at offset {offset} are not within {length} bytes")
    cdef Range part = Range.__new__(Range)
    part.owner = owner
    part.start = <char*> start + offset
    part.size = size
    return PyMemoryView_FromObject(part)


cdef class SharedBytes:
    """The bytes of an object, for threads that take views at the same time.

    Parameters
    ----------
    data : bytes-like
        Contiguous. Views keep it alive.
    """

    cdef Py_buffer held

    def __cinit__(self, data):
        PyObject_GetBuffer(data, &self.held, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.held)

    def __len__(self):
        return self.held.len

    def view(self, Py_ssize_t offset, Py_ssize_t size):
        """Return a read-only view of a range; raises ValueError if it is not within the bytes."""
        return view_of(self, self.held.buf, self.held.len, offset, size)


cdef class Mapping:
    """All of a file, mapped for reading; a buffer of bytes.

    A page that cannot be read, because the file was truncated or the disk failed, becomes a page of
    zeros, and `damaged` becomes true. Views keep the mapping alive. Safe for threads; a forked
    child has its own pages from then on.

    Parameters
    ----------
    descriptor : int
        An open file, which may be closed afterwards.
    size : int
        Its length in bytes, at least 1.

    Raises
    ------
    OSError
        The file cannot be mapped.
    """

    cdef void* start
    cdef Py_ssize_t size
    cdef guarded_range* guarded
    # The pages that were requested, one bit each, and how many more are to be before all of these
    # are forgotten.
    cdef uint8_t* requested
    cdef Py_ssize_t remembered

    def __cinit__(self, int descriptor, Py_ssize_t size):
        self.size = size
        if size <= 0:
            raise ValueError(f"the size of a mapping must be at least 1, got {size}")
        with nogil:
            start = mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, 0)
        if start == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.start = start
        self.guarded = guard_add(start, size)
        if self.guarded == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.guarded != NULL:
            guard_remove(self.guarded)
        if self.start != NULL:
            munmap(self.start, self.size)
        PyMem_Free(self.requested)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        # Refuses writable buffers.
        PyBuffer_FillInfo(buffer, self, self.start, self.size, 1, flags)

    def __len__(self):
        return self.size

    def view(self, Py_ssize_t offset, Py_ssize_t size):
        """Return a read-only view of a range.

        Makes sure that the guard is in place, as another library may have installed a handler of
        its own. It is cheap enough for each read.

        Raises
        ------
        BufferError
            A page of the file could not be read.
        ValueError
            The range is not within the file.
        """
        guard_ensure()
        if guard_is_damaged(self.guarded):
            raise BufferError("a page of the mapped file could not be read")
        return view_of(self, self.start, self.size, offset, size)

    @property
    def damaged(self):
        """Whether a page could not be read."""
        return guard_is_damaged(self.guarded) != 0

    def prefetch(self, Py_ssize_t offset, Py_ssize_t size):
        """Ask the kernel to read a range ahead; does nothing for a range outside.

        Pages are not requested again while the kernel should still have them, that is, until 1 GiB
        more were requested: for small images, each request takes as long as a tenth of decoding.

        Returns
        -------
        bool
            Whether the kernel was asked.
        """
        return bool(self.ask(offset, size))

    cdef bint ask(self, Py_ssize_t offset, Py_ssize_t size) except -1:
        if offset < 0 or size <= 0 or offset >= self.size:
            return False
        size = min(size, self.size - offset)
        cdef Py_ssize_t begin = offset - offset % PAGE_SIZE
        if size < MAX_REMEMBERED_RANGE and not self.remember(
                offset // PAGE_SIZE, (offset + size - 1) // PAGE_SIZE):
            return False
        with nogil:
            madvise(<char*> self.start + begin, offset + size - begin, MADV_WILLNEED)
        return True

    def prefetch_all(self, const int64_t[::1] offsets not None, const int64_t[::1] ends not None):
        """Ask for many ranges; `ends` has as many items as `offsets`. See `prefetch`.

        Returns
        -------
        bool
            Whether it would be useless to ask for them again, whatever else is asked for.
        """
        cdef Py_ssize_t i
        if ends.shape[0] != offsets.shape[0]:
            raise OptionError(f"got {offsets.shape[0]} offsets and {ends.shape[0]} ends")
        for i in range(offsets.shape[0]):
            self.ask(offsets[i], ends[i] - offsets[i])
        return self.size <= REMEMBERED

    cdef bint remember(self, Py_ssize_t first, Py_ssize_t last) except -1:
        """Add pages to those that were requested; return whether one of them is new."""
        cdef Py_ssize_t page, bytes_needed = self.size // PAGE_SIZE // 8 + 1
        cdef bint new = False
        cdef uint8_t bit
        with cython.critical_section(self):
            if self.requested == NULL:
                self.requested = <uint8_t*> PyMem_Calloc(bytes_needed, 1)
                if self.requested == NULL:
                    raise MemoryError
                self.remembered = REMEMBERED // PAGE_SIZE
            elif self.remembered <= 0:
                memset(self.requested, 0, bytes_needed)
                self.remembered = REMEMBERED // PAGE_SIZE
            for page in range(first, last + 1):
                bit = 1 << (page & 7)
                if not self.requested[page >> 3] & bit:
                    self.requested[page >> 3] |= bit
                    self.remembered -= 1
                    new = True
        return new
