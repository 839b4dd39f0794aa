"""Begins to put a file on disk while more is written to it."""

__all__ = ["begin_writeback"]

cdef extern from *:
    """
    #if defined(__linux__)
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #endif

    static inline void start_writeback(int descriptor) {
    #if defined(SYNC_FILE_RANGE_WRITE)
        /* Only a hint: what fails here fails again in fsync. */
        (void) sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE);
    #else
        (void) descriptor;
    #endif
    }
    """
    void start_writeback(int descriptor) noexcept nogil


def begin_writeback(int descriptor):
    """Have the system begin to write the changed pages of a file, without waiting for the disk.

    A later `fsync` has less to wait for. Does nothing where the system cannot do that.
    """
    with nogil:
        start_writeback(descriptor)
