"""What the unpickler does with globals, arguments and states.

Globals, unfinished arrays and bytes that were not copied out of the stream are `StackItem` objects
on the unpickler's stack. They are accepted only where NumPy's own pickles put them, and never get
into decoded data.
"""

from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int64_t, uint64_t

from collections import OrderedDict
from itertools import chain

from numpy import dtype, ndarray

from imagearchive.arrays.objects.allowed import (
    DTYPE,
    FROMBUFFER,
    NDARRAY,
    RECONSTRUCT,
    array_from_state,
    dtype_from_state,
)

cdef enum:
    MAX_NESTING = 256
    # How many values may be visited to check an element, besides 16 for each of its bytes.
    MIN_WORK = 1 << 20

# From how many items on the hashes of keys are counted, for keys that are compared in no time and
# for tuples, frozensets, and long integers; and how many keys may share one.
COUNTED_KEYS = 64
COUNTED_LONG_KEYS = 4
MAX_EQUAL_HASHES = 64

cdef int64_t MAX_WORK = 1 << 62

cdef object object_dtype = dtype(object)


cdef class StackItem:
    """A value that may be on the stack but never in decoded data."""


cdef class Global(StackItem):
    """An allowed global: what handles it, and its name for messages."""

    def __cinit__(self, handler, str name):
        self.handler = handler
        self.name = name


cdef class Pending(StackItem):
    """An array or dtype whose state has not been set yet."""

    def __cinit__(self, code=None):
        self.code = code


cdef class Args(StackItem):
    """A tuple that contains stack items: arguments of a handler, or a state."""

    def __cinit__(self, tuple items):
        self.items = items


cdef class Span(StackItem):
    """Bytes that were not copied out of the stream."""

    def __cinit__(self, owner, Py_ssize_t offset, Py_ssize_t size):
        self.owner = owner
        self.offset = offset
        self.size = size

    cdef object view(self):
        return memoryview(self.owner)[self.offset : self.offset + self.size]


class BadPickleError(Exception):
    """The stream is damaged. The unpickler adds the offset."""


class RefusedPickleError(Exception):
    """The stream asks for more than plain data. The unpickler adds the offset."""


class ExcessivePickleError(Exception):
    """The stream exceeds a limit. The unpickler adds the offset."""


cdef int check_plain(list items) except -1:
    for value in items:
        if isinstance(value, StackItem):
            if type(value) is Global:
                raise RefusedPickleError(f"has {(<Global>value).name} as a value")
            raise BadPickleError("uses a value before it is complete")
    return 0


# The key of the memo under which the `Work` is kept; memo entries have numbers from 0.
cdef object WORK = -1


cdef class Work:
    """What reading has cost so far, and what checking may still cost."""


cdef Work work_of(dict memo):
    cdef Work work = memo.get(WORK)
    if work is None:
        work = memo[WORK] = Work()
        work.left = MIN_WORK
        work.hashes = {}
    return work


cdef int check_depth(object root, dict memo, int levels=MAX_NESTING) except -1:
    """Refuse values that are nested deeper than the indexer accepts.

    Arrays of objects have no guard against deep recursion when they are freed, and neither have
    many users of a value. Every container is visited once, however often it is referred to.
    """
    cdef set seen = {id(root)}
    cdef list path = [iter(children(root))]
    cdef object value
    cdef Work work = work_of(memo)
    cdef int64_t left = work.left
    while path:
        for value in path[len(path) - 1]:
            left -= 1
            if left < 0:
                raise ExcessivePickleError("refers to the same values too often")
            if not is_container(value) or id(value) in seen:
                continue
            if len(path) >= levels:
                raise ExcessivePickleError("is nested more than 256 levels deep")
            seen.add(id(value))
            path.append(iter(children(value)))
            break
        else:
            path.pop()
    work.left = left
    return 0


cdef list check_keys(list items, dict memo, object target=None):
    """Refuse keys that would take forever to hash, or overflow the stack.

    Tuples share their items and remember no hash, so a short stream can make a tuple whose hash
    visits 2**n values, and use it as a key any number of times. Integers remember none either.
    """
    cdef Work work
    cdef bint is_long = False
    for value in items:
        if type(value) is tuple or type(value) is frozenset or is_long_integer(value):
            work = work_of(memo)
            work.left = count_values(value, work.left, 0)
            is_long = True
    cdef Py_ssize_t count = len(items) + (0 if target is None else len(target))
    if count > (COUNTED_LONG_KEYS if is_long else COUNTED_KEYS):
        check_hashes(items, memo, target)
    return items


cdef inline bint is_long_integer(object value):
    """Whether a value is an integer of more than 64 bits."""
    cdef int overflow = 0
    if type(value) is not int:
        return False
    PyLong_AsLongLongAndOverflow(value, &overflow)
    return overflow != 0


cdef int check_hashes(list items, dict memo, object target) except -1:
    """Refuse keys of one dict or set that share a hash: each is compared with all the others.

    Python salts the hashes of text and bytes, and few integers of 64 bits share one.
    """
    cdef Work work = work_of(memo)
    cdef dict hashes = work.hashes
    cdef dict counts
    # The target is kept with its counts, so that no other object gets its id.
    entry = hashes.get(id(target)) if target is not None else None
    if entry is None:
        counts = {}
        if target is not None:
            count_hashes(target, counts, work)
            hashes[id(target)] = (target, counts)
    else:
        counts = entry[1]
    return count_hashes(items, counts, work)


cdef int count_hashes(object keys, dict counts, Work work) except -1:
    for value in keys:
        kind = type(value)
        if kind is str or kind is bytes or (kind is int and not is_long_integer(value)):
            continue
        key = hash(value)
        number = counts.get(key, 0) + 1
        if number > MAX_EQUAL_HASHES:
            raise ExcessivePickleError(
                "has a dict or set with more than 64 keys that share one hash"
            )
        counts[key] = number
        if number > 1:
            # It is compared with all others.
            work.left -= (number - 1) * (MAX_WORK - count_values(value, MAX_WORK, 0))
            if work.left < 0:
                raise ExcessivePickleError("refers to the same values too often")
    return 0


cdef int64_t count_values(object value, int64_t left, int depth) except -1:
    if left <= 0 or depth > MAX_NESTING:
        raise ValueError("a key with too many values")
    left -= 1
    if is_long_integer(value):
        left -= <int64_t>(value.bit_length() >> 6)
    if type(value) is tuple or type(value) is frozenset:
        for item in value:
            left = count_values(item, left, depth + 1)
    return left


cdef inline bint is_container(object value):
    kind = type(value)
    return (
        kind is list or kind is tuple or kind is dict or kind is set or kind is frozenset
        or kind is OrderedDict or (kind is ndarray and value.dtype == object_dtype)
        or kind is Args or (isinstance(value, dtype) and value.hasobject is False and (
            value.names is not None or value.subdtype is not None
        ))
    )


cdef object children(object value):
    kind = type(value)
    if kind is dict or kind is OrderedDict:
        return chain(value.keys(), value.values())
    if kind is ndarray:
        return value.ravel().tolist() if value.dtype == object_dtype else ()
    if kind is Args:
        return (<Args>value).items
    if isinstance(value, dtype):
        if value.subdtype is not None:
            return (value.subdtype[0],)
        return [field[0] for field in value.fields.values()] if value.names is not None else ()
    if is_container(value):
        return value
    return ()


cdef object pack(tuple items):
    for value in items:
        if isinstance(value, StackItem):
            return Args(items)
    return items


cdef int set_items(object target, list items, dict memo) except -1:
    cdef Py_ssize_t i
    if type(target) is not dict and type(target) is not OrderedDict:
        raise BadPickleError(f"sets items of {type(target).__name__}")
    if len(items) % 2:
        raise BadPickleError("has a key without a value")
    check_plain(items)
    check_keys(items[::2], memo, target)
    for i in range(0, len(items), 2):
        target[items[i]] = items[i + 1]
    return 0


cdef bint takes_span(list stack, Py_ssize_t floor):
    """Whether the next bytes are the data of an array."""
    value = stack[floor - 1]
    if type(value) is Pending:
        return (<Pending>value).code is None and len(stack) == floor + 4
    return (
        type(value) is Global and (<Global>value).handler is FROMBUFFER and len(stack) == floor
    )


cdef list plain_args(object args):
    """Return the items of a tuple, with memoryviews in place of spans."""
    cdef list items
    if type(args) is tuple:
        return list(args)
    if type(args) is not Args:
        raise BadPickleError("calls with arguments that are not a tuple")
    items = [
        (<Span>item).view() if type(item) is Span else item for item in (<Args>args).items
    ]
    check_plain(items)
    return items


cdef object reduce(object function, object args, dict memo):
    cdef object handler
    cdef tuple items
    if type(function) is not Global:
        raise RefusedPickleError(f"calls a {type(function).__name__}")
    handler = (<Global>function).handler
    if handler is RECONSTRUCT:
        # _reconstruct(ndarray, (0,), b"b") makes an array whose state follows.
        items = (<Args>args).items if type(args) is Args else ()
        if len(items) != 3 or type(items[0]) is not Global:
            raise BadPickleError("makes an array with wrong arguments")
        if (<Global>items[0]).handler is not NDARRAY:
            raise RefusedPickleError(f"makes an array of the class {(<Global>items[0]).name}")
        return Pending()
    if handler is DTYPE:
        items = tuple(plain_args(args))
        if not items or type(items[0]) is not str:
            raise BadPickleError("makes a dtype without a type code")
        return Pending(items[0])
    if handler is NDARRAY:
        raise RefusedPickleError("calls numpy.ndarray")
    cdef list arguments = plain_args(args)
    for value in arguments:
        # Of all handlers, those of sets alone take a list, and their items are keys.
        if type(value) is list:
            check_keys(value, memo)
    return handler(*arguments)


cdef object build(object target, object state, dict memo):
    if type(target) is not Pending:
        raise RefusedPickleError(f"sets the state of a {type(target).__name__}")
    cdef object items = plain_args(state)
    if (<Pending>target).code is None:
        if len(items) == 5 and type(items[4]) is list:
            check_depth(items[4], memo)
        return array_from_state(*items)
    check_depth(items, memo)
    return dtype_from_state((<Pending>target).code, *items)
