"""What may stand on the stack of the machine that decodes pickled arrays."""

cdef class Internal:
    pass

cdef class Global(Internal):
    cdef object handler
    cdef str name

cdef class Pending(Internal):
    cdef object code  # of a dtype; None for an array
    cdef object id    # its memo entry

cdef class Args(Internal):
    cdef tuple items

cdef class Span(Internal):
    cdef object owner
    cdef Py_ssize_t offset, size
    cdef object view(self)

cdef int check_plain(list items) except -1
cdef object pack(tuple items)
cdef int set_items(object target, list items) except -1
cdef bint takes_span(list stack, Py_ssize_t floor)
cdef object reduce(object function, object args)
cdef object build(object target, object state)
