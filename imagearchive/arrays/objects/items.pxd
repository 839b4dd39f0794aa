"""Values that exist only on the unpickler's stack, and what it does with them."""

from libc.stdint cimport int64_t, uint64_t

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
cdef class Work:
    cdef int64_t left      # how many more values may be visited to check what was read
    cdef uint64_t created  # containers made so far
    cdef uint64_t largest  # the most containers that one range made
    cdef bint shared       # whether a container was fetched from the memo
    cdef dict hashes       # how many keys of each large dict or set share a hash, by its id

cdef Work work_of(dict memo)
cdef int check_depth(object root, dict memo, int levels=*) except -1
cdef list check_keys(list items, dict memo, object target=*)
cdef object pack(tuple items)
cdef int set_items(object target, list items, dict memo) except -1
cdef bint takes_span(list stack, Py_ssize_t floor)
cdef object reduce(object function, object args, dict memo)
cdef object build(object target, object state, dict memo)
