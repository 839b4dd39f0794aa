"""The row that every scanner fills: one member of an archive, 64 bytes."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef packed struct Entry:
    uint64_t index   # position among the members of the archive
    uint64_t offset  # first byte of the stored data in the archive file
    uint64_t size    # bytes of the member as a reader sees it
    uint64_t stored_size  # bytes that it takes in the archive file
    uint64_t header_offset  # first byte of the member's header (with what precedes it, such as PAX)
    int64_t mtime    # modification time, nanoseconds since 1970
    uint32_t crc     # CRC-32 (ZIP), CRC-32C (Barecat) or 0
    uint32_t shard   # which file of a multi-file archive holds it
    uint32_t mode    # permission bits
    uint16_t method  # 0 stored, 8 deflated, otherwise the container's number
    uint16_t kind    # one of Kind

cdef enum Kind:
    KIND_FILE = 0       # bytes [offset, offset + stored_size) after decompression by method
    KIND_SPARSE = 1     # TAR sparse file: the map is parsed again from `header_offset` when read
    KIND_HARDLINK = 2   # the link name follows the name; resolved when the index is built
    KIND_SYMLINK = 3    # likewise
    KIND_DIRECTORY = 4
    KIND_OTHER = 5      # device, FIFO: never a sample
    KIND_ENCRYPTED = 6  # listed, an error on access
    KIND_CONTINUATION = 7  # the rest of a file that begins in another volume: never a sample
