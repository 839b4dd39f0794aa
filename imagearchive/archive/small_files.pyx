"""Read or create many small files of one directory, without Python in between."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

cdef extern from "<fcntl.h>" nogil:
    int openat(int folder, const char* path, int flags, ...)
    int O_CLOEXEC
    int O_CREAT
    int O_EXCL
    int O_NOFOLLOW
    int O_NONBLOCK
    int O_RDONLY
    int O_WRONLY

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        int st_mode
        int64_t st_size
        int64_t st_mtime
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    int fstat(int file, stat_t* status)
    int futimens(int file, const timespec* times)
    bint S_ISREG(int mode)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t read(int file, void* target, size_t size)
    Py_ssize_t write(int file, const void* source, size_t size)
    int close(int file)
    int unlinkat(int folder, const char* path, int flags)

cdef enum:
    BLOCK = 512
    NAME_FIELD = 100
    SIZE_PLACE = 124
    TIME_PLACE = 136
    CHECKSUM_PLACE = 148

cdef int64_t NANOSECONDS = 1_000_000_000

cdef struct Text:
    const uint8_t* start
    Py_ssize_t size


cdef inline void octal(uint8_t* target, int digits, uint64_t value) noexcept nogil:
    cdef int place
    for place in range(digits - 1, -1, -1):
        target[place] = <uint8_t> (48 + (value & 7))
        value >>= 3


cdef Py_ssize_t member(
    int folder,
    Text prefix,
    Text name,
    const uint8_t* template,
    bint keep_mtime,
    Py_ssize_t largest,
    uint8_t* target,
    Py_ssize_t room,
) noexcept nogil:
    """Write one member; return its length, 0 if it does not fit, -1 if it is a special case."""
    cdef Py_ssize_t i, count, done = 0, length = prefix.size + name.size
    cdef unsigned int checksum = 0
    cdef stat_t status
    cdef int file
    if length > NAME_FIELD or length == 0:
        return -1
    if room < BLOCK + 1:
        return 0
    for i in range(prefix.size):
        if prefix.start[i] >= 0x80:
            return -1
    for i in range(name.size):
        if name.start[i] >= 0x80:
            return -1
    file = openat(folder, <const char*> name.start, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    if file < 0:
        return -1
    if fstat(file, &status) != 0 or not S_ISREG(status.st_mode) or status.st_size > largest:
        close(file)
        return -1
    # One byte more than the file should have shows one that grows.
    if BLOCK + ((status.st_size + BLOCK) // BLOCK) * BLOCK + 1 > room:
        close(file)
        return 0
    while True:
        count = read(file, target + BLOCK + done, <size_t> (status.st_size + 1 - done))
        if count < 0 and errno == EINTR:
            continue
        if count <= 0:
            break
        done += count
        if done >= status.st_size:
            break
    close(file)
    if done != status.st_size or (keep_mtime and not 0 <= status.st_mtime < (<int64_t> 1 << 33)):
        return -1
    memcpy(target, template, BLOCK)
    memcpy(target, prefix.start, <size_t> prefix.size)
    memcpy(target + prefix.size, name.start, <size_t> name.size)
    octal(target + SIZE_PLACE, 11, <uint64_t> status.st_size)
    if keep_mtime:
        octal(target + TIME_PLACE, 11, <uint64_t> status.st_mtime)
    for i in range(BLOCK):
        checksum += target[i]
    octal(target + CHECKSUM_PLACE, 6, checksum)
    # The checksum is counted with its own field blank; what follows the digits is fixed.
    target[CHECKSUM_PLACE + 6] = 0
    length = BLOCK + done
    count = -length & (BLOCK - 1)
    memset(target + length, 0, <size_t> count)
    return length + count


def fill(
    int folder,
    bytes prefix not None,
    tuple names not None,
    Py_ssize_t start,
    bytes template not None,
    bint keep_mtime,
    Py_ssize_t largest,
    uint8_t[::1] buffer not None,
):
    """Read files of one directory until all are done, the buffer is full, or one is special.

    Parameters
    ----------
    folder : int
        Descriptor of the directory.
    prefix : bytes
        Its name in the archive, with a slash.
    names : tuple of bytes
        The files.
    start : int
        Which of them to begin with.
    template : bytes of length 512
        The header of an empty file without a name, its checksum field blank.
    keep_mtime : bool
        Take the times of the files instead of that of the template.
    largest : int
        Files of more bytes are special.
    buffer : writable buffer
        What is filled, from its beginning.

    Returns
    -------
    next : int
        The file that comes next, ``len(names)`` if there is none.
    used : int
        Bytes of the buffer that are filled.
    special : bool
        Whether the next file must be added in another way: it is large, cannot be opened, is not a
        regular file, changed while it was read, or its name needs another header.

    Raises
    ------
    ValueError
        `start` or the template is out of range.
    """
    cdef Py_ssize_t i, done, used = 0, count = len(names), room = buffer.shape[0]
    cdef Text* texts
    cdef Text before
    cdef const uint8_t* head = template
    cdef bytes name
    if not 0 <= start <= count or len(template) != BLOCK:
        raise ValueError("start or template is out of range")
    if start == count or room == 0:
        return start, 0, False
    before.start = prefix
    before.size = len(prefix)
    texts = <Text*> malloc(<size_t> count * sizeof(Text))
    if texts == NULL:
        raise MemoryError()
    try:
        for i in range(start, count):
            name = names[i]
            # The tuple keeps the bytes, which end with a NUL.
            texts[i].start = name
            texts[i].size = len(name)
        done = 0
        with nogil:
            i = start
            while i < count:
                done = member(
                    folder, before, texts[i], head, keep_mtime, largest,
                    &buffer[used], room - used,
                )
                if done <= 0:
                    break
                used += done
                i += 1
                if used == room:
                    done = 0
                    break
    finally:
        free(texts)
    return i, used, i < count and done < 0


cdef bint create_one(
    int folder,
    const char* name,
    const uint8_t* data,
    uint64_t size,
    uint32_t mode,
    int64_t mtime,
) noexcept nogil:
    """Create one file; return whether it is whole. If not, nothing is left of it."""
    cdef timespec times[2]
    cdef Py_ssize_t count
    cdef uint64_t done = 0
    cdef bint good
    cdef int file
    file = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode)
    if file < 0:
        return False
    while done < size:
        count = write(file, data + done, <size_t> (size - done))
        if count < 0 and errno == EINTR:
            continue
        if count <= 0:
            break
        done += <uint64_t> count
    good = done == size
    # Set last: a file that has its time is whole.
    if good and mtime != 0:
        times[0].tv_sec = mtime // NANOSECONDS - (mtime % NANOSECONDS < 0)
        times[0].tv_nsec = <long> (mtime - times[0].tv_sec * NANOSECONDS)
        times[1] = times[0]
        good = futimens(file, times) == 0
    good = close(file) == 0 and good
    if not good:
        unlinkat(folder, name, 0)
    return good


def create_files(
    int folder,
    tuple names not None,
    const uint8_t[::1] source not None,
    const uint64_t[::1] offsets not None,
    const uint64_t[::1] sizes not None,
    const uint32_t[::1] modes not None,
    const int64_t[::1] mtimes not None,
):
    """Create files of one directory from ranges of a buffer, each whole or not at all.

    They are created under their own names, and nothing is replaced.

    Parameters
    ----------
    folder : int
        Descriptor of the directory.
    names : tuple of bytes
        The files, without their directory.
    source : buffer
        Holds their content.
    offsets, sizes : uint64 of shape (n,)
        The range of each file in `source`, in bytes.
    modes : uint32 of shape (n,)
        Permission bits, to which the umask is applied.
    mtimes : int64 of shape (n,)
        Modification times in nanoseconds; 0 leaves the present time.

    Returns
    -------
    int
        How many files were created. If it is less than all, the next one was not: something has
        its name, its range is outside `source`, or the system refused.

    Raises
    ------
    ValueError
        The arrays are not as long as `names`, or a name contains a NUL byte.
    """
    cdef Py_ssize_t i = 0, count = len(names)
    cdef uint64_t size = <uint64_t> source.shape[0]
    cdef const uint8_t* data = &source[0] if size else NULL
    cdef const char** targets
    cdef bytes name
    if not (
        count == offsets.shape[0] == sizes.shape[0] == modes.shape[0] == mtimes.shape[0]
    ):
        raise ValueError("there must be an offset, size, mode and time for each name")
    if count == 0:
        return 0
    targets = <const char**> malloc(<size_t> count * sizeof(char*))
    if targets == NULL:
        raise MemoryError()
    try:
        for i in range(count):
            # The tuple keeps the bytes, which end with a NUL.
            name = names[i]
            targets[i] = name
            if strlen(targets[i]) != <size_t> len(name):
                raise ValueError("a file name contains a NUL byte")
        i = 0
        with nogil:
            while i < count:
                if offsets[i] > size or sizes[i] > size - offsets[i]:
                    break
                if not create_one(
                    folder, targets[i], data + offsets[i], sizes[i], modes[i], mtimes[i]
                ):
                    break
                i += 1
    finally:
        free(targets)
    return i
