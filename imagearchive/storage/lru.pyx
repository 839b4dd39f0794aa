"""`LRUCache`: a bounded mapping that threads share."""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject

from types import GenericAlias

__all__ = ["LRUCache"]


@cython.final
cdef class Entry:
    """A value, and its neighbors in the order of the last use, which it does not keep alive."""

    cdef object key
    cdef object value
    cdef PyObject* older
    cdef PyObject* newer


@cython.final
cdef class LRUCache:
    """The entries used most recently, at most `limit` of them.

    Parameters
    ----------
    limit : int
        How many entries to keep; 0 keeps none. A new value takes effect at the next `setdefault`.
    on_evict : callable, optional
        Called with each value that is dropped by `setdefault` or `clear`.

    Notes
    -----
    Safe for threads, and after a fork at any moment. Keys are `int`, `str`, or `bytes`, so no step
    runs code of others: each is atomic under the GIL. Threads that add entries at the same time may
    drop an entry more than necessary. A value may still be in use elsewhere when it is dropped, so
    `on_evict` must not invalidate values that threads share.
    """

    # Without the GIL, each step is a critical section. Python lets other threads into it as soon as
    # its thread waits for a lock. Nothing in these sections does: no object is made in them, and
    # none loses its last reference or that of the thread that made it. `OrderedDict` would do so.
    # Nor can the process fork in the middle.

    cdef public Py_ssize_t limit
    cdef object on_evict
    # Keeps the entries alive.
    cdef dict entries
    cdef PyObject* oldest
    cdef PyObject* newest

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self, limit, on_evict=None):
        self.limit = limit
        self.on_evict = on_evict
        self.entries = {}

    def __len__(self):
        return len(self.entries)

    def get(self, key, default=None):
        """Return the value of a key and mark it as used; `default` if there is none."""
        cdef PyObject* found
        cdef object value = default
        with cython.critical_section(self):
            found = PyDict_GetItemWithError(self.entries, key)
            if found != NULL:
                self.unlink(<Entry> found)
                self.link(<Entry> found)
                value = (<Entry> found).value
        return value

    def setdefault(self, key, value):
        """Add a value unless the key has one, drop what exceeds the limit, and return the kept one.

        Of several threads that add the same key at once, all get the value of the first.
        """
        cdef PyObject* found
        cdef Entry entry = Entry()
        cdef object kept = value
        entry.key = key
        entry.value = value
        with cython.critical_section(self):
            found = PyDict_GetItemWithError(self.entries, key)
            if found == NULL:
                self.entries[key] = entry
                self.link(entry)
            else:
                kept = (<Entry> found).value
        while len(self.entries) > self.limit:
            self.drop_oldest()
        return kept

    def values(self):
        """Return all values, in the order of their last use."""
        cdef PyObject* entry
        cdef list found = [None] * len(self.entries)
        cdef Py_ssize_t count = 0
        with cython.critical_section(self):
            entry = self.oldest
            # Entries that are added meanwhile are left out.
            while entry != NULL and count < len(found):
                found[count] = (<Entry> entry).value
                count += 1
                entry = (<Entry> entry).newer
        return found[:count]

    def pop_oldest(self):
        """Remove the value that was unused longest and return it; None if there is none left."""
        cdef Entry entry = self.take_oldest()
        return None if entry is None else entry.value

    def clear(self):
        """Drop all entries."""
        while self.entries:
            self.drop_oldest()

    cdef void link(self, Entry entry) noexcept:
        """Put an entry at the end of those used last."""
        entry.older = self.newest
        entry.newer = NULL
        if self.newest == NULL:
            self.oldest = <PyObject*> entry
        else:
            (<Entry> self.newest).newer = <PyObject*> entry
        self.newest = <PyObject*> entry

    cdef void unlink(self, Entry entry) noexcept:
        if entry.older == NULL:
            self.oldest = entry.newer
        else:
            (<Entry> entry.older).newer = entry.newer
        if entry.newer == NULL:
            self.newest = entry.older
        else:
            (<Entry> entry.newer).older = entry.older

    cdef Entry take_oldest(self):
        """Remove and return the entry that was unused longest, or None."""
        # They lose their last reference only when this method returns.
        cdef Entry entry = None
        cdef object key = None
        with cython.critical_section(self):
            if self.oldest != NULL:
                entry = <Entry> self.oldest
                key = entry.key
                self.unlink(entry)
                del self.entries[key]
        return entry

    cdef int drop_oldest(self) except -1:
        cdef Entry entry = self.take_oldest()
        if entry is not None and self.on_evict is not None:
            self.on_evict(entry.value)
        return 0
