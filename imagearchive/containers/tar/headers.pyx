"""The kernel: windows of an archive's bytes in, rows out.

It takes a window of bytes and the position where it starts, fills rows until the window or the
arrays end, and says which bytes it needs next. It allocates nothing, and keeps no pointer beyond
the call: `State` holds what must survive from window to window. A group of headers
(PAX or GNU long names with the member they describe) that the window cuts is left for the next
one, so the rows do not depend on how the file was cut into windows.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from imagearchive.containers.clock cimport monotonic_ns
from imagearchive.containers.tar.fields cimport (
    BLOCK, decimal, is_zero, seconds_to_ns, tar_checksum, tar_number, text_size, to_block,
)
from imagearchive.containers.entry cimport (
    KIND_CONTINUATION, KIND_DIRECTORY, KIND_FILE, KIND_HARDLINK, KIND_OTHER, KIND_SPARSE,
    KIND_SYMLINK, Entry,
)
from imagearchive.containers.tar.pax cimport (
    PAX_GOOD, PAX_LIMIT, PAX_NUMBER, Attributes, adopt, clear, forget, pax_records, set_globals,
)

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void* buffer, size_t count, int64_t offset)

cdef enum:
    RECORD_LIMIT = 0x100000   # 1 MiB: a long name, or the records of one PAX header
    GROUP_LIMIT = 0x1000000   # 16 MiB: all headers of one member, with the map of a sparse one
    ZEROS_LIMIT = 0x4000000  # 64 MiB: zeros after an archive in which another one is looked for
    FIRST_READ = 4096
    LARGEST_READ = 0x40000
    # Headers further apart than this are fetched one by one: copying the bytes between them would
    # take longer than another system call.
    HOP = 0x3000
    STEPS_PER_CLOCK = 16


# --- headers --------------------------------------------------------------------------------

cdef inline const uint8_t* at(State* s, uint64_t position, uint64_t size) noexcept nogil:
    """The bytes from `position`, or NULL where the window does not hold them all."""
    cdef uint64_t end = position + size
    if position < s.start or end > s.start + s.length:
        s.need = end
        return NULL
    if end > s.touched:
        s.touched = end
    return s.window + (position - s.start)


cdef inline int failed(State* s, uint64_t position, int code) noexcept nogil:
    s.fault = position
    return code


cdef int map_before_data(State* s, uint64_t data, uint64_t stored, uint64_t* size) noexcept nogil:
    """Bytes of a sparse map 1.0: the count, then two numbers a part, each closed by a newline."""
    cdef uint64_t used = 0, lines = 1, seen = 0
    cdef int64_t number = 0
    cdef const uint8_t* block
    cdef int i
    while seen < lines:
        if used >= stored or used >= GROUP_LIMIT:
            return failed(s, data, BAD_SPARSE)
        if s.file_size - data < used + BLOCK:
            return failed(s, data, CUT_HEADER)
        block = at(s, data + used, BLOCK)
        if block == NULL:
            return MORE
        for i in range(BLOCK):
            if block[i] == c"\n":
                if seen == 0:
                    if used or not decimal(block, i, &number) or number > GROUP_LIMIT:
                        return failed(s, data, BAD_SPARSE)
                    lines += 2 * <uint64_t> number
                seen += 1
                if seen == lines:
                    break
        used += BLOCK
    if used > stored:
        return failed(s, data, BAD_SPARSE)
    size[0] = used
    return DONE


cdef int member(
    State* s, uint64_t group, uint64_t position, const uint8_t* header, Attributes* found
) noexcept nogil:
    """Append the row of a member whose header is at `position`."""
    cdef uint64_t data = position + BLOCK, stored, extra = 0, size
    cdef uint64_t name_size, prefix_size = 0, link_size = 0, end
    cdef int64_t number, mtime, mode
    cdef const uint8_t* block
    cdef const uint8_t* name = header
    cdef const uint8_t* link = header + 157
    cdef uint8_t* out
    cdef uint8_t flag = header[156]
    cdef int kind, code, variant = PLAIN
    cdef Entry* entry

    # Size: what the member takes in the archive, and from it the step to the next header.
    if not tar_number(header + 124, 12, &number) or number < 0:
        return failed(s, position, BAD_NUMBER)
    if found.size >= 0:
        number = found.size
    elif s.globals.size >= 0:
        number = s.globals.size
    stored = <uint64_t> number

    name_size = text_size(header, 100)
    if found.path_size:
        name, name_size = found.path, found.path_size
    elif s.globals.path_size:
        name, name_size = s.globals.path, s.globals.path_size
    elif flag != c"S" and header[345] and memcmp(header + 257, b"ustar\0", 6) == 0:
        # GNU's old header has times where POSIX has the prefix.
        prefix_size = text_size(header + 345, 155)
    if flag == c"1":
        kind = KIND_HARDLINK
    elif flag == c"2":
        kind = KIND_SYMLINK
    elif flag == c"5" or (flag == 0 and name_size and name[name_size - 1] == c"/"):
        kind = KIND_DIRECTORY
    elif flag == c"3" or flag == c"4" or flag == c"6":
        kind = KIND_OTHER
    else:
        kind = KIND_FILE
    # No data follows these, even if their size is not 0.
    if kind != KIND_FILE:
        stored = 0
    elif flag == c"D":
        kind = KIND_DIRECTORY  # GNU's list of a directory's files
    elif flag == c"M":
        kind = KIND_CONTINUATION
    elif flag == c"N" or flag == c"V":
        kind = KIND_OTHER      # old long names, the volume's label

    size = stored
    if flag == c"S":
        variant = SPARSE_OLD
        s.map_at, s.map_size = position, 0
        if not tar_number(header + 483, 12, &number) or number < 0:
            return failed(s, position, BAD_NUMBER)
        block = header + 482
        while block[0]:
            if data - group > GROUP_LIMIT:
                return failed(s, group, TOO_LONG)
            if s.file_size - data < BLOCK:
                return failed(s, data, CUT_HEADER)
            block = at(s, data, BLOCK)
            if block == NULL:
                return MORE
            block += 504
            data += BLOCK
    elif kind == KIND_FILE and found.sparse:
        # Of any type, known or not, as GNU tar and `tarfile` have it.
        s.map_at, s.map_size = found.map_at, found.map_size
        number = found.real_size
        if found.sparse_map:
            variant = SPARSE_0_1
        elif found.sparse_size:
            variant = SPARSE_0_0
        elif found.sparse_major and found.sparse_minor:
            variant = SPARSE_1_0
            code = map_before_data(s, data, stored, &extra)
            if code != DONE:
                return code
            s.map_at, s.map_size = data, extra
            data += extra
            stored -= extra
        # Half a description: without the other half, holes and map would be taken for data.
        if variant == PLAIN or number < 0:
            return failed(s, position, BAD_SPARSE)
    if variant:
        kind = KIND_SPARSE
        size = <uint64_t> number
    elif kind != KIND_FILE:
        size = 0

    if kind == KIND_HARDLINK or kind == KIND_SYMLINK:
        link_size = text_size(link, 100)
        if found.link_size:
            link, link_size = found.link, found.link_size
        elif s.globals.link_size:
            link, link_size = s.globals.link, s.globals.link_size
    s.need_names = prefix_size + 1 + name_size + link_size
    if s.need_names > s.name_capacity - s.name_bytes:
        return FULL
    out = s.names + s.name_bytes
    if prefix_size:
        memcpy(out, header + 345, prefix_size)
        out[prefix_size] = c"/"
        prefix_size += 1
    memcpy(out + prefix_size, name, name_size)
    name_size += prefix_size
    end = data + to_block(stored)
    if end > s.file_size:
        # For the error, since not every cut member gets a row.
        s.cut_name, s.cut_name_size = s.name_bytes, name_size
    if stored > s.file_size - data:
        return failed(s, position, CUT_DATA)
    if flag == c"V":
        # The label of the volume is not a member: GNU tar extracts nothing.
        s.zeros = False
        s.offset = end if end <= s.file_size else s.file_size
        return DONE if end <= s.file_size else failed(s, position, CUT_PADDING)
    s.name_bytes += name_size
    s.name_ends[s.rows] = s.name_bytes
    memcpy(out + name_size, link, link_size)
    s.name_bytes += link_size
    s.link_ends[s.rows] = s.name_bytes

    if found.has_mtime:
        mtime = found.mtime
    elif s.globals.has_mtime:
        mtime = s.globals.mtime
    elif tar_number(header + 136, 12, &mtime):
        mtime = seconds_to_ns(mtime, 0)
    else:
        mtime = 0
    entry = s.entries + (s.rows - s.first_row)
    entry.index = s.rows
    entry.offset = data
    entry.size = size
    entry.stored_size = stored
    entry.header_offset = group
    entry.mtime = mtime
    entry.crc = 0
    entry.shard = 0
    entry.mode = (mode & 0o7777) if tar_number(header + 100, 8, &mode) else 0
    entry.method = 0
    entry.kind = kind
    s.variant = variant
    s.rows += 1
    s.zeros = False
    s.offset = end if end <= s.file_size else s.file_size
    return DONE if end <= s.file_size else failed(s, position, CUT_PADDING)


cdef int group(State* s) noexcept nogil:
    """Take the headers from `s.offset` up to and with a member's."""
    cdef uint64_t start = s.offset, position = s.offset, size, end
    cdef int64_t number
    cdef const uint8_t* header
    cdef const uint8_t* payload
    cdef uint8_t flag
    cdef int code
    cdef bint described = False
    cdef Attributes found, records
    while True:
        if s.file_size - position < BLOCK:
            return failed(s, start, ORPHAN if s.file_size == position else CUT_HEADER)
        header = at(s, position, BLOCK)
        if header == NULL:
            return MORE
        if not tar_checksum(header):
            if position != start:
                return failed(s, position, ORPHAN)
            if s.zeros:
                return failed(s, position, DONE)
            return failed(s, position, BAD_HEADER if position else NOT_TAR)
        flag = header[156]
        if flag == c"g" and s.speculative:
            return failed(s, position, UNCERTAIN)
        if not (flag == c"x" or flag == c"g" or flag == c"L" or flag == c"K" or flag == c"X"):
            if not described:
                clear(&found)
            return member(s, start, position, header, &found)
        if not tar_number(header + 124, 12, &number) or number < 0:
            return failed(s, position, BAD_NUMBER)
        size = <uint64_t> number
        if size > RECORD_LIMIT or position - start > GROUP_LIMIT:
            return failed(s, position, TOO_LONG)
        end = position + BLOCK + to_block(size)
        if end > s.file_size:
            return failed(s, position, CUT_HEADER)
        payload = at(s, position + BLOCK, to_block(size))
        if payload == NULL:
            return MORE
        if not described:
            clear(&found)
            described = True
        clear(&records)
        # As in GNU tar and `tarfile`, a name ends with its NUL or block, whatever its size says.
        if flag == c"L":
            records.path, records.path_size = payload, text_size(payload, to_block(size))
        elif flag == c"K":
            records.link, records.link_size = payload, text_size(payload, to_block(size))
        else:
            records.map_at, records.map_size = position + BLOCK, size
            code = pax_records(payload, size, &records)
            if code == PAX_GOOD and flag == c"g":
                code = set_globals(&s.globals, &records)
            if code == PAX_LIMIT:
                return failed(s, position, TOO_LONG)
            if code != PAX_GOOD:
                return failed(s, position, BAD_NUMBER if code == PAX_NUMBER else BAD_PAX)
        if flag != c"g":
            adopt(&found, &records)
        elif position == start:
            # A global header needs no member after it: the archive may end here.
            s.offset = end
            s.zeros = False
            return DONE
        position = end


cdef int walk(State* s) noexcept nogil:
    """Fill rows until the window, the arrays or the archive end."""
    cdef uint64_t left, here, rows, name_bytes
    cdef const uint8_t* block
    cdef int code
    s.touched = s.start
    while True:
        s.steps += 1
        if s.steps % STEPS_PER_CLOCK == 0 and monotonic_ns() >= s.pause_at:
            return PAUSE
        if s.offset >= s.stop:
            return STOPPED
        left = s.file_size - s.offset
        if left == 0:
            return DONE
        if s.rows == s.row_capacity:
            s.need_names = 0
            return FULL
        block = at(s, s.offset, left if left < BLOCK else BLOCK)
        if block == NULL:
            return MORE
        if left < BLOCK:
            # The rest of an end block, cut short, loses nothing.
            if s.offset and is_zero(block, left):
                s.offset = s.file_size
                return DONE
            if s.zeros:
                return DONE
            return failed(s, s.offset, CUT_HEADER)
        if block[0] == 0 and is_zero(block, BLOCK):
            if not s.zeros:
                # Global headers end with their archive; another may follow.
                s.zeros, s.blank = True, s.offset
                forget(&s.globals)
            elif s.offset - s.blank >= ZEROS_LIMIT:
                # A hole may go on for exbibytes.
                return DONE
            s.offset += BLOCK
            continue
        here, rows, name_bytes = s.offset, s.rows, s.name_bytes
        code = group(s)
        if code != DONE and s.speculative:
            # Whoever joins the run reads this group again, and finds the damage.
            s.offset, s.rows, s.name_bytes = here, rows, name_bytes
        if code != DONE or s.offset == here:
            return code


cdef uint64_t first_header(const uint8_t* window, uint64_t length) noexcept nogil:
    """Where the first block is that could be a header; where the last block ends, if none is."""
    cdef uint64_t at = 0
    while at + BLOCK <= length and not (window[at] and tar_checksum(window + at)):
        at += BLOCK
    return at


cdef int fetch(State* s, int fd, uint8_t* buffer, uint64_t capacity) noexcept nogil:
    """Walk a file through a window of `pread`: wide over small members, narrow between large."""
    cdef uint64_t done, size, rows, from_offset
    cdef ssize_t count
    cdef int code
    while True:
        rows, from_offset = s.rows, s.offset
        code = walk(s)
        if code != MORE:
            return code
        if s.start == s.offset and s.length:
            # The window cuts a group. One that was used up when the arrays were full does not.
            s.read_size = 2 * s.length
        elif s.rows > rows and s.offset - from_offset > HOP * (s.rows - rows):
            s.read_size = BLOCK
            while s.read_size < FIRST_READ and s.read_size < s.touched - s.start:
                s.read_size *= 2
        elif s.length and s.read_size < LARGEST_READ:
            s.read_size *= 2
        size = s.need - s.offset
        if size < s.read_size:
            size = s.read_size
        # Until it is filled again, the window holds nothing: the caller may free the buffer.
        s.window = buffer
        s.start = s.offset
        s.length = 0
        if size > capacity:
            s.read_size = size
            return MORE
        if size > s.file_size - s.offset:
            size = s.file_size - s.offset
        done = 0
        while done < size:
            count = pread(fd, buffer + done, size - done, <int64_t> (s.offset + done))
            if count < 0:
                if errno == EINTR:
                    return PAUSE
                return failed(s, <uint64_t> errno, SYSTEM_ERROR)
            if count == 0:
                return failed(s, s.offset + done, SHRUNK)
            done += count
        s.length = size
        if monotonic_ns() >= s.pause_at:
            return PAUSE
