"""The two kinds of record in a ZIP archive: windows of bytes in, rows of the index table out.

Both passes run without the GIL and return codes; `imagearchive.containers.zip.scan` reads, raises and logs.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from posix.types cimport off_t

from imagearchive.containers.clock cimport SIGNAL_INTERVAL, monotonic_ns
from imagearchive.containers.entry cimport (
    KIND_DIRECTORY,
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_OTHER,
    KIND_SYMLINK,
    Entry,
)

# pread with 64-bit positions on every POSIX system that has it; Cython's own declaration varies.
cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void* buffer, size_t size, off_t offset)

# Local headers of members up to this size are read together with the data between them.
cdef enum:
    NEAR = 4096
    LOCAL_WINDOW = 1 << 16
    ROWS_PER_CLOCK = 16
    READS_PER_CALL = 4096

# No compression methods, but why the data of a member cannot be read; as in `zip.markers`.
cdef enum:
    METHOD_CONTRADICTED = 0xFFFD
    METHOD_OTHER_NAME = 0xFFFE
    METHOD_OTHER_DISK = 0xFFFF

cpdef enum Code:
    FINE = 0
    CUT = 1          # the window ends inside the record
    BAD_SIGNATURE = 2
    BAD_ZIP64 = 3    # a field says "see the ZIP64 field", which is not there
    BAD_SIZE = 4     # a stored member whose two sizes differ, or an impossible ratio
    BAD_OFFSET = 5   # outside the part of the file in front of the central directory
    UNREADABLE = 6   # the file ends before the header
    PAUSE = 7        # nothing is wrong; lets Python look at signals
    SYSTEM_ERROR = 8 # pread failed

#: What the codes mean, by code.
REASONS = {
    CUT: "the record is cut off",
    BAD_SIGNATURE: "no header where one should be",
    BAD_ZIP64: "the ZIP64 field is missing or too short",
    BAD_SIZE: "the sizes contradict each other",
    BAD_OFFSET: "it is outside the part of the file that holds members",
    UNREADABLE: "the file ends before its local header",
}

# Code page 437 above ASCII: the encoding of names without the UTF-8 flag.
cdef uint16_t[128] CP437
for _index, _character in enumerate(bytes(range(128, 256)).decode("cp437")):
    CP437[_index] = ord(_character)


cdef struct Columns:
    Entry* entries
    uint64_t* name_ends
    uint64_t* link_ends
    uint8_t* names
    uint64_t* digests   # of the raw name, to compare it with that of the local header
    uint16_t* lengths   # of the raw name
    Py_ssize_t rows
    uint64_t name_bytes


cdef inline uint32_t u16(const uint8_t* data) noexcept nogil:
    return data[0] | (<uint32_t>data[1] << 8)


cdef inline uint32_t u32(const uint8_t* data) noexcept nogil:
    return u16(data) | (u16(data + 2) << 16)


cdef inline uint64_t u64(const uint8_t* data) noexcept nogil:
    return u32(data) | (<uint64_t>u32(data + 4) << 32)


cdef uint64_t digest(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    """FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/."""
    cdef uint64_t value = 0xCBF29CE484222325ULL
    cdef Py_ssize_t i
    for i in range(size):
        value = (value ^ data[i]) * 0x100000001B3ULL
    return value


cdef uint32_t crc32(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    """CRC-32 bit by bit: for names alone."""
    cdef uint32_t value = 0xFFFFFFFFU
    cdef Py_ssize_t i
    cdef int bit
    for i in range(size):
        value ^= data[i]
        for bit in range(8):
            value = (value >> 1) ^ (0xEDB88320U & (0 - (value & 1)))
    return value ^ 0xFFFFFFFFU


cpdef int64_t dos_time(uint32_t date, uint32_t time) noexcept nogil:
    """Nanoseconds since 1970 of an MS-DOS date and time taken as UTC; 0 if it is not a date."""
    cdef int64_t year = 1980 + (date >> 9), month = (date >> 5) & 15, day = date & 31
    cdef int64_t days
    if month < 1 or month > 12 or day < 1:
        return 0
    # Days of the proleptic Gregorian calendar, the year beginning in March.
    if month <= 2:
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5
    days += day - 719469
    return (days * 86400 + (time >> 11) * 3600 + ((time >> 5) & 63) * 60 + (time & 31) * 2) * (
        <int64_t>1000000000
    )


cdef Py_ssize_t put_name(
    const uint8_t* raw, Py_ssize_t size, bint is_utf8, uint8_t* out
) noexcept nogil:
    """Write a name as UTF-8, at most three bytes for each of its own; return its length."""
    cdef Py_ssize_t i, n = 0
    cdef uint32_t code
    if is_utf8:
        memcpy(out, raw, size)
        return size
    for i in range(size):
        code = raw[i]
        if code >= 128:
            code = CP437[code - 128]
        if code < 0x80:
            out[n] = <uint8_t>code
            n += 1
        elif code < 0x800:
            out[n] = <uint8_t>(0xC0 | (code >> 6))
            out[n + 1] = <uint8_t>(0x80 | (code & 63))
            n += 2
        else:
            out[n] = <uint8_t>(0xE0 | (code >> 12))
            out[n + 1] = <uint8_t>(0x80 | ((code >> 6) & 63))
            out[n + 2] = <uint8_t>(0x80 | (code & 63))
            n += 3
    return n


cdef int central(
    const uint8_t* data, Py_ssize_t size, Columns* to, int64_t shift, uint32_t disk,
    Py_ssize_t* taken,
) noexcept nogil:
    """Take one record; `taken` is its length, also where it is refused."""
    cdef uint32_t flags, method, name_size, extra_size, mode, member_disk, field, length
    cdef uint64_t stored, full, offset
    cdef const uint8_t* name = data + 46
    cdef const uint8_t* extra
    cdef const uint8_t* end
    cdef const uint8_t* part
    cdef const uint8_t* unicode_name = NULL
    cdef Py_ssize_t unicode_size = 0
    cdef int64_t mtime
    cdef int missing
    cdef Entry* entry
    taken[0] = 0
    if size < 4:
        return CUT
    if memcmp(data, b"PK\x01\x02", 4) != 0:
        return BAD_SIGNATURE
    if size < 46:
        return CUT
    name_size = u16(data + 28)
    extra_size = u16(data + 30)
    length = 46 + name_size + extra_size + u16(data + 32)
    if length > size:
        return CUT
    taken[0] = length
    flags = u16(data + 8)
    method = u16(data + 10)
    stored = u32(data + 20)
    full = u32(data + 24)
    member_disk = u16(data + 34)
    mode = u32(data + 38) >> 16
    offset = u32(data + 42)
    mtime = dos_time(u16(data + 14), u16(data + 12))
    missing = (
        (full == 0xFFFFFFFFU) + (stored == 0xFFFFFFFFU) + (offset == 0xFFFFFFFFU)
    )
    extra = name + name_size
    end = extra + extra_size
    while end - extra >= 4:
        field = u16(extra)
        part = extra + 4
        extra = part + u16(extra + 2)
        if extra > end:
            break
        if field == 0x0001 and missing:
            if full == 0xFFFFFFFFU and extra - part >= 8:
                full = u64(part)
                part += 8
                missing -= 1
            if stored == 0xFFFFFFFFU and extra - part >= 8:
                stored = u64(part)
                part += 8
                missing -= 1
            if offset == 0xFFFFFFFFU and extra - part >= 8:
                offset = u64(part)
                part += 8
                missing -= 1
            if member_disk == 0xFFFF and extra - part >= 4:
                member_disk = u32(part)
            if missing:
                break
        elif field == 0x5455 and extra - part >= 5 and part[0] & 1:
            mtime = <int64_t>(<int32_t>u32(part + 1)) * 1000000000
        elif field == 0x7075 and extra - part > 5 and part[0] == 1:
            if u32(part + 1) == crc32(name, name_size):
                unicode_name = part + 5
                unicode_size = extra - unicode_name
    if missing:
        return BAD_ZIP64
    if not flags & 1 and (
        (method == 0 and stored != full)
        # Deflate gets at most 258 bytes out of two bits.
        or (method == 8 and full // 1032 > stored)
    ):
        return BAD_SIZE
    if offset > <uint64_t>1 << 62 or stored > <uint64_t>1 << 62 or full > <uint64_t>1 << 62:
        return BAD_OFFSET
    entry = &to.entries[to.rows]
    entry.index = to.rows
    entry.offset = 0
    entry.size = full
    entry.stored_size = stored
    entry.header_offset = offset + shift
    entry.mtime = mtime
    entry.crc = u32(data + 16)
    entry.shard = 0
    entry.mode = mode & 0o7777
    entry.method = method if member_disk == disk else METHOD_OTHER_DISK
    if name_size and name[name_size - 1] == c"/":
        entry.kind = KIND_DIRECTORY
    elif flags & 1:
        entry.kind = KIND_ENCRYPTED
    elif mode & 0o170000 == 0o120000:
        entry.kind = KIND_SYMLINK
    elif full or mode & 0o170000 in (0, 0o100000, 0o040000):
        # Even if its mode says otherwise: zip marks what it read from standard input as a FIFO.
        entry.kind = KIND_FILE
    else:
        entry.kind = KIND_OTHER
    to.digests[to.rows] = digest(name, name_size)
    to.lengths[to.rows] = <uint16_t>name_size
    if unicode_name != NULL:
        to.name_bytes += put_name(unicode_name, unicode_size, True, to.names + to.name_bytes)
    else:
        to.name_bytes += put_name(name, name_size, flags & 0x800, to.names + to.name_bytes)
    to.name_ends[to.rows] = to.name_bytes
    to.link_ends[to.rows] = to.name_bytes
    to.rows += 1
    return FINE


cdef int local(
    const uint8_t* data, Entry* entry, uint64_t name_digest, uint32_t name_size, uint64_t limit
) noexcept nogil:
    """Check a local header against its record and find where the data start.

    `data` holds the 30 fixed bytes and the name.
    """
    cdef uint32_t stored, full
    if memcmp(data, b"PK\x03\x04", 4) != 0:
        return BAD_SIGNATURE
    stored = u32(data + 18)
    full = u32(data + 22)
    entry.offset = entry.header_offset + 30 + u16(data + 26) + u16(data + 28)
    if entry.offset > limit or entry.stored_size > limit - entry.offset:
        return BAD_OFFSET
    if u16(data + 26) != name_size or digest(data + 30, name_size) != name_digest:
        # Only this member is refused, when it is read.
        entry.method = METHOD_OTHER_NAME
        return FINE
    if entry.kind != KIND_ENCRYPTED and u16(data + 8) != entry.method:
        entry.method = METHOD_CONTRADICTED
        return FINE
    # With a data descriptor, and from writers that do not go back, the local sizes are 0; with
    # ZIP64 they are all ones.
    if not u16(data + 6) & 8 and (
        (stored and stored != 0xFFFFFFFFU and stored != entry.stored_size)
        or (full and full != 0xFFFFFFFFU and full != entry.size)
    ):
        entry.method = METHOD_CONTRADICTED
    return FINE


cdef Py_ssize_t locals_in_window(
    const uint8_t* data, uint64_t start, uint64_t size, Columns* to, Py_ssize_t row,
    uint64_t limit, int64_t pause_at, int* code,
) noexcept nogil:
    """Take the local headers that are in the window, from `row` on.

    Returns the row that it stopped at: `code` is then FINE at the end, CUT where the window does
    not hold the header, and otherwise what is wrong with that row.
    """
    cdef Entry* entry
    cdef uint64_t need
    cdef Py_ssize_t first = row
    code[0] = FINE
    while row < to.rows:
        if row % ROWS_PER_CLOCK == 0 and row > first and monotonic_ns() >= pause_at:
            code[0] = PAUSE
            return row
        entry = &to.entries[row]
        if entry.method != METHOD_OTHER_DISK:
            need = 30 + <uint64_t>to.lengths[row]
            if entry.header_offset > limit or need > limit - entry.header_offset:
                code[0] = BAD_OFFSET
            elif entry.header_offset < start or entry.header_offset + need > start + size:
                code[0] = CUT
            else:
                code[0] = local(
                    data + (entry.header_offset - start), entry, to.digests[row], to.lengths[row], limit
                )
            if code[0] != FINE:
                return row
        row += 1
    return row


cdef Py_ssize_t locals_of_file(
    int fd, uint8_t* buffer, Columns* to, Py_ssize_t row, uint64_t limit, int* code, int* error
) noexcept nogil:
    """Likewise over a file descriptor: one read for many small members, one for a large one."""
    cdef uint64_t start = 0, filled = 0, want
    cdef Py_ssize_t got, stopped
    cdef Entry* entry
    cdef int64_t pause_at = monotonic_ns() + SIGNAL_INTERVAL
    cdef int reads = 0
    while True:
        stopped = locals_in_window(buffer, start, filled, to, row, limit, pause_at, code)
        if code[0] != CUT:
            return stopped
        row = stopped
        if reads and (reads == READS_PER_CALL or monotonic_ns() >= pause_at):
            code[0] = PAUSE
            return row
        reads += 1
        entry = &to.entries[row]
        want = 30 + <uint64_t>to.lengths[row]
        if entry.stored_size < NEAR:
            want = LOCAL_WINDOW * 2
        start = entry.header_offset
        if want > limit - start:
            want = limit - start
        filled = 0
        while filled < want:
            got = pread(fd, buffer + filled, want - filled, <off_t>(start + filled))
            if got < 0 and errno == EINTR:
                code[0] = PAUSE
                return row
            if got < 0:
                code[0], error[0] = SYSTEM_ERROR, errno
                return row
            if got == 0:
                break
            filled += got
        if filled < 30 + <uint64_t>to.lengths[row]:
            code[0] = UNREADABLE
            return row


cdef void bind(Columns* to, buffer, uint64_t[::1] digests, uint16_t[::1] lengths) except *:
    if digests.shape[0] < buffer.rows or lengths.shape[0] < buffer.rows:
        raise ValueError("each row needs a digest and a length")
    cdef Entry[::1] entries = buffer.entries
    cdef uint64_t[::1] name_ends = buffer.name_ends
    cdef uint64_t[::1] link_ends = buffer.link_ends
    cdef uint8_t[::1] names = buffer.names
    to.entries = &entries[0]
    to.name_ends = &name_ends[0]
    to.link_ends = &link_ends[0]
    to.names = &names[0]
    to.digests = &digests[0]
    to.lengths = &lengths[0]
    to.rows = buffer.rows
    to.name_bytes = buffer.name_bytes


def central_records(
    const uint8_t[::1] data not None, buffer, uint64_t[::1] digests not None,
    uint16_t[::1] lengths not None, int64_t shift, uint32_t disk,
):
    """Append the records that the window holds whole; return bytes taken, code, record length."""
    cdef Columns to
    cdef Py_ssize_t at = 0, size = data.shape[0], taken = 0
    cdef int code = FINE
    # The caller reserves; nothing is written beyond what it reserved.
    if (
        len(buffer.entries) - buffer.rows < size // 46 + 1
        or len(buffer.names) - buffer.name_bytes < 3 * size + 1
        or digests.shape[0] < len(buffer.entries)
        or lengths.shape[0] < len(buffer.entries)
    ):
        raise ValueError("reserve rows and name bytes for the whole window first")
    bind(&to, buffer, digests, lengths)
    with nogil:
        while at < size:
            code = central(&data[at], size - at, &to, shift, disk, &taken)
            if code != FINE:
                break
            at += taken
    buffer.rows = to.rows
    buffer.name_bytes = to.name_bytes
    return at, code, taken


def local_headers(
    const uint8_t[::1] window not None, uint64_t start, buffer, uint64_t[::1] digests not None,
    uint16_t[::1] lengths not None, Py_ssize_t row, uint64_t limit,
):
    """Find the data of the rows from `row` on; return the row it stopped at and a code."""
    cdef Columns to
    cdef int code = FINE
    cdef uint64_t size = window.shape[0]
    cdef const uint8_t* data = &window[0] if size else NULL
    bind(&to, buffer, digests, lengths)
    with nogil:
        row = locals_in_window(
            data, start, size, &to, row, limit, monotonic_ns() + SIGNAL_INTERVAL, &code
        )
    return row, code


def local_headers_of_file(
    int fd, buffer, uint64_t[::1] digests not None, uint16_t[::1] lengths not None,
    Py_ssize_t row, uint64_t limit,
):
    """Likewise, reading the headers from a file descriptor; return also the system's error number."""
    cdef Columns to
    cdef int code = FINE, error = 0
    cdef uint8_t[::1] scratch = bytearray(2 * LOCAL_WINDOW)
    bind(&to, buffer, digests, lengths)
    with nogil:
        row = locals_of_file(fd, &scratch[0], &to, row, limit, &code, &error)
    return row, code, error
