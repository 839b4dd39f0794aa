"""What the machine that decodes pickled arrays does with names, arguments and states.

Names, unfinished arrays and bytes that still lie in the stream stand on the machine's stack as
`Internal` values. They are accepted where NumPy's own pickles put them, and never get into data.
"""

from collections import OrderedDict

from imagearchive.arrays.objects.allowed import (
    DTYPE,
    FROMBUFFER,
    NDARRAY,
    RECONSTRUCT,
    array_of,
    check_keys,
    dtype_of,
)


cdef class Internal:
    """What may stand on the stack but never in a value."""


cdef class Global(Internal):
    def __cinit__(self, handler, str name):
        self.handler = handler
        self.name = name


cdef class Pending(Internal):
    """An array or dtype that waits for its state."""

    def __cinit__(self, code=None):
        self.code = code


cdef class Args(Internal):
    """A tuple that holds internals: arguments of a handler, or a state."""

    def __cinit__(self, tuple items):
        self.items = items


cdef class Span(Internal):
    """Bytes that were not copied out of the stream."""

    def __cinit__(self, owner, Py_ssize_t offset, Py_ssize_t size):
        self.owner = owner
        self.offset = offset
        self.size = size

    cdef object view(self):
        return memoryview(self.owner)[self.offset : self.offset + self.size]


class BadPickleError(Exception):
    """Something in the stream is wrong; the machine adds where."""


class RefusedPickleError(Exception):
    """The stream asks for more than plain data; the machine adds where."""


cdef int check_plain(list items) except -1:
    for value in items:
        if isinstance(value, Internal):
            if type(value) is Global:
                raise RefusedPickleError(f"holds {(<Global>value).name} itself as data")
            raise BadPickleError("uses a value before it is whole")
    return 0


cdef object pack(tuple items):
    for value in items:
        if isinstance(value, Internal):
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
    """Whether the next bytes are the content of an array."""
    value = stack[floor - 1]
    if type(value) is Pending:
        return (<Pending>value).code is None and len(stack) == floor + 4
    return (
        type(value) is Global and (<Global>value).handler is FROMBUFFER and len(stack) == floor
    )


cdef list plain_args(object args):
    """The items of a tuple, with views for spans."""
    cdef list items
    if type(args) is tuple:
        return list(args)
    if type(args) is not Args:
        raise BadPickleError("calls with what is no tuple")
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
        # _reconstruct(ndarray, (0,), b"b"): an array that waits for its state.
        items = (<Args>args).items if type(args) is Args else ()
        if len(items) != 3 or type(items[0]) is not Global:
            raise BadPickleError("makes an array of nothing")
        if (<Global>items[0]).handler is not NDARRAY:
            raise RefusedPickleError(f"makes an array of {(<Global>items[0]).name}")
        return Pending()
    if handler is DTYPE:
        items = tuple(plain_args(args))
        if not items or type(items[0]) is not str:
            raise BadPickleError("makes a dtype of what is no code")
        return Pending(items[0])
    if handler is NDARRAY:
        raise RefusedPickleError("calls numpy.ndarray")
    return handler(*plain_args(args))


cdef object build(object target, object state):
    if type(target) is not Pending:
        raise RefusedPickleError(f"sets the state of a {type(target).__name__}")
    if (<Pending>target).code is None:
        return array_of(*plain_args(state))
    return dtype_of((<Pending>target).code, *plain_args(state))
