"""TAR archives: v7, ustar, GNU, PAX, with every way of storing sparse files.

The parsing is in `imagearchive.containers.tar.headers`; here its codes become exceptions, and storages
are cut into windows.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memset

from imagearchive.containers.clock cimport SIGNAL_INTERVAL, monotonic_ns
from imagearchive.containers.tar.fields cimport BLOCK, tar_checksum
from imagearchive.containers.entry cimport Entry
from imagearchive.containers.tar.headers cimport (
    BAD_HEADER, BAD_NUMBER, BAD_PAX, BAD_SPARSE, CUT_DATA, CUT_HEADER, CUT_PADDING, DONE, FULL,
    MORE, NOT_TAR, ORPHAN, PAUSE, SHRUNK, STOPPED, SYSTEM_ERROR, TOO_LONG, UNCERTAIN, State, fetch,
    first_header, walk,
)

import logging
import os

from imagearchive.containers.rows import RowBuffer
from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.arguments import shorten
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.protocol import UNKNOWN_SIZE


logger = logging.getLogger(__name__)

cdef enum:
    CACHE_LINE = 64
    FIRST_WINDOW = 0x10000
    NARROW_WINDOW = 0x1000
    # From one header to the next, beyond which it is faster to read only the headers.
    HOP = 0x3000
    # Views of memory cost nothing, whatever their size; this bounds what a storage that copies
    # takes.
    VIEW_WINDOW = 0x4000000
    # A run that would need a larger window for the headers of one member ends instead.
    SPECULATIVE_WINDOW = 0x200000

cdef dict messages = {
    NOT_TAR: "this is not a TAR archive, or its first header is damaged",
    BAD_HEADER: "the checksum of the header does not fit: the archive is damaged here, or a "
    "length before it is wrong",
    BAD_NUMBER: "a number in the header cannot be read, is negative or exceeds 64 bits",
    BAD_PAX: "the records of the PAX header are malformed",
    BAD_SPARSE: "the description of the sparse file is malformed, or of a version after 1.0",
    ORPHAN: "no member follows the long name or PAX header",
    TOO_LONG: "a name or PAX header exceeds 1 MiB, or the headers of one member 16 MiB; no tar "
    "program writes such headers, so they are refused",
    CUT_HEADER: "the file ends inside a header: it is truncated",
    CUT_DATA: "the data of the member{name} extends beyond the end of the file: it is truncated",
    CUT_PADDING: "the file ends inside the padding after the member{name}: it is truncated",
    SHRUNK: "the file became shorter while it was read",
}

@cython.final
cdef class Cursor:
    """The position of a scan between two windows.

    Not safe for threads: one cursor, one scan.

    Parameters
    ----------
    file_size : int
        Length of the archive in bytes.
    offset : int, default=0
        Where to start: the first byte of a member's headers.

    Attributes
    ----------
    offset : int
        The first byte that the next window must hold.
    need : int
        The position just after the last byte that the next window must hold.
    done : bool
        The archive ended at `offset`.
    """

    cdef State state
    cdef readonly bint done
    cdef bint cancelled
    # The code with which `advance` ended, or PAUSE. Scanning on would not find the damage again
    # where the last member is cut.
    cdef int ended
    # What was read last from a storage without a descriptor, and where it starts.
    cdef object window
    cdef uint64_t window_start

    def __init__(self, file_size, offset=0):
        if not 0 <= offset <= file_size <= INT64_MAX:
            raise ValueError(f"offset {offset} must be within a file of {file_size} < 2**63 bytes")
        memset(&self.state, 0, sizeof(State))
        self.state.file_size = file_size
        self.state.offset = offset
        self.state.need = min(offset + BLOCK, file_size)
        self.state.begin = offset
        self.state.stop = UINT64_MAX
        self.state.globals.size = -1
        self.state.read_size = 4096
        self.window = b""
        self.ended = PAUSE

    @staticmethod
    def speculate(file_size, offset, stop):
        """Begin a run at what may be a member, without the members before it.

        A run reads what a scan reads that arrives at one of its rows and has no global headers. It
        ends before what it cannot be sure of: damage, and global headers.

        Parameters
        ----------
        file_size, offset : int
            As for a scan.
        stop : int
            The run ends before the first member that begins here or later.
        """
        cdef Cursor cursor = Cursor(file_size, offset)
        cursor.state.stop = stop
        cursor.state.speculative = True
        return cursor

    def join(self, Cursor run not None):
        """Go on where a run ended, of which this scan has arrived at a row."""
        cdef State* s = &self.state
        s.offset, s.zeros, s.blank = run.state.offset, run.state.zeros, run.state.blank
        s.need = min(s.offset + BLOCK, s.file_size)
        self.window = b""

    def cancel(self):
        """End the scan soon, from another thread."""
        self.cancelled = True

    @property
    def has_globals(self):
        """Whether the members depend on a global header before them."""
        cdef State* s = &self.state
        return bool(
            s.globals.size >= 0 or s.globals.path_size or s.globals.link_size
            or s.globals.has_mtime
        )

    @property
    def offset(self):
        return self.state.offset

    @property
    def need(self):
        return self.state.need


cdef int step(Cursor cursor, object rows, int fd, uint8_t* scratch, uint64_t capacity) except -1:
    """Run the kernel once, on the window that is set or on a descriptor; return its code.

    Signal handlers run first, so a caller that goes on after PAUSE can be interrupted.
    """
    cdef State* s = &cursor.state
    cdef Entry[::1] entries = rows.window
    cdef uint64_t[::1] name_ends = rows.name_ends
    cdef uint64_t[::1] link_ends = rows.link_ends
    cdef uint8_t[::1] names = rows.names
    cdef int code
    PyErr_CheckSignals()
    if cursor.cancelled:
        return STOPPED
    if cursor.ended != PAUSE:
        return cursor.ended
    s.pause_at = monotonic_ns() + SIGNAL_INTERVAL
    s.first_row = rows.first
    s.row_capacity = min(
        rows.first + entries.shape[0], name_ends.shape[0], link_ends.shape[0]
    )
    s.name_capacity = names.shape[0]
    s.rows = rows.rows
    s.name_bytes = rows.name_bytes
    if s.rows >= s.row_capacity or s.name_bytes >= s.name_capacity:
        s.need_names = 1
        return FULL
    s.entries = &entries[0]
    s.name_ends = &name_ends[0]
    s.link_ends = &link_ends[0]
    s.names = &names[0]
    if fd >= 0:
        with nogil:
            code = fetch(s, fd, scratch, capacity)
    else:
        with nogil:
            code = walk(s)
    rows.rows = s.rows
    rows.name_bytes = s.name_bytes
    cursor.done = code == DONE
    return code


cdef int step_window(
    Cursor cursor, object rows, const uint8_t[::1] window, uint64_t start
) except -1:
    """Run the kernel on a window until it is used up; return its code."""
    cdef State* s = &cursor.state
    cdef uint8_t nothing = 0
    cdef int code = FULL
    while code == FULL or code == PAUSE:
        s.window = &window[0] if window.shape[0] else &nothing
        s.start = start
        s.length = window.shape[0]
        code = step(cursor, rows, -1, NULL, 0)
        if code == FULL:
            grow(cursor, rows)
    return code


cdef void grow(Cursor cursor, object rows) except *:
    """Room for the rest of the archive, if it goes on as it began; at most eightfold."""
    cdef State* s = &cursor.state
    cdef uint64_t filled = s.rows, more, text, end = min(s.stop, s.file_size)
    if (
        rows.pack_window() and filled < <uint64_t> len(rows.name_ends)
        and s.need_names <= s.name_capacity - s.name_bytes
    ):
        return
    more = filled + 1
    if s.offset > s.begin:
        more = 0
        if end > s.offset:
            more = min(
                <uint64_t> (<double> filled * (end - s.offset) / (s.offset - s.begin)), 7 * filled
            )
        more = max(more + more // 16 + 1, filled // 2 + 16)
    text = s.need_names
    if filled:
        text += <uint64_t> (<double> s.name_bytes / filled * 1.0625 * more)
    rows.reserve(more, text)


cdef str describe(Cursor cursor, object rows, int code):
    cdef State* s = &cursor.state
    name = ""
    if s.cut_name_size:
        raw = rows.names[s.cut_name:s.cut_name + s.cut_name_size].tobytes()
        name = " " + shorten(raw.decode("utf-8", "surrogateescape"))
    return (<str> messages[code]).format(name=name)


cdef object scan_error(
    Cursor cursor, object rows, object path, int code, str advice, tuple hints=()
):
    cdef State* s = &cursor.state
    if code == SYSTEM_ERROR:
        return OSError(<int> s.fault, os.strerror(<int> s.fault), path)
    return CorruptArchiveError(
        f"{path}: offset {s.fault}: {describe(cursor, rows, code)}. {advice}", hints=hints
    )


cdef tuple use_rest(Cursor cursor):
    members = pluralize(cursor.state.rows, "member")
    return Hint("strict=False", f"to read the {members} before this place"),


def scan_window(window, start, rows, Cursor cursor not None, path="<memory>"):
    """Scan one window of an archive.

    Parameters
    ----------
    window : bytes-like
        Bytes of the archive; must hold ``[cursor.offset, cursor.need)`` for the scan to go on.
    start : int
        Position of the window's first byte in the archive.
    rows : RowBuffer
        Where the rows are appended.
    cursor : Cursor
        Moves on past the members that the window held.
    path : str
        What to call the archive in messages.

    Raises
    ------
    CorruptArchiveError
        At the first damage; `rows` holds the members before it.
    """
    cdef int code
    if start < 0 or start + len(window) > cursor.state.file_size:
        raise ValueError("the window must be within the file")
    code = step_window(cursor, rows, window, start)
    if code != DONE and code != MORE:
        raise scan_error(cursor, rows, path, code, "Fetch the archive again", use_rest(cursor))


def advance(storage, rows, Cursor cursor not None, stop=None):
    """Scan until a member begins at `stop` or later, or until the scan ends.

    Parameters
    ----------
    storage : Storage
    rows : RowBuffer
        Where the rows are appended.
    cursor : Cursor
        Moves on past what was read.
    stop : int, optional
        By default, that of the cursor.

    Returns
    -------
    bool
        Whether the scan has come to `stop`, and goes on there.
    """
    cdef uint64_t before = cursor.state.stop
    cdef int code
    if stop is not None:
        cursor.state.stop = stop
    try:
        if hasattr(storage, "fileno"):
            code = scan_descriptor(cursor, rows, storage.fileno())
        else:
            code = scan_storage(cursor, rows, storage, None)
    finally:
        cursor.state.stop = before
    if code != STOPPED:
        cursor.ended = code
    return code == STOPPED


def find_header(window):
    """Return where the first block is that could be a header; the length of all if none is.

    Parameters
    ----------
    window : bytes-like
        Begins where a block begins.
    """
    cdef const uint8_t[::1] view = window
    if view.shape[0] == 0:
        return 0
    return first_header(&view[0], view.shape[0])


def scan(storage, strict=True, visit=None, first=None):
    """Read the headers of a whole archive.

    A storage with ``fileno()`` is read by `pread`, with the GIL released; any other one through
    its ``read``, in windows.

    Parameters
    ----------
    storage : Storage
        The archive.
    strict : bool, default=True
        Raise at the first damage. False serves the members before it and logs the loss.
    visit : callable, optional
        See `imagearchive.containers.container.Container.scan_and_visit`.
    first : callable, optional
        Called with the storage, the rows, and a cursor; may scan a part of the archive.

    Returns
    -------
    RowBuffer
        Every member in archive order, with names and link targets as stored.

    Raises
    ------
    CorruptArchiveError
        The archive is truncated or damaged; the message holds the offset.
    """
    cdef Cursor cursor = Cursor(storage.size)
    cdef State* s = &cursor.state
    cdef int code
    path = storage.path
    # A visitor looks at rows by number.
    rows = RowBuffer(packs=visit is None and hasattr(storage, "fileno"))
    if first is not None:
        first(storage, rows, cursor)
    if hasattr(storage, "fileno"):
        code = scan_descriptor(cursor, rows, storage.fileno())
        if visit is not None:
            visit(rows, 0, rows.rows)
    else:
        code = scan_storage(cursor, rows, storage, visit)
    if code == SYSTEM_ERROR:
        raise scan_error(cursor, rows, path, code, "Fetch the archive again", use_rest(cursor))
    if not s.file_size:
        code = NOT_TAR
    if code != DONE:
        if strict:
            raise scan_error(cursor, rows, path, code, "Fetch the archive again", use_rest(cursor))
        logger.warning(
            "%s: offset %d: %s; the %s before it can be read, and the rest is lost",
            path, s.fault, describe(cursor, rows, code), pluralize(s.rows, "member"),
        )
    elif s.offset < s.file_size and s.file_size < UNKNOWN_SIZE:
        # GNU tar ends at the same place; but a block of zeros may also be the damage.
        logger.warning(
            "%s: the archive ends at offset %d; %s ignored, because no TAR header begins there",
            path, s.offset,
            pluralize(s.file_size - s.offset, "byte after it is", "bytes after it are"),
        )
    return rows


cdef uint64_t to_line(const uint8_t[::1] buffer) noexcept:
    """Bytes up to a cache line: the kernel copies faster to where one begins."""
    return (CACHE_LINE - <uint64_t> &buffer[0] % CACHE_LINE) % CACHE_LINE


cdef int scan_descriptor(Cursor cursor, object rows, int fd) except -1:
    cdef uint8_t[::1] scratch = bytearray((1 << 18) + CACHE_LINE)
    cdef int code = PAUSE
    # The buffer of an earlier call is gone.
    cursor.state.length = 0
    while True:
        code = step(cursor, rows, fd, &scratch[to_line(scratch)], scratch.shape[0] - CACHE_LINE)
        if code == FULL:
            grow(cursor, rows)
        elif code == MORE:
            if cursor.state.speculative and cursor.state.read_size > SPECULATIVE_WINDOW:
                return UNCERTAIN
            scratch = bytearray(cursor.state.read_size + CACHE_LINE)
        elif code != PAUSE:
            return code


cdef int scan_storage(Cursor cursor, object rows, object storage, object visit) except -1:
    cdef State* s = &cursor.state
    cdef uint64_t size = FIRST_WINDOW, here, visited = 0
    cdef int code
    cdef bint zero_copy = storage.zero_copy
    window, start = cursor.window, cursor.window_start
    while True:
        here = s.offset
        code = step_window(cursor, rows, window, start)
        if visit is not None and s.rows > visited:
            visit(rows, visited, s.rows)
        if code != MORE:
            return code
        if s.speculative and s.need - s.offset > SPECULATIVE_WINDOW:
            return UNCERTAIN
        if zero_copy:
            size = VIEW_WINDOW
        elif s.offset == start and len(window):
            # The window cuts a group.
            size = 2 * len(window)
        elif s.rows > visited and s.offset - here > HOP * (s.rows - visited):
            # Wide windows over small members, narrow ones between large members.
            size = NARROW_WINDOW
        elif len(window) and size < FIRST_WINDOW:
            size *= 2
        visited = s.rows
        start = s.offset
        size = max(size, s.need - s.offset)
        size = min(size, s.file_size - start)
        window = storage.read(start, size)
        cursor.window, cursor.window_start = window, start
        if <uint64_t> len(window) < size:
            code = end_early(cursor, rows, min(storage.size, start + len(window)))
            if code != DONE:
                return code
            start = min(start, s.file_size)


cdef int end_early(Cursor cursor, object rows, uint64_t size) except -1:
    """Take the size of an archive that is known only now; return DONE unless it cuts a member."""
    cdef State* s = &cursor.state
    cdef Entry[::1] entries = rows.entries
    cdef uint64_t row = s.rows
    s.file_size = size
    if s.offset <= size:
        return DONE
    s.offset = size
    if not row:
        s.fault = size
        return CUT_HEADER
    s.fault = entries[row - 1].header_offset
    s.cut_name = rows.link_ends[row - 2] if row > 1 else 0
    s.cut_name_size = <uint64_t> rows.name_ends[row - 1] - s.cut_name
    if entries[row - 1].offset + entries[row - 1].stored_size <= size:
        return CUT_PADDING
    # A member whose data is cut is not served, as in a file.
    s.rows -= 1
    rows.rows -= 1
    rows.name_bytes = int(s.cut_name)
    return CUT_DATA


def read_member(storage, offset):
    """Parse the headers of one member again.

    Parameters
    ----------
    storage : Storage
        The archive.
    offset : int
        First byte of the member's headers (``entries["header_offset"]``).

    Returns
    -------
    rows : RowBuffer
        One row. Global PAX headers before `offset` do not count.
    variant : int
        How it is stored: 0 plain; sparse as 1 old GNU, 2 PAX 0.0, 3 PAX 0.1, 4 PAX 1.0.
    map_at, map_size : int
        Where the map of a sparse member is: the header that holds it (1), the PAX records that
        hold it (2 and 3), or the bytes before the data (4).

    Raises
    ------
    CorruptArchiveError
        There is no member, or its headers are damaged.
    """
    if not 0 <= offset < storage.size:
        raise CorruptArchiveError(
            f"{storage.path}: offset {offset}: beyond the end of the file of {storage.size} bytes; "
            f"it was truncated, or its index belongs to another file"
        )
    cdef Cursor cursor = Cursor(storage.size, offset)
    cdef State* s = &cursor.state
    cdef const uint8_t[::1] window = storage.read(offset, s.need - offset)
    cdef int code
    rows = RowBuffer(1)
    while True:
        s.window = &window[0]
        s.start = offset
        s.length = window.shape[0]
        code = step(cursor, rows, -1, NULL, 0)
        if rows.rows:
            return rows, s.variant, s.map_at, s.map_size
        if code == PAUSE:
            continue
        if code == FULL:
            rows.reserve(0, s.need_names)
        elif code == MORE:
            # Zeros and global headers are not members, and what follows them was not asked for.
            if s.offset != <uint64_t> offset:
                code = BAD_HEADER
                s.fault = offset
            else:
                size = max(2 * s.length, s.need - offset)
                window = storage.read(offset, min(size, storage.size - offset))
                continue
        if code != FULL:
            if code == DONE:
                s.fault, code = offset, BAD_HEADER
            raise scan_error(
                cursor, rows, storage.path, code,
                "The archive changed after its index was built; open it again",
            )


def has_header(head):
    """Whether a file begins with a header that has the right checksum.

    Parameters
    ----------
    head : bytes-like
        Its first 512 bytes; fewer where it is shorter.
    """
    cdef const uint8_t[::1] view = head
    return view.shape[0] >= BLOCK and tar_checksum(&view[0]) != 0
