"""Values that exist only on the unpickler's stack, and what it does with them."""

cdef class StackItem:
    pass

cdef class Global(StackItem):
    cdef object handler
    cdef str name

cdef class Pending(StackItem):
    cdef object code  # that of a dtype; None for an array
    cdef object id    # memo entry, or None

cdef class Args(StackItem):
    cdef tuple items

cdef class Span(StackItem):
    cdef object owner
    cdef Py_ssize_t offset, size
    cdef object view(self)

cdef int check_plain(list items) except -1
cdef object pack(tuple items)
cdef int set_items(object target, list items) except -1
cdef bint takes_span(list stack, Py_ssize_t floor)
cdef object reduce(object function, object args)
cdef object build(object target, object state)
