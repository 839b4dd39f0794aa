"""The files of the block cache: a header that names the block, checksums, and the data."""

import os
import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp
from posix.unistd cimport close, pread

from imagearchive.storage.crc cimport crc32c_after
from imagearchive.storage.crc import crc32c

__all__ = ["BLOCK", "BlockReader", "describe_block", "header_size"]

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, O_NOFOLLOW, O_RDONLY
    int open_file "open"(const char* path, int flags)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv(int descriptor, const iovec* parts, int count, int64_t offset)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        int64_t st_mtime
    int fstat(int descriptor, stat_t* status)

cdef enum:
    # Bytes of a block. Larger ones make the first random epoch fetch more than it uses, smaller
    # ones make more files.
    BLOCK_SIZE = 262144
    # What one checksum covers: a read checks no more than it needs.
    PAGE = 16384
    # Magic, digest of the object and number of the block, bytes of data; then a checksum for each
    # page, and one of the header itself.
    NAMES = 52
    MAX_HEADER = 120
    DIGEST = 32
    # Instead of a time; a number of the system's errors is returned as its negative.
    DAMAGED = -1000000

BLOCK = BLOCK_SIZE
cdef const char* MAGIC = "IABLOCK1"
_HEADER = struct.Struct("<8s32sQI")
assert _HEADER.size == NAMES and MAX_HEADER == NAMES + 4 * (BLOCK_SIZE // PAGE + 1)


cdef class BlockReader:
    """Reads a range of an object from the files of its blocks, one after the other.

    Not safe for use by several threads at once.

    Parameters
    ----------
    size : int
        Bytes of the range.
    """

    cdef bytes data
    cdef Py_ssize_t filled

    def __init__(self, Py_ssize_t size):
        self.data = PyBytes_FromStringAndSize(NULL, size)
        self.filled = 0

    def add(self, str path, bytes digest, uint64_t number, Py_ssize_t start, Py_ssize_t stop):
        """Read the next part of the range from a block.

        Parameters
        ----------
        path : str
            Of the file.
        digest : bytes
            Of the object, 32 bytes.
        number : int
            Of the block.
        start, stop : int
            The part, within the block.

        Returns
        -------
        int or None
            When the file was modified, in seconds since 1970; None if it is damaged, or another
            block.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        cdef bytes name = os.fsencode(path)
        cdef const char* chars = name
        cdef const uint8_t* wanted
        cdef uint8_t* target
        cdef int64_t modified
        if not 0 <= start < stop <= BLOCK_SIZE or len(digest) != DIGEST:
            raise ValueError(f"no part of a block: {start} to {stop}")
        if stop - start > len(self.data) - self.filled:
            raise ValueError(f"{stop - start} bytes are more than are left of the range")
        wanted = <const uint8_t*> PyBytes_AS_STRING(digest)
        target = <uint8_t*> PyBytes_AS_STRING(self.data) + self.filled
        with nogil:
            modified = read_part(chars, wanted, number, start, stop, target)
        if modified == DAMAGED:
            return None
        if modified < 0:
            raise OSError(-modified, os.strerror(-modified), path)
        self.filled += stop - start
        return modified

    def result(self):
        """Return the range, of which all parts must have been read."""
        if self.filled != len(self.data):
            raise ValueError(f"{self.filled} bytes of {len(self.data)} were read")
        return self.data


cdef int64_t read_part(
    const char* path, const uint8_t* digest, uint64_t number, Py_ssize_t start, Py_ssize_t stop,
    uint8_t* target,
) noexcept nogil:
    """Return when the file was modified; otherwise `DAMAGED`, or the negative of an errno."""
    cdef int descriptor = open_file(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
    cdef int64_t result
    if descriptor < 0:
        return -errno
    result = read_open(descriptor, digest, number, start, stop, target)
    close(descriptor)
    return result


cdef int64_t read_open(
    int descriptor, const uint8_t* digest, uint64_t number, Py_ssize_t start, Py_ssize_t stop,
    uint8_t* target,
) noexcept nogil:
    cdef uint8_t[MAX_HEADER] head
    # What the first and the last page have besides the part.
    cdef uint8_t[PAGE] before, after
    cdef iovec[3] parts
    cdef stat_t status
    cdef ssize_t got = pread(descriptor, head, MAX_HEADER, 0)
    cdef Py_ssize_t length, size, page, first, end
    if got < 0 or fstat(descriptor, &status) < 0:
        return -errno
    if got < NAMES or memcmp(head, MAGIC, 8) or memcmp(head + 8, digest, DIGEST):
        return DAMAGED
    length = little(head + 48, 4)
    if little(head + 40, 8) != number or not stop <= length <= BLOCK_SIZE:
        return DAMAGED
    size = NAMES + 4 * ((length + PAGE - 1) // PAGE + 1)
    if got < size or crc32c_after(0, head, size - 4) != little(head + size - 4, 4):
        return DAMAGED
    first = start // PAGE * PAGE
    end = min((stop + PAGE - 1) // PAGE * PAGE, length)
    parts[0].iov_base, parts[0].iov_len = before, start - first
    parts[1].iov_base, parts[1].iov_len = target, stop - start
    parts[2].iov_base, parts[2].iov_len = after, end - stop
    got = preadv(descriptor, parts, 3, size + first)
    if got < 0:
        return -errno
    if got != end - first:
        return DAMAGED
    page = first
    while page < end:
        if (
            page_checksum(page, min(page + PAGE, length), start, stop, before, target, after)
            != little(head + NAMES + page // PAGE * 4, 4)
        ):
            return DAMAGED
        page += PAGE
    return max(0, status.st_mtime)


cdef uint32_t page_checksum(
    Py_ssize_t page, Py_ssize_t end, Py_ssize_t start, Py_ssize_t stop, const uint8_t* before,
    const uint8_t* target, const uint8_t* after,
) noexcept nogil:
    """Return the checksum of a page; up to three buffers hold a part of it."""
    cdef uint32_t checksum = 0
    if page < start:
        checksum = crc32c_after(checksum, before, start - page)
        page = start
    if page < min(end, stop):
        checksum = crc32c_after(checksum, target + (page - start), min(end, stop) - page)
    if end > stop:
        checksum = crc32c_after(checksum, after, end - stop)
    return checksum


cdef inline uint64_t little(const uint8_t* data, int count) noexcept nogil:
    cdef uint64_t value = 0
    while count:
        count -= 1
        value = value << 8 | data[count]
    return value


def header_size(Py_ssize_t length):
    """Return the bytes before the data of a block of this length."""
    return NAMES + 4 * ((length + PAGE - 1) // PAGE + 1)


def describe_block(bytes digest, number, data):
    """Return the header of a block."""
    checksums = [crc32c(data[at : at + PAGE]) for at in range(0, len(data), PAGE)]
    header = _HEADER.pack(MAGIC, digest, number, len(data))
    header += struct.pack(f"<{len(checksums)}I", *checksums)
    return header + struct.pack("<I", crc32c(header))
