"""A binary file object over bytes that stay where they are."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcpy

import io


cdef class ViewFile:
    """What `io.BytesIO` is, but read-only and without a copy of the whole.

    It keeps the bytes alive: those of a mapped archive stay mapped while an image that is loaded
    later still holds its file. For one thread at a time, as any file object with a position.

    Parameters
    ----------
    data : bytes-like
    """

    cdef const uint8_t[::1] view
    cdef Py_ssize_t place
    cdef Py_ssize_t size
    cdef readonly bint closed
    cdef readonly str mode

    def __init__(self, data not None):
        self.size = len(data)
        if self.size:
            self.view = data
        self.place = 0
        self.closed = False
        self.mode = "rb"

    def __repr__(self):
        return f"<ViewFile of {self.size} bytes>"

    cdef int check(self) except -1:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        return 0

    cdef bytes take(self, Py_ssize_t count):
        cdef Py_ssize_t left = self.size - self.place
        if left <= 0 or count == 0:
            return b""
        if count < 0 or count > left:
            count = left
        cdef bytes found = PyBytes_FromStringAndSize(<const char*> &self.view[self.place], count)
        self.place += count
        return found

    def read(self, size=-1, /):
        """Read that many bytes, or all that are left."""
        self.check()
        return self.take(-1 if size is None else size)

    def read1(self, size=-1, /):
        """Read as `read` does."""
        self.check()
        return self.take(-1 if size is None else size)

    def peek(self, size=0, /):
        """Return what is left from here on, without moving."""
        self.check()
        cdef Py_ssize_t place = self.place
        found = self.take(size if size > 0 else 8192)
        self.place = place
        return found

    def readinto(self, buffer, /):
        """Fill a writable buffer; return how many bytes of it."""
        self.check()
        cdef uint8_t[::1] target = memoryview(buffer).cast("B")
        cdef Py_ssize_t count = self.size - self.place
        if count > target.shape[0]:
            count = target.shape[0]
        if count <= 0:
            return 0
        memcpy(&target[0], &self.view[self.place], count)
        self.place += count
        return count

    def readinto1(self, buffer, /):
        """Fill a writable buffer as `readinto` does."""
        return self.readinto(buffer)

    def readline(self, size=-1, /):
        """Read up to the end of the line, at most that many bytes."""
        self.check()
        cdef Py_ssize_t left = self.size - self.place, limit = -1 if size is None else size
        if left <= 0:
            return b""
        if 0 <= limit < left:
            left = limit
        cdef const uint8_t* start = &self.view[self.place]
        cdef const void* end = memchr(start, 10, left) if left else NULL
        if end != NULL:
            left = <const uint8_t*> end - start + 1
        return self.take(left)

    def readlines(self, hint=-1, /):
        """Read the lines that are left, or until they hold more than `hint` bytes."""
        lines = []
        cdef Py_ssize_t total = 0, limit = -1 if hint is None else hint
        for line in self:
            lines.append(line)
            total += len(line)
            if 0 < limit <= total:
                break
        return lines

    def __iter__(self):
        self.check()
        return self

    def __next__(self):
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def seek(self, offset, whence=0, /):
        """Move to a position, which may lie behind the end; return it."""
        self.check()
        cdef Py_ssize_t base
        if whence == 0:
            base = 0
        elif whence == 1:
            base = self.place
        elif whence == 2:
            base = self.size
        else:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        target = base + offset
        if whence == 0 and target < 0:
            raise ValueError(f"negative seek value {offset}")
        self.place = max(target, 0)
        return self.place

    def tell(self):
        """Return the position."""
        self.check()
        return self.place

    def getvalue(self):
        """Return all bytes, wherever the position is."""
        self.check()
        return bytes(self.view) if self.size else b""

    def readable(self):
        """Whether it can be read: always."""
        self.check()
        return True

    def seekable(self):
        """Whether it has positions: always."""
        self.check()
        return True

    def writable(self):
        """Whether it can be written: never."""
        self.check()
        return False

    def isatty(self):
        """Whether it is a terminal: never."""
        self.check()
        return False

    def flush(self):
        """Do nothing."""
        self.check()

    def write(self, data, /):
        """Raise `io.UnsupportedOperation`."""
        raise io.UnsupportedOperation("write")

    def truncate(self, size=None, /):
        """Raise `io.UnsupportedOperation`."""
        raise io.UnsupportedOperation("truncate")

    def fileno(self):
        """Raise `io.UnsupportedOperation`: there is no descriptor."""
        raise io.UnsupportedOperation("fileno")

    def close(self):
        """Let go of the bytes."""
        self.closed = True
        self.view = None
        self.size = 0

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close()


io.BufferedIOBase.register(ViewFile)
