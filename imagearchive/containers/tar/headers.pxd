"""The kernel that walks the headers of a TAR archive; `imagearchive.containers.tar.scan` drives it."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from imagearchive.containers.entry cimport Entry
from imagearchive.containers.tar.pax cimport Globals

cdef enum Code:
    DONE
    MORE           # the window must cover [offset, need)
    FULL           # the arrays need room for one row and `need_names` bytes
    PAUSE          # nothing is wrong; lets Python look at signals
    STOPPED        # the next group begins at `stop` or later
    UNCERTAIN      # what follows depends on headers before the place where a run began
    SYSTEM_ERROR   # pread failed
    SHRUNK         # the file ended before its size
    NOT_TAR
    BAD_HEADER
    BAD_NUMBER
    BAD_PAX
    BAD_SPARSE
    ORPHAN
    TOO_LONG
    CUT_HEADER
    CUT_DATA
    CUT_PADDING

cdef enum Variant:
    PLAIN
    SPARSE_OLD     # type S: in the header and the blocks after it
    SPARSE_0_0     # PAX, a pair of records for each part
    SPARSE_0_1     # PAX, one record with the whole map
    SPARSE_1_0     # the map is before the data

cdef struct State:
    const uint8_t* window
    uint64_t start        # position of the window's first byte
    uint64_t length
    uint64_t file_size
    uint64_t begin        # where the scan began
    uint64_t offset       # the next group of headers
    uint64_t stop         # no group that begins here or later is read
    bint speculative      # see `Cursor.speculate`
    uint64_t need
    uint64_t touched      # end of the last header that was read
    uint64_t fault        # where the error is
    uint64_t cut_name     # in `names`: the name of the member that the end of the file cuts
    uint64_t cut_name_size
    bint zeros            # the block before `offset` was zero
    uint64_t blank        # the first of those
    Entry* entries        # the rows from `first_row` on
    uint64_t first_row
    uint64_t* name_ends
    uint64_t* link_ends
    uint8_t* names
    uint64_t rows
    uint64_t row_capacity
    uint64_t name_bytes
    uint64_t name_capacity
    uint64_t need_names
    int variant           # of the last row
    uint64_t map_at       # header, records or data that hold the map of the last row
    uint64_t map_size
    uint64_t read_size
    uint64_t steps        # of `walk`, to look at the clock now and then
    int64_t pause_at      # the monotonic time in nanoseconds of the next PAUSE
    Globals globals

cdef int walk(State* s) noexcept nogil
cdef uint64_t first_header(const uint8_t* window, uint64_t length) noexcept nogil
cdef int fetch(State* s, int fd, uint8_t* buffer, uint64_t capacity) noexcept nogil
