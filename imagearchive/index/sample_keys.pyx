"""Keys of samples: the part that the names of their files have in common, for all rows at once."""

from libc.stdint cimport uint8_t, uint64_t

import numpy as np

from imagearchive.index.names cimport check, is_reserved, lower

from imagearchive.errors import CorruptIndexError


cdef void check_keys(
    const uint8_t[::1] names, const uint64_t[::1] offsets, const uint64_t[::1] ends
) except *:
    """Raise unless every name is inside `names`, and every key inside its name."""
    check(names, offsets)
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    cdef bint good = ends.shape[0] == count
    if good:
        with nogil:
            for i in range(count):
                if ends[i] > offsets[i + 1] - offsets[i]:
                    good = False
                    break
    if not good:
        raise CorruptIndexError("the keys of the samples are not inside their names")


def key_ends(const uint8_t[::1] names not None, const uint64_t[::1] offsets not None):
    """Return where the key of each name ends: at the first dot of its last component.

    A leading dot does not count. A name without any other dot has no extension: all of it is the
    key.

    Returns
    -------
    ends : ndarray of uint64, shape (N,)
        Lengths in bytes.
    """
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    cdef uint64_t j, size, component
    check(names, offsets)
    ends_array = np.empty(count, np.uint64)
    cdef uint64_t[::1] ends = ends_array
    with nogil:
        for i in range(count):
            size = offsets[i + 1] - offsets[i]
            component = size
            while component > 0 and names[offsets[i] + component - 1] != b"/":
                component -= 1
            j = component + 1
            while j < size and names[offsets[i] + j] != b".":
                j += 1
            ends[i] = j if j < size else size
    return ends_array


def belong_to_samples(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    const uint64_t[::1] ends not None,
):
    """Mark the names that are files of samples, by the rules of WebDataset.

    Files without an extension, hidden files, and all below a directory such as ``__meta__`` are
    not.

    Returns
    -------
    mask : ndarray of bool, shape (N,)
    """
    check_keys(names, offsets, ends)
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    cdef uint64_t start, size, component
    mask_array = np.zeros(count, np.uint8)
    cdef uint8_t[::1] mask = mask_array
    with nogil:
        for i in range(count):
            start = offsets[i]
            size = offsets[i + 1] - start
            component = ends[i]
            if component >= size:
                continue
            while component > 0 and names[start + component - 1] != b"/":
                component -= 1
            if names[start + component] == b".":
                continue
            mask[i] = not is_reserved(&names[start], size)
    return mask_array.view(np.bool_)


def have_extension(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    const uint64_t[::1] ends not None,
    wanted,
):
    """Mark the names whose extension is one of those wanted; the case of ASCII letters is ignored.

    Parameters
    ----------
    wanted : sequence of bytes
        Extensions in lower case, without the leading dot.

    Returns
    -------
    mask : ndarray of bool, shape (N,)
    """
    check_keys(names, offsets, ends)
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    cdef uint64_t j, start, size
    cdef const uint8_t[::1] extension
    mask_array = np.zeros(count, np.uint8)
    cdef uint8_t[::1] mask = mask_array
    for one in wanted:
        if not one:
            continue
        extension = one.lower()
        with nogil:
            for i in range(count):
                start = offsets[i] + ends[i] + 1
                if start > offsets[i + 1]:
                    continue
                size = offsets[i + 1] - start
                if size != <uint64_t> extension.shape[0]:
                    continue
                for j in range(size):
                    if lower(names[start + j]) != extension[j]:
                        break
                else:
                    mask[i] = 1
    return mask_array.view(np.bool_)
