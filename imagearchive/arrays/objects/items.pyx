"""What the unpickler does with globals, arguments and states.

Globals, unfinished arrays and bytes that were not copied out of the stream are `StackItem` objects
on the unpickler's stack. They are accepted only where NumPy's own pickles put them, and never get
into decoded data.
"""

from collections import OrderedDict

from imagearchive.arrays.objects.allowed import (
    DTYPE,
    FROMBUFFER,
    NDARRAY,
    RECONSTRUCT,
    array_from_state,
    check_keys,
    dtype_from_state,
)


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


cdef int check_plain(list items) except -1:
    for value in items:
        if isinstance(value, StackItem):
            if type(value) is Global:
                raise RefusedPickleError(f"has {(<Global>value).name} as a value")
            raise BadPickleError("uses a value before it is complete")
    return 0


cdef object pack(tuple items):
    for value in items:
        if isinstance(value, StackItem):
            return Args(items)
    return items


cdef int set_items(object target, list items) except -1:
    cdef Py_ssize_t i
    if type(target) is not dict and type(target) is not OrderedDict:
        raise BadPickleError(f"sets items of {type(target).__name__}")
    if len(items) % 2:
        raise BadPickleError("has a key without a value")
    check_plain(items)
    check_keys(items[::2])
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


cdef object reduce(object function, object args):
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
    return handler(*plain_args(args))


cdef object build(object target, object state):
    if type(target) is not Pending:
        raise RefusedPickleError(f"sets the state of a {type(target).__name__}")
    if (<Pending>target).code is None:
        return array_from_state(*plain_args(state))
    return dtype_from_state((<Pending>target).code, *plain_args(state))
