"""Finds where each element of a pickled object array begins, without decoding any of them.

``np.save`` writes an array of objects as one pickle: a preamble that names the array's type, shape
and dtype, and a list of all elements. The indexer walks the opcodes with a stack that holds, for
each value, only where its opcodes begin. It records where each element begins, and where the values
are that other parts of the stream refer to through pickle's memo. Nothing is decoded, imported or
called.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.errno cimport EINTR, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset
from posix.types cimport off_t
from posix.unistd cimport pread

from imagearchive.arrays.objects.little cimport u32, u64
from imagearchive.arrays.objects.symbols cimport allowed, symbol_id
from imagearchive.arrays.objects.slots cimport *

import os

import numpy as np

__all__ = ["LOOKAHEAD", "PickleIndexer"]

LOOKAHEAD = HEAD

# What `feed` returns, in the order of `Code`.
OUTCOMES = (
    "", "more", "no memory", "no read", "truncated", "underflow", "no mark", "nested",
    "stack limit", "memo limit", "memo unset", "memo twice", "borrowed", "unknown opcode",
    "unsafe opcode", "unsafe global", "old opcode", "no callable", "not array",
    "too many", "bad protocol",
)


cdef int resize(void** block, uint64_t size) noexcept nogil:
    cdef void* larger = realloc(block[0], size)
    if larger == NULL:
        return NO_MEMORY
    block[0] = larger
    return OK


cdef class PickleIndexer:
    """Walks one pickle stream, window by window.

    Parameters
    ----------
    size : int
        Length of the stream in bytes; every length in it is checked against this.
    expected : int
        How many elements the array has, from its header.
    stride : int
        How many of them make one row. Only the first element of a row is recorded.

    Attributes
    ----------
    position : int
        Offset of the next opcode, or of the one that was refused.
    list_start : int
        Offset of the opcode that opens the list of elements; what precedes it is the preamble.

    Notes
    -----
    One instance serves one thread. The GIL is released while a window is walked.
    """

    cdef readonly uint64_t position
    cdef readonly uint64_t size
    cdef readonly uint64_t list_start
    cdef uint64_t expected, stride, count, rows, room, memo_room, memo_count
    cdef Slot* stack
    cdef Memo* memo
    cdef uint64_t* starts
    cdef uint32_t* bases
    cdef Mark[MAX_NESTING] marks
    cdef uint32_t height, stack_room, mark_count
    cdef bint built, listed

    def __cinit__(self, uint64_t size, uint64_t expected, uint64_t stride=1):
        if stride == 0 or expected % stride:
            raise ValueError(f"{expected} elements cannot be divided into rows of {stride}")
        self.size = size
        self.expected = expected
        self.stride = stride

    def __dealloc__(self):
        free(self.stack)
        free(self.memo)
        free(self.starts)
        free(self.bases)

    def feed(self, const uint8_t[::1] window not None):
        """Walk a window that begins at `position`.

        Returns
        -------
        str or None
            ``"more"``: feed a window from `position` on, with at least `LOOKAHEAD` bytes unless
            the stream ends earlier. ``""``: the walk is complete. Anything else names the error at
            `position`.
        """
        cdef int code
        cdef uint64_t length = <uint64_t>window.shape[0]
        if length > self.size - self.position:
            raise ValueError("the window extends beyond the stream")
        cdef const uint8_t* data = &window[0] if length else NULL
        with nogil:
            code = self._walk(data, length)
        if code == NO_MEMORY:
            raise MemoryError
        return OUTCOMES[code]

    def walk_file(self, int descriptor, uint64_t offset):
        """Walk the whole stream, which begins at `offset` of an open file.

        Signal handlers run between windows, so an interrupt does not wait for the end.

        Returns
        -------
        str
            As from `feed`, without ``"more"``.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        cdef int code = MORE, error = 0
        cdef uint64_t length = WINDOW_MIN
        cdef uint8_t* window = <uint8_t*>malloc(WINDOW_MAX)
        if window == NULL:
            raise MemoryError
        try:
            while code == MORE:
                PyErr_CheckSignals()
                with nogil:
                    code = self._walk_file(descriptor, offset, window, &length, &error)
        finally:
            free(window)
        if code == NO_MEMORY:
            raise MemoryError
        if code == NO_READ:
            raise OSError(error, os.strerror(error))
        return OUTCOMES[code]

    cdef int _walk_file(
        self, int descriptor, uint64_t offset, uint8_t* window, uint64_t* next_length, int* error
    ) noexcept nogil:
        """Walk a few windows. MORE where the walk is to go on once signals were looked at."""
        cdef uint64_t length = next_length[0], size, here
        cdef ssize_t got
        cdef int code, turn
        for turn in range(WINDOWS_PER_CALL):
            here = self.position
            size = min(length, self.size - here)
            got = pread(descriptor, window, size, <off_t>(offset + here))
            if got < 0:
                if errno == EINTR:
                    return MORE
                error[0] = errno
                return NO_READ
            if <uint64_t>got < size:
                # The file has become shorter: walk what is there, which then is truncated.
                self.size = here + <uint64_t>got
            code = self._walk(window, <uint64_t>got)
            if code != MORE:
                return code
            length = min(2 * length, <uint64_t>WINDOW_MAX) if self.position <= here + size else WINDOW_MIN
            next_length[0] = length
        return MORE

    def top(self, uint32_t below):
        """Return the start of the value that is `below` values under the top of the stack."""
        if below >= self.height:
            return self.position
        cdef Slot* slot = &self.stack[self.height - 1 - below]
        return self.memo[slot.memo - 1].start if slot.memo else slot.start

    def tables(self):
        """Return what was found, after a complete walk.

        Returns
        -------
        starts : ndarray of uint64, shape (N + 1,)
            Where each row begins, and where the last ends.
        bases : ndarray of uint32, shape (N,)
            The number of memo entries before each row.
        memo_ids, memo_bases : ndarray of uint32, shape (M,)
            Memo entries that are referred to, in ascending order, and the number of entries before
            each.
        memo_starts, memo_ends : ndarray of uint64, shape (M,)
            The range of the opcodes that make each of them.
        """
        cdef uint64_t i, used = 0, at = 0
        for i in range(self.memo_room):
            used += (self.memo[i].state & 2) >> 1
        starts = np.empty(self.rows + 1, np.uint64)
        bases = np.empty(self.rows, np.uint32)
        ids, bases_of = np.empty(used, np.uint32), np.empty(used, np.uint32)
        begins, ends = np.empty(used, np.uint64), np.empty(used, np.uint64)
        cdef uint64_t[::1] starts_view = starts, begins_view = begins, ends_view = ends
        cdef uint32_t[::1] bases_view = bases, ids_view = ids, bases_of_view = bases_of
        for i in range(self.rows):
            starts_view[i] = self.starts[i]
            bases_view[i] = self.bases[i]
        starts_view[self.rows] = self.position if self.built else 0
        for i in range(self.memo_room):
            if self.memo[i].state & 2:
                ids_view[at] = <uint32_t>i
                begins_view[at] = self.memo[i].start
                ends_view[at] = self.memo[i].end
                bases_of_view[at] = self.memo[i].base
                at += 1
        return starts, bases, ids, bases_of, begins, ends

    cdef int _grow(self) noexcept nogil:
        cdef uint32_t room = 2 * self.stack_room if self.stack_room else 256
        if room > MAX_STACK:
            return STACK_LIMIT
        if resize(<void**>&self.stack, room * sizeof(Slot)) != OK:
            return NO_MEMORY
        self.stack_room = room
        return OK

    cdef int _memoize(self, uint64_t id, uint64_t end) noexcept nogil:
        cdef Slot* top
        cdef uint64_t room
        if self.height <= self._floor():
            return UNDERFLOW
        top = &self.stack[self.height - 1]
        if id >= self.memo_count + MEMO_SLACK or id >= MAX_MEMO:
            return MEMO_LIMIT
        if id >= self.memo_room:
            room = max(max(id + 1, 2 * self.memo_room), <uint64_t>256)
            if resize(<void**>&self.memo, room * sizeof(Memo)) != OK:
                return NO_MEMORY
            memset(&self.memo[self.memo_room], 0, (room - self.memo_room) * sizeof(Memo))
            self.memo_room = room
        if top.memo or self.memo[id].state:
            return MEMO_TWICE
        self.memo[id] = Memo(
            top.start, end, top.base, top.depth, top.symbol, 1 | (4 if top.kind == GLOBAL else 0)
        )
        top.memo = <uint32_t>id + 1
        self.memo_count += 1
        return OK

    cdef int _fetch(self, uint64_t id, uint64_t start) noexcept nogil:
        cdef Memo* memo
        if id >= self.memo_room or not self.memo[id].state:
            return MEMO_UNSET
        memo = &self.memo[id]
        memo.state |= 2
        self.stack[self.height] = Slot(
            start, <uint32_t>self.memo_count, <uint32_t>id + 1, memo.depth, memo.symbol,
            GLOBAL if memo.state & 4 else BORROW,
        )
        self.height += 1
        return OK

    cdef inline uint32_t _floor(self) noexcept nogil:
        return self.marks[self.mark_count - 1].height if self.mark_count else 0

    cdef int _collapse(self, uint32_t first, uint64_t start, uint32_t base) noexcept nogil:
        """Replace the slots from `first` on by one container."""
        cdef uint32_t i
        cdef uint16_t depth = 0
        for i in range(first, self.height):
            depth = max(depth, self.stack[i].depth)
        if depth >= MAX_NESTING:
            return NESTED
        self.stack[first] = Slot(start, base, 0, depth + 1, 0, PLAIN)
        self.height = first + 1
        return OK

    cdef int _mutate(self, uint32_t target, uint64_t end) noexcept nogil:
        """Put the slots above `target` into it, and remove them."""
        cdef uint32_t i
        cdef uint16_t depth = 0
        cdef Slot* slot = &self.stack[target]
        if slot.kind != PLAIN:
            return BORROWED
        for i in range(target + 1, self.height):
            depth = max(depth, self.stack[i].depth)
        if depth >= MAX_NESTING:
            return NESTED
        slot.depth = max(slot.depth, <uint16_t>(depth + 1))
        slot.symbol = 0
        if slot.memo:
            self.memo[slot.memo - 1].end = end
            self.memo[slot.memo - 1].depth = slot.depth
        self.height = target + 1
        return OK

    cdef int _record(self) noexcept nogil:
        """Count the slots above the list as elements, and record where rows begin."""
        cdef uint32_t i
        cdef uint64_t room, total = self.count + self.height - LIST_SLOT - 1
        if total > self.expected:
            return TOO_MANY
        total = (total + self.stride - 1) // self.stride
        if total > self.room:
            room = min(max(total, 2 * self.room), self.expected // self.stride)
            if resize(<void**>&self.starts, room * sizeof(uint64_t)) != OK:
                return NO_MEMORY
            if resize(<void**>&self.bases, room * sizeof(uint32_t)) != OK:
                return NO_MEMORY
            self.room = room
        for i in range(LIST_SLOT + 1, self.height):
            if self.count % self.stride == 0:
                self.starts[self.rows] = self.stack[i].start
                self.bases[self.rows] = self.stack[i].base
                self.rows += 1
            self.count += 1
        return OK

    cdef int _walk(self, const uint8_t* data, uint64_t length) noexcept nogil:
        cdef const uint8_t* p
        cdef uint64_t first = self.position, at, here, left, head, payload, line, id
        cdef uint32_t floor, target
        cdef int code
        cdef uint8_t op, symbol, name
        cdef bint final = first + length == self.size
        while True:
            here = self.position
            at = here - first
            if at >= length:
                return TRUNCATED if here >= self.size else MORE
            left = length - at
            if left < HEAD and not final:
                return MORE
            if self.height + 1 >= self.stack_room:
                code = self._grow()
                if code != OK:
                    return code
            p = data + at
            op = p[0]
            floor = self._floor()
            head = 1
            payload = 0
            code = OK
            if self.built and op not in (b'q', b'r', 0x94, 0x95, b'.'):
                return NOT_ARRAY

            # Values: a fixed head, then a payload that is only skipped.
            if op in (b'K', b'U', b'C', 0x8a, 0x8c):
                head = 2
            elif op == b'M':
                head = 3
            elif op in (b'J', b'X', b'B', b'T', 0x8b):
                head = 5
            elif op in (b'G', 0x8d, 0x8e, 0x96):
                head = 9
            if op in (b'N', b'K', b'M', b'J', b'G', b']', b')', b'}', 0x88, 0x89, 0x8f) or op in (
                b'U', b'C', b'X', b'B', b'T', 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x96
            ):
                if left < head:
                    return TRUNCATED
                symbol = 0
                if op in (b'U', b'C', 0x8a, 0x8c):
                    payload = p[1]
                elif op in (b'X', b'B', b'T', 0x8b):
                    payload = u32(p + 1)
                elif op in (0x8d, 0x8e, 0x96):
                    payload = u64(p + 1)
                if payload > self.size - here - head:
                    return TRUNCATED
                if op == b'X' or op == 0x8c:
                    if payload + head <= left:
                        symbol = symbol_id(p + head, payload)
                elif op == b']' and not self.listed and self.mark_count == 1:
                    if self.marks[0].height == 1 and self.height == LIST_SLOT:
                        self.listed = True
                        self.list_start = here
                self.stack[self.height] = Slot(
                    here, <uint32_t>self.memo_count, 0, op in (b']', b'}', 0x8f), symbol, PLAIN
                )
                self.height += 1

            # The memo.
            elif op == 0x94:
                code = self._memoize(self.memo_count, here)
            elif op in (b'q', b'h', b'r', b'j'):
                head = 2 if op == b'q' or op == b'h' else 5
                if left < head:
                    return TRUNCATED
                id = p[1] if head == 2 else u32(p + 1)
                code = self._memoize(id, here) if op in (b'q', b'r') else self._fetch(id, here)

            # Containers.
            elif op == b'(':
                if self.mark_count == MAX_NESTING:
                    return NESTED
                self.marks[self.mark_count] = Mark(here, <uint32_t>self.memo_count, self.height)
                self.mark_count += 1
            elif op in (b't', b'l', b'd', 0x91, b'e', b'u', 0x90, b'1'):
                if self.mark_count == 0:
                    return NO_MARK
                self.mark_count -= 1
                target = self.marks[self.mark_count].height
                if op == b'1':
                    self.height = target
                elif op in (b'e', b'u', 0x90):
                    if target <= self._floor():
                        return UNDERFLOW
                    target -= 1
                    if self.listed and self.mark_count == 1 and target == LIST_SLOT:
                        if op != b'e':
                            return NOT_ARRAY
                        code = self._record()
                    if code == OK:
                        code = self._mutate(target, here + 1)
                else:
                    if self.listed and self.mark_count == 0:
                        # Once the list is open, only the array's state closes the first mark.
                        if op != b't' or self.height != LIST_SLOT + 1 or target != 1:
                            return NOT_ARRAY
                    code = self._collapse(
                        target, self.marks[self.mark_count].start, self.marks[self.mark_count].base
                    )
                    if self.listed and self.mark_count == 0 and code == OK:
                        self.stack[target].kind = STATE
            elif op in (0x85, 0x86, 0x87, b'R', 0x93):
                target = 1 if op == 0x85 else 3 if op == 0x87 else 2
                if self.height - floor < target:
                    return UNDERFLOW
                target = self.height - target
                if op == b'R' and self.stack[target].kind != GLOBAL:
                    return NO_CALLABLE
                symbol = self.stack[target].symbol
                name = self.stack[self.height - 1].symbol
                if op == 0x93 and not allowed(symbol, name):
                    return UNSAFE_GLOBAL
                code = self._collapse(target, self.stack[target].start, self.stack[target].base)
                if op == 0x93 and code == OK:
                    self.stack[target].kind = GLOBAL
                    self.stack[target].depth = 0
            elif op in (b'a', b's', b'b'):
                target = 3 if op == b's' else 2
                if self.height - floor < target:
                    return UNDERFLOW
                target = self.height - target
                if op == b'b' and self.mark_count == 0 and self.listed:
                    if target != 0 or self.stack[1].kind != STATE or self.stack[0].kind != PLAIN:
                        return NOT_ARRAY
                    self.built = True
                if self.listed and self.mark_count == 1 and target == LIST_SLOT:
                    if op != b'a':
                        return NOT_ARRAY
                    code = self._record()
                if code == OK:
                    code = self._mutate(target, here + 1)
            elif op == b'0':
                if self.height > floor:
                    self.height -= 1
                elif self.mark_count:
                    self.mark_count -= 1
                else:
                    return UNDERFLOW

            # Names.
            elif op == b'c':
                line = 1
                while line < min(left, <uint64_t>NAME_LIMIT) and p[line] != b'\n':
                    line += 1
                head = line + 1
                while head < min(left, <uint64_t>2 * NAME_LIMIT) and p[head] != b'\n':
                    head += 1
                if head >= left:
                    return TRUNCATED
                symbol = symbol_id(p + 1, line - 1)
                name = symbol_id(p + line + 1, head - line - 1)
                if p[line] != b'\n' or p[head] != b'\n' or not allowed(symbol, name):
                    return UNSAFE_GLOBAL
                head += 1
                self.stack[self.height] = Slot(here, <uint32_t>self.memo_count, 0, 0, 0, GLOBAL)
                self.height += 1

            # The frame of the stream.
            elif op == 0x80:
                head = 2
                if left >= 2 and (p[1] < 2 or p[1] > 5):
                    return BAD_PROTOCOL
            elif op == 0x95:
                head = 9
                if left >= 9 and u64(p + 1) > self.size - here - 9:
                    return TRUNCATED
            elif op == b'.':
                if not self.built or self.height != 1 or self.mark_count:
                    return NOT_ARRAY
                return OK if self.count == self.expected else TOO_MANY
            elif op in (0x81, 0x82, 0x83, 0x84, 0x92, 0x97, 0x98, b'P', b'Q', b'i', b'o'):
                return UNSAFE_OPCODE
            elif op in (b'I', b'L', b'F', b'S', b'V', b'g', b'p', b'2'):
                return OLD_OPCODE
            else:
                return UNKNOWN_OPCODE
            if code != OK:
                return code
            if self.listed and not self.built and self.height <= LIST_SLOT:
                if self.height != 2 or self.stack[1].kind != STATE:
                    return NOT_ARRAY
            if left < head:
                return TRUNCATED
            self.position = here + head + payload
