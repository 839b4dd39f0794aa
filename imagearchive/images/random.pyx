# cython: overflowcheck=False
# Philox is defined by multiplication and addition that wrap around.
"""Random numbers that depend only on a key and a counter: Philox 4x32-10.

J. Salmon, M. Moraes, R. Dror, D. Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from cython cimport final
from libc.math cimport cos, log, sqrt, M_PI
from libc.stdint cimport uint32_t, uint64_t

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
    try:
        # As a Python integer: NumPy's would overflow.
        return operator.index(value) & 0xFFFFFFFFFFFFFFFF
    except TypeError:
        raise OptionTypeError(f"{name} must be an integer, got {value!r}") from None


@final
cdef class Stream:
    """The random numbers of one transform for one sample. Not thread-safe."""

    cdef uint32_t counter[4]
    cdef uint32_t key[2]
    cdef uint32_t words[4]
    cdef int used

    def __cinit__(self, seed, epoch, index, position):
        # Counter: sample (64 bits), epoch (32), position in the pipeline (16), block (16).
        cdef uint64_t s = low_bits(seed, "seed"), i = low_bits(index, "index")
        self.key[0] = <uint32_t> s
        self.key[1] = <uint32_t> (s >> 32)
        self.counter[0] = <uint32_t> i
        self.counter[1] = <uint32_t> (i >> 32)
        self.counter[2] = <uint32_t> low_bits(epoch, "epoch")
        self.counter[3] = <uint32_t> (low_bits(position, "position") << 16)
        self.used = 4

    cdef uint32_t word(self) except? 0xFFFFFFFF:
        cdef uint32_t value
        if self.used == 4:
            philox(self.counter, self.key[0], self.key[1], self.words)
            self.counter[3] += 1
            if not self.counter[3] & 0xFFFF:
                raise OptionError("a transform drew more than 262,140 numbers for one sample; "
                                  "use generator() of its stream instead")
            self.used = 0
        value = self.words[self.used]
        self.used += 1
        return value

    cdef double unit(self) except? -1.0:
        cdef uint64_t high = self.word() >> 5, low = self.word() >> 6
        return (<double> high * 67108864.0 + <double> low) / 9007199254740992.0

    def random(self):
        """Return a float in [0, 1) with 53 random bits."""
        return self.unit()

    def uniform(self, double low, double high):
        """Return a float in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, n):
        """Return an integer in [0, n), without bias."""
        cdef uint64_t limit = n, value, rest
        if limit == 0 or limit > 0xFFFFFFFF:
            raise OptionError(f"n must be from 1 to 2**32 - 1, got {n}")
        # Words from the largest multiple of n on would favor small results.
        rest = <uint64_t> 0x100000000 % limit
        while True:
            value = self.word()
            if value < <uint64_t> 0x100000000 - rest:
                return value % limit

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
