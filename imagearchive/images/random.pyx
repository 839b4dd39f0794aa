# cython: overflowcheck=False
# Philox is defined by multiplication and addition that wrap around.
"""Random numbers that depend only on a key and a counter: Philox 4x32-10.

J. Salmon, M. Moraes, R. Dror, D. Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from cython cimport final
from cpython.long cimport PyLong_AsUnsignedLongLongMask
from libc.math cimport cos, log, sqrt, M_PI
from libc.stdint cimport int64_t, uint32_t, uint64_t

import operator

import numpy as np

from imagearchive.errors import OptionError, OptionTypeError


cdef void philox(const uint32_t *counter, uint32_t k0, uint32_t k1,
                 uint32_t *out) noexcept nogil:
    cdef uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3]
    cdef uint64_t a, b
    cdef int turn
    for turn in range(10):
        a = <uint64_t> 0xD2511F53 * c0
        b = <uint64_t> 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (<uint32_t> (b >> 32) ^ c1 ^ k0, <uint32_t> b,
                          <uint32_t> (a >> 32) ^ c3 ^ k1, <uint32_t> a)
        k0 += <uint32_t> 0x9E3779B9
        k1 += <uint32_t> 0xBB67AE85
    out[0], out[1], out[2], out[3] = c0, c1, c2, c3


def philox_block(counter, key):
    """Return four 32-bit words for a counter of four words and a key of two."""
    cdef uint32_t c[4]
    cdef uint32_t out[4]
    cdef int i
    for i in range(4):
        c[i] = counter[i]
    philox(c, key[0], key[1], out)
    return out[0], out[1], out[2], out[3]


cdef uint64_t low_bits(value, str name) except? 0xFFFFFFFFFFFFFFFF:
    """Return the low 64 bits of an integer, in two's complement."""
    if type(value) is int:
        return PyLong_AsUnsignedLongLongMask(value)
    try:
        # As a Python integer: NumPy's would overflow.
        return operator.index(value) & 0xFFFFFFFFFFFFFFFF
    except TypeError:
        raise OptionTypeError(f"{name} must be an integer, got {value!r}") from None


cdef exhausted():
    return OptionError("a transform drew more than 262,140 numbers for one sample; use generator() "
                       "of its stream instead")


cdef void stream_start(px_stream *s, uint64_t seed, uint32_t epoch, uint64_t index,
                       uint32_t position) noexcept nogil:
    # Counter: sample (64 bits), epoch (32), position in the pipeline (16), block (16).
    s.key[0] = <uint32_t> seed
    s.key[1] = <uint32_t> (seed >> 32)
    s.counter[0] = <uint32_t> index
    s.counter[1] = <uint32_t> (index >> 32)
    s.counter[2] = epoch
    s.counter[3] = position << 16
    s.used = 4


cdef int stream_word(px_stream *s, uint32_t *value) noexcept nogil:
    if s.used == 4:
        philox(s.counter, s.key[0], s.key[1], s.words)
        s.counter[3] += 1
        if not s.counter[3] & 0xFFFF:
            return -1
        s.used = 0
    value[0] = s.words[s.used]
    s.used += 1
    return 0


cdef int stream_unit(px_stream *s, double *value) noexcept nogil:
    cdef uint32_t high, low
    if stream_word(s, &high) or stream_word(s, &low):
        return -1
    value[0] = (<double> (high >> 5) * 67108864.0 + <double> (low >> 6)) / 9007199254740992.0
    return 0


cdef int stream_uniform(px_stream *s, double low, double high, double *value) noexcept nogil:
    cdef double unit
    if stream_unit(s, &unit):
        return -1
    value[0] = low + (high - low) * unit
    return 0


cdef int stream_below(px_stream *s, uint64_t limit, int64_t *value) noexcept nogil:
    # Words from the largest multiple of the limit on would favor small results.
    cdef uint64_t rest = <uint64_t> 0x100000000 % limit
    cdef uint32_t word
    while True:
        if stream_word(s, &word):
            return -1
        if word < <uint64_t> 0x100000000 - rest:
            value[0] = <int64_t> (word % limit)
            return 0


@final
cdef class Stream:
    """The random numbers of one transform for one sample. Not thread-safe."""

    def __cinit__(self, seed, epoch, index, position):
        stream_start(&self.s, low_bits(seed, "seed"), <uint32_t> low_bits(epoch, "epoch"),
                     low_bits(index, "index"), <uint32_t> low_bits(position, "position"))

    cdef uint32_t word(self) except? 0xFFFFFFFF:
        cdef uint32_t value = 0
        if stream_word(&self.s, &value):
            raise exhausted()
        return value

    cdef double unit(self) except? -1.0:
        cdef double value = 0
        if stream_unit(&self.s, &value):
            raise exhausted()
        return value

    def random(self):
        """Return a float in [0, 1) with 53 random bits."""
        return self.unit()

    def uniform(self, double low, double high):
        """Return a float in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, n):
        """Return an integer in [0, n), without bias."""
        cdef uint64_t limit = n
        cdef int64_t value = 0
        if limit == 0 or limit > 0xFFFFFFFF:
            raise OptionError(f"n must be from 1 to 2**32 - 1, got {n}")
        if stream_below(&self.s, limit, &value):
            raise exhausted()
        return value

    def normal(self):
        """Return a standard normal number (Box and Muller)."""
        return sqrt(-2.0 * log(1.0 - self.unit())) * cos(2.0 * M_PI * self.unit())

    def permutation(self, int n):
        """Return the numbers 0 to n - 1 in random order, as a list."""
        cdef int i, j
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order

    def generator(self):
        """Return a NumPy generator, seeded from this stream."""
        seed = [self.word() for _ in range(4)]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
