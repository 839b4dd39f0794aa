"""What extended headers say about the member after them: PAX records, GNU's long names."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from imagearchive.containers.tar.fields cimport decimal, pax_time

cdef enum:
    GLOBAL_LIMIT = 4096  # a name in a global header: it would be repeated for every member

cdef enum PaxCode:
    PAX_GOOD
    PAX_NUMBER
    PAX_FRAME
    PAX_LIMIT

cdef struct Globals:
    int64_t size          # -1: not given
    int64_t mtime
    bint has_mtime
    uint64_t path_size    # 0: not given
    uint64_t link_size
    uint8_t path[GLOBAL_LIMIT]
    uint8_t link[GLOBAL_LIMIT]

cdef struct Attributes:
    const uint8_t* path
    const uint8_t* link
    uint64_t path_size
    uint64_t link_size
    int64_t size          # -1: not given
    int64_t real_size     # -1: not given
    int64_t mtime
    bint has_mtime
    bint sparse           # some GNU.sparse record was seen
    bint sparse_path      # GNU.sparse.name was seen: path is only a stand-in
    bint sparse_size
    bint sparse_map
    bint sparse_major
    bint sparse_minor
    uint64_t map_at       # the records that hold the map
    uint64_t map_size


cdef inline bint is_key(
    const uint8_t* key, uint64_t size, const char* other, uint64_t other_size
) noexcept nogil:
    return size == other_size and memcmp(key, other, size) == 0


cdef inline int pax_record(
    const uint8_t* key, uint64_t key_size, const uint8_t* text, uint64_t size, Attributes* out
) noexcept nogil:
    """Take one keyword; others than the few that matter here are passed over."""
    cdef int64_t number
    if is_key(key, key_size, b"path", 4):
        if not out.sparse_path:
            out.path, out.path_size = text, size
    elif is_key(key, key_size, b"linkpath", 8):
        out.link, out.link_size = text, size
    elif is_key(key, key_size, b"size", 4):
        # An empty value takes back what an earlier record said.
        out.size = -1
        if size and not decimal(text, size, &out.size):
            return PAX_NUMBER
    elif is_key(key, key_size, b"mtime", 5):
        out.has_mtime = pax_time(text, size, &out.mtime)
    elif key_size > 11 and memcmp(key, b"GNU.sparse.", 11) == 0:
        key, key_size = key + 11, key_size - 11
        out.sparse = True
        if is_key(key, key_size, b"name", 4):
            out.path, out.path_size, out.sparse_path = text, size, True
        elif is_key(key, key_size, b"realsize", 8) or is_key(key, key_size, b"size", 4):
            if not decimal(text, size, &out.real_size):
                return PAX_NUMBER
            out.sparse_size = out.sparse_size or key_size == 4
        elif is_key(key, key_size, b"map", 3):
            out.sparse_map = True
        elif is_key(key, key_size, b"major", 5):
            out.sparse_major = decimal(text, size, &number) and number == 1
        elif is_key(key, key_size, b"minor", 5):
            out.sparse_minor = decimal(text, size, &number) and number == 0
    return PAX_GOOD


cdef inline int pax_records(const uint8_t* data, uint64_t size, Attributes* out) noexcept nogil:
    """Parse "length keyword=value\\n" records until the end or the first NUL."""
    cdef uint64_t position = 0, i, length, end, key
    cdef inline int code
    while position < size and data[position] != 0:
        length = 0
        i = position
        while i < size and c"0" <= data[i] <= c"9":
            length = 10 * length + (data[i] - c"0")
            if length > size - position:
                return PAX_FRAME
            i += 1
        if length < 5 or i >= size or data[i] != c" ":
            return PAX_FRAME
        end = position + length - 1
        key = i = i + 1
        while i < end and data[i] != c"=":
            i += 1
        if data[end] != c"\n" or i == key or i >= end:
            return PAX_FRAME
        code = pax_record(data + key, i - key, data + i + 1, end - i - 1, out)
        if code != PAX_GOOD:
            return code
        position += length
    return PAX_GOOD


cdef inline void adopt(Attributes* group, const Attributes* other) noexcept nogil:
    """Add the attributes of a later header of a group; those that came first win."""
    if group.path_size == 0:
        group.path, group.path_size = other.path, other.path_size
    if group.link_size == 0:
        group.link, group.link_size = other.link, other.link_size
    if group.size < 0:
        group.size = other.size
    if not group.has_mtime:
        group.mtime, group.has_mtime = other.mtime, other.has_mtime
    if other.sparse and not group.sparse:
        group.sparse = True
        group.real_size = other.real_size
        group.sparse_map, group.sparse_size = other.sparse_map, other.sparse_size
        group.sparse_major, group.sparse_minor = other.sparse_major, other.sparse_minor
        group.map_at, group.map_size = other.map_at, other.map_size


cdef inline int set_globals(Globals* target, const Attributes* source) noexcept nogil:
    if source.path_size > GLOBAL_LIMIT or source.link_size > GLOBAL_LIMIT:
        return PAX_LIMIT
    if source.path != NULL:
        memcpy(target.path, source.path, source.path_size)
        target.path_size = source.path_size
    if source.link != NULL:
        memcpy(target.link, source.link, source.link_size)
        target.link_size = source.link_size
    if source.size >= 0:
        target.size = source.size
    if source.has_mtime:
        target.mtime, target.has_mtime = source.mtime, True
    return PAX_GOOD


cdef inline void forget(Globals* globals) noexcept nogil:
    globals.size = -1
    globals.path_size = globals.link_size = 0
    globals.has_mtime = False


cdef inline void clear(Attributes* attributes) noexcept nogil:
    memset(attributes, 0, sizeof(Attributes))
    attributes.size = -1
    attributes.real_size = -1


