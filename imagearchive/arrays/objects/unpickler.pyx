"""Decodes one element of a pickled object array, if it is plain data.

The unpickler reads pickle opcodes itself. It imports nothing and calls nothing that a stream could
choose. A global selects one of the handlers in `allowed`; any other global is refused.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from numpy import dtype

from imagearchive.arrays.objects.little cimport u32, u64, u64_big
from imagearchive.arrays.objects.items cimport (
    Global,
    Pending,
    Span,
    StackItem,
    Work,
    build,
    check_depth,
    check_keys,
    check_plain,
    pack,
    reduce,
    set_items,
    takes_span,
    work_of,
)

from imagearchive.arrays.objects.items import (
    BadPickleError,
    ExcessivePickleError,
    RefusedPickleError,
)
from imagearchive.arrays.objects.allowed import GLOBALS
from imagearchive.errors import DecodeError, ImageArchiveError, LimitError, UnsafePickleError

__all__ = ["PlainUnpickler"]

cdef enum:
    MAX_NESTING = 256
    NAME_LIMIT = 250
    # How many memo entries may depend on one another; NumPy's pickles need fewer.
    MAX_HOPS = 40
    # Payloads of at least this size are copied directly from the stream into their array.
    SPAN_MIN = 512
    WORK_PER_BYTE = 16

cdef dict REFUSED = {
    0x81: "makes an object of a class (NEWOBJ)",
    0x92: "makes an object of a class (NEWOBJ_EX)",
    ord(b"i"): "makes an object of a class (INST)",
    ord(b"o"): "makes an object of a class (OBJ)",
    0x82: "names an extension (EXT1)",
    0x83: "names an extension (EXT2)",
    0x84: "names an extension (EXT4)",
    ord(b"P"): "names a persistent object (PERSID)",
    ord(b"Q"): "names a persistent object (BINPERSID)",
    0x97: "needs an out-of-band buffer (NEXT_BUFFER)",
    0x98: "needs an out-of-band buffer (READONLY_BUFFER)",
}

cdef object _MISSING = object()
cdef object BUSY = StackItem()


cdef class PlainUnpickler:
    """Decodes byte ranges of one pickle stream.

    Parameters
    ----------
    read : callable
        ``read(offset, size)`` returns that many bytes of the stream, bytes-like.
    where : str
        What to call the stream in messages.
    memo_ids, memo_bases : ndarray of uint32, shape (M,)
    memo_starts, memo_ends : ndarray of uint64, shape (M,)
        The memo entries that other parts refer to, as `PickleIndexer.tables` returns them.

    Notes
    -----
    Threads may share an instance: each call has its own stack and memo.
    """

    cdef object _read
    cdef readonly str where
    cdef const uint32_t[::1] _ids, _bases
    cdef const uint64_t[::1] _starts, _ends
    cdef dict _shared

    def __init__(self, read, str where, memo_ids, memo_bases, memo_starts, memo_ends):
        self._read = read
        self.where = where
        self._ids = memo_ids
        self._bases = memo_bases
        self._starts = memo_starts
        self._ends = memo_ends
        if not (len(memo_ids) == len(memo_bases) == len(memo_starts) == len(memo_ends)):
            raise ValueError("the memo's columns differ in length")
        self._shared = {}

    def value(self, uint64_t start, uint64_t end, uint64_t base):
        """Decode the first value of a range.

        Parameters
        ----------
        start, end : int
            The range. Opcodes after the value, which belong to the list around it, are ignored.
        base : int
            The number of memo entries before the range.
        """
        cdef list stack = []
        cdef dict memo = {}
        self._run(start, end, base, memo, stack, 0, 0)
        value = self._only(stack, start)
        self._check_depth((value,), memo, start)
        return value

    def whole(self, uint64_t end):
        """Decode the value of a whole stream of `end` bytes, which refers to no other part.

        What follows the end of the pickle is ignored, as `pickle` does.
        """
        cdef list stack = []
        cdef dict memo = {}
        cdef Py_ssize_t last = self._run(0, end, 0, memo, stack, 0, 0)
        cdef const uint8_t[::1] opcode = self._read(last, 1 if end else 0)
        if opcode.shape[0] == 0 or opcode[0] != b".":
            raise self._wrong("ends early", end)
        value = self._only(stack, 0)
        self._check_depth((value,), memo, 0)
        return value

    cdef int _check_depth(self, tuple values, dict memo, uint64_t start) except -1:
        cdef Work work = work_of(memo)
        # No value is nested deeper than there are containers that can be in it.
        if (work.created if work.shared else work.largest) < MAX_NESTING:
            return 0
        try:
            check_depth(values, memo, 257)
        except ExcessivePickleError as error:
            raise self._limit(error, start) from None
        return 0

    cdef object _limit(self, object error, uint64_t offset):
        return LimitError(f"{self.where}: the pickle {error} at offset {offset}")

    def values(
        self, uint64_t start, uint64_t end, uint64_t base, Py_ssize_t count, dict memo=None
    ):
        """Decode the first values of a range, which are elements of the list around them.

        Parameters
        ----------
        start, end, base : int
            As for `value`.
        count : int
            How many, at least 1.
        memo : dict, optional
            Shared by several calls: what occurs in several ranges then is one object. The caller
            passes all values to `check`.
        """
        cdef list stack = []
        cdef bint alone = memo is None
        if memo is None:
            memo = {}
        self._run(start, end, base, memo, stack, 0, count)
        if len(stack) != count:
            raise self._wrong(f"holds {len(stack)} values instead of {count}", start)
        for value in stack:
            if isinstance(value, StackItem):
                self._only([value], start)
        if alone:
            self._check_depth(tuple(stack), memo, start)
        return stack

    def check(self, tuple values, dict memo):
        """Refuse values that several calls of `values` made if they are nested too deeply."""
        if values:
            self._check_depth(values, memo, 0)

    def preamble(self, uint64_t end):
        """Decode what comes before the list of elements.

        Returns
        -------
        list
            The state of the array so far: version, shape, dtype, and whether it is in Fortran order.
        """
        cdef list stack = []
        self._run(0, end, 0, {}, stack, 0, 0)
        if len(stack) != 5 or type(stack[0]) is not Pending or (<Pending>stack[0]).code is not None:
            raise DecodeError(f"{self.where}: the pickle does not begin like that of an array")
        return stack[1:]

    cdef object _only(self, list stack, uint64_t start):
        if len(stack) != 1:
            raise self._wrong("does not hold a single value", start)
        value = stack[0]
        if type(value) is Global:
            raise UnsafePickleError(
                f"{self.where}: the pickle has {(<Global>value).name} as a value at offset {start}; "
                f"only plain values are decoded; nothing was executed"
            )
        if isinstance(value, StackItem):
            raise self._wrong("has an incomplete value", start)
        return value

    cdef object _wrong(self, str what, uint64_t offset):
        return DecodeError(
            f"{self.where}: the pickle {what} at offset {offset}; the file is damaged"
        )

    cdef object _name(self, object module, object name, uint64_t offset):
        cdef object handler = None
        if type(module) is str and type(name) is str:
            handler = GLOBALS.get((module, name))
        if handler is None:
            raise UnsafePickleError(
                f"{self.where}: the pickle names {module}.{name} at offset {offset}, which is not "
                f"plain data; nothing was executed. Save the array without such objects"
            )
        return Global(handler, f"{module}.{name}")

    cdef object _fetch(self, uint64_t id, dict memo, uint64_t offset, int hops):
        cdef Py_ssize_t low = 0, high = self._ids.shape[0], middle
        cdef list stack
        value = memo.get(id, _MISSING)
        if value is _MISSING:
            value = self._shared.get(id, _MISSING)
        if value is _MISSING:
            while low < high:
                middle = (low + high) // 2
                if self._ids[middle] < id:
                    low = middle + 1
                else:
                    high = middle
            if low == self._ids.shape[0] or self._ids[low] != id:
                raise self._wrong(f"refers to the unknown memo entry {id}", offset)
            if hops >= MAX_HOPS:
                raise self._wrong("refers to itself", offset)
            stack = []
            memo[id] = BUSY
            self._run(
                self._starts[low], self._ends[low], self._bases[low], memo, stack, hops + 1, 0
            )
            if len(stack) != 1:
                raise self._wrong(f"does not have a single value for memo entry {id}", offset)
            value = memo[id] = stack[0]
            if type(value) is str or type(value) is Global or isinstance(value, dtype):
                # Immutable, and used by every element: the dtype and the globals.
                if len(self._shared) >= 1024:
                    self._shared.clear()
                self._shared[id] = value
        if (
            type(value) is list or type(value) is tuple or type(value) is dict
            or not isinstance(value, (str, bytes, int, float, Global, dtype))
        ):
            work_of(memo).shared = True
        if type(value) is Span:
            value = memo[id] = bytes((<Span>value).view())
        elif isinstance(value, StackItem) and type(value) is not Global:
            raise self._wrong("uses a value before it is complete", offset)
        return value

    cdef Py_ssize_t _run(
        self, uint64_t start, uint64_t end, uint64_t base, dict memo, list stack, int hops,
        Py_ssize_t wanted,
    ) except -1:
        """Run the opcodes of one value, or of `wanted` elements, on `stack`.

        Returns
        -------
        int
            Where the last opcode begins, relative to `start`.
        """
        if end < start:
            raise self._wrong("has a range that ends before it begins", start)
        cdef object window = self._read(start, end - start)
        cdef Work work = work_of(memo)
        work.left += WORK_PER_BYTE * (end - start)
        cdef const uint8_t[::1] view = window
        cdef uint64_t[2] progress = [0, 0]
        if view.shape[0] == 0:
            return 0
        try:
            self._steps(
                &view[0], view.shape[0], start, base, memo, stack, hops, wanted, window,
                progress,
            )
            work.created += progress[1]
            work.largest = max(work.largest, progress[1])
        except BadPickleError as error:
            raise self._wrong(str(error), start + progress[0]) from None
        except RefusedPickleError as error:
            raise UnsafePickleError(
                f"{self.where}: the pickle {error} at offset {start + progress[0]}; nothing was executed"
            ) from None
        except ExcessivePickleError as error:
            raise self._limit(error, start + progress[0]) from None
        except (TypeError, ValueError, OverflowError, UnicodeError, RecursionError) as error:
            if isinstance(error, ImageArchiveError):
                # An entry of the memo that this range needs has named its own place.
                raise
            raise self._wrong(f"has an invalid value ({error})", start + progress[0]) from error
        return <Py_ssize_t>progress[0]

    cdef int _steps(
        self, const uint8_t* data, Py_ssize_t length, uint64_t start, uint64_t count, dict memo,
        list stack, int hops, Py_ssize_t wanted, object window, uint64_t* progress
    ) except -1:
        cdef Py_ssize_t at = 0, head, size, height, floor, alone = 0
        cdef bint between = False
        cdef Py_ssize_t[MAX_NESTING] marks
        cdef int mark_count = 0
        cdef const uint8_t* p
        cdef const char* payload
        cdef uint8_t op
        cdef uint64_t bits
        cdef double number
        cdef object value
        cdef list items
        while at < length:
            progress[0] = at
            p = data + at
            op = p[0]
            height = len(stack)
            floor = marks[mark_count - 1] if mark_count else 0
            head = 1
            size = 0
            # pickle appends elements in batches, "( ... e", and a single last one by "a".
            if between and op != 0x95:
                between = False
                alone = height
                if op == b'(':
                    at += 1
                    continue

            # A fixed head, then a payload whose length may be in the head.
            if op in (b'K', b'h', b'q', b'U', b'C', 0x80, 0x8a, 0x8c):
                head = 2
            elif op == b'M':
                head = 3
            elif op in (b'J', b'j', b'r', b'X', b'B', b'T', 0x8b):
                head = 5
            elif op in (b'G', 0x8d, 0x8e, 0x95, 0x96):
                head = 9
            if head > length - at:
                raise BadPickleError("ends within an opcode")
            if op in (b'U', b'C', 0x8a, 0x8c):
                size = p[1]
            elif op in (b'X', b'B', b'T', 0x8b):
                size = u32(p + 1)
            elif op in (0x8d, 0x8e, 0x96):
                bits = u64(p + 1)
                size = <Py_ssize_t>min(bits, <uint64_t>length)
            if size > length - at - head:
                raise BadPickleError("ends within a value")
            at += head + size
            payload = <const char*>p + head

            # Values.
            if op == b'N':
                stack.append(None)
            elif op == 0x88 or op == 0x89:
                stack.append(op == 0x88)
            elif op == b'K':
                stack.append(p[1])
            elif op == b'M':
                stack.append(p[1] | p[2] << 8)
            elif op == b'J':
                stack.append(<int32_t>u32(p + 1))
            elif op == b'G':
                bits = u64_big(p + 1)
                memcpy(&number, &bits, 8)
                stack.append(number)
            elif op == 0x8a or op == 0x8b:
                stack.append(int.from_bytes(payload[:size], "little", signed=True))
            elif op in (b'X', 0x8c, 0x8d):
                stack.append(payload[:size].decode("utf-8", "surrogatepass"))
            elif op in (b'B', b'C', 0x8e, 0x96):
                if size >= SPAN_MIN and mark_count and floor and takes_span(stack, floor):
                    stack.append(Span(window, at - size, size))
                elif op == 0x96:
                    stack.append(bytearray(payload[:size]))
                else:
                    stack.append(payload[:size])
            elif op == b'T' or op == b'U':
                # The str of Python 2: text if it is ASCII.
                value = payload[:size]
                stack.append(value.decode("ascii") if value.isascii() else value)
            elif op in (b']', b'}', b')', 0x8f):
                progress[1] += 1
                if op == b']':
                    stack.append([])
                elif op == b'}':
                    stack.append({})
                elif op == b')':
                    stack.append(())
                else:
                    stack.append(set())

            # The memo.
            elif op in (0x94, b'q', b'r'):
                if height <= floor:
                    raise BadPickleError("stores nothing in the memo")
                bits = count if op == 0x94 else p[1] if op == b'q' else u32(p + 1)
                count += 1
                value = stack[height - 1]
                memo[bits] = value
                if type(value) is Pending:
                    (<Pending>value).id = bits
            elif op == b'h' or op == b'j':
                bits = p[1] if op == b'h' else u32(p + 1)
                stack.append(self._fetch(bits, memo, start + at - head, hops))

            # Containers.
            elif op == b'(':
                if mark_count == MAX_NESTING:
                    raise BadPickleError("nests too deeply")
                marks[mark_count] = height
                mark_count += 1
            elif op in (b't', b'l', b'd', 0x91, b'u', 0x90, b'e', b'1'):
                if mark_count == 0:
                    if op == b'e':
                        # The list around this element continues.
                        if height >= wanted:
                            return 0
                        between = True
                        continue
                    raise BadPickleError("closes a container that it did not open")
                mark_count -= 1
                progress[1] += 1
                items = stack[floor:]
                del stack[floor:]
                if op == b't':
                    stack.append(pack(tuple(items)))
                elif op == b'l':
                    check_plain(items)
                    stack.append(items)
                elif op == b'd':
                    stack.append({})
                    set_items(stack[len(stack) - 1], items, memo)
                elif op == 0x91:
                    check_plain(items)
                    stack.append(frozenset(check_keys(items, memo)))
                elif op != b'1':
                    if floor <= (marks[mark_count - 1] if mark_count else 0):
                        raise BadPickleError("adds items to nothing")
                    value = stack[floor - 1]
                    if op == b'u':
                        set_items(value, items, memo)
                    elif op == b'e' and type(value) is list:
                        check_plain(items)
                        (<list>value).extend(items)
                    elif op == 0x90 and type(value) is set:
                        check_plain(items)
                        (<set>value).update(check_keys(items, memo, value))
                    else:
                        raise BadPickleError(f"adds items to {type(value).__name__}")
            elif op in (0x85, 0x86, 0x87, b'a', b's', b'b', b'R', 0x93):
                size = 1 if op == 0x85 else 3 if op == 0x87 or op == b's' else 2
                if op == b'a' and mark_count == 0 and height <= alone + 1:
                    if height >= wanted:
                        return 0
                    between = True
                    continue
                if height - floor < size:
                    raise BadPickleError("takes more values than there are")
                progress[1] += 1
                items = stack[height - size:]
                del stack[height - size:]
                if op in (0x85, 0x86, 0x87):
                    stack.append(pack(tuple(items)))
                elif op == b'a':
                    value = items[0]
                    check_plain(items)
                    if type(value) is not list:
                        raise BadPickleError(f"adds items to {type(value).__name__}")
                    (<list>value).append(items[1])
                    stack.append(value)
                elif op == b's':
                    value = items[0]
                    set_items(value, items[1:], memo)
                    stack.append(value)
                elif op == 0x93:
                    stack.append(self._name(items[0], items[1], start + at - 1))
                elif op == b'R':
                    stack.append(reduce(items[0], items[1], memo))
                else:
                    value = build(items[0], items[1], memo)
                    if (<Pending>items[0]).id is not None:
                        memo[(<Pending>items[0]).id] = value
                    stack.append(value)
            elif op == b'0':
                if height > floor:
                    stack.pop()
                elif mark_count:
                    mark_count -= 1
                else:
                    raise BadPickleError("drops more values than there are")

            # Names.
            elif op == b'c':
                size = min(length, at + 2 * NAME_LIMIT)
                value = (<const char*>data)[at:size].split(b"\n", 2)
                if len(value) < 3:
                    raise BadPickleError("has a global without an end")
                at += len(value[0]) + len(value[1]) + 2
                value = [part.decode("utf-8", "replace") for part in value[:2]]
                stack.append(self._name(value[0], value[1], start + progress[0]))
            elif op == 0x80 or op == 0x95:
                pass
            elif op == b'.':
                return 0
            elif op in REFUSED:
                raise RefusedPickleError(REFUSED[op])
            else:
                raise BadPickleError(f"has the unknown opcode {op:#04x}")
        return 0
