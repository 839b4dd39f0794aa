"""A zlib decoder that shows where the blocks of a deflate stream begin, and can start at one.

Python's `zlib` module can do neither. zlib itself releases blocks one by one on request, and knows
the bit at which the next one starts and the output that it may refer to.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memset

__all__ = ["GZIP", "RAW", "Inflater"]

cdef extern from "zlib.h" nogil:
    ctypedef struct z_stream:
        uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
        const char* msg
        int data_type
    int inflateInit2(z_stream* stream, int window_bits)
    int inflate(z_stream* stream, int flush)
    int inflateEnd(z_stream* stream)
    int inflatePrime(z_stream* stream, int bits, int value)
    int inflateSetDictionary(z_stream* stream, const uint8_t* dictionary, unsigned int length)
    int inflateGetDictionary(z_stream* stream, uint8_t* dictionary, unsigned int* length)
    int Z_OK, Z_STREAM_END, Z_BUF_ERROR, Z_MEM_ERROR, Z_NO_FLUSH, Z_BLOCK

cdef enum:
    WINDOW = 32768
    # Of `data_type` after Z_BLOCK: how many bits of the last byte are not used yet, whether that
    # was the last block, and whether a block has just ended.
    UNUSED_BITS = 7
    LAST_BLOCK = 64
    BLOCK_ENDED = 128

RAW = -15
GZIP = 31


cdef class Inflater:
    """Decoder of one raw deflate stream, or of one gzip member with its header and trailer.

    Not safe for use by several threads at once. After an error it cannot be used again.

    Parameters
    ----------
    format : int
        `RAW` or `GZIP`. The CRC-32 and the length at the end of a gzip member are checked.
    window : bytes-like, optional
        The output before the block at which to start, up to 32 KiB; only for `RAW`.
    bits : int, default=0
        How many bits of the byte before the first one of the input belong to that block.
    byte : int, default=0
        That byte.

    Attributes
    ----------
    ended : bool
        The stream has ended.
    at_block : bool
        The decoder stands between two blocks, so it could start here.
    bits : int
        How many bits of the last byte of the input are not used yet, if `at_block`.
    """

    cdef z_stream stream
    cdef bint initialized
    cdef readonly bint ended
    cdef readonly bint at_block
    cdef readonly int bits

    def __cinit__(self, int format, const uint8_t[::1] window=None, int bits=0, int byte=0):
        memset(&self.stream, 0, sizeof(z_stream))
        if not 0 <= bits <= 7 or not 0 <= byte <= 255 or format not in (RAW, GZIP):
            raise ValueError("a format, up to 7 bits and a byte are needed")
        if format != RAW and (window is not None or bits):
            raise ValueError("only a raw stream can be entered in the middle")
        if inflateInit2(&self.stream, format) != Z_OK:
            raise MemoryError("zlib cannot allocate a decoder")
        self.initialized = True
        if bits and inflatePrime(&self.stream, bits, byte >> (8 - bits)) != Z_OK:
            raise ValueError("zlib refuses the bits")
        if window is not None and window.shape[0]:
            if window.shape[0] > WINDOW:
                raise ValueError("a window has up to 32 KiB")
            if inflateSetDictionary(&self.stream, &window[0], window.shape[0]) != Z_OK:
                raise ValueError("zlib refuses the window")

    def __dealloc__(self):
        if self.initialized:
            inflateEnd(&self.stream)

    def decompress(
        self, const uint8_t[::1] source not None, Py_ssize_t size, bint stop_at_block=False
    ):
        """Decompress up to `size` bytes.

        Parameters
        ----------
        source : bytes-like
            The next bytes of the input.
        size : int
            More than 0.
        stop_at_block : bool
            Stop before the next block.

        Returns
        -------
        data : bytes
            Empty if the input does not suffice for a byte.
        consumed : int
            How many bytes of `source` are used up.

        Raises
        ------
        ValueError
            The stream is damaged; the message is zlib's.
        """
        cdef bytes data
        cdef uint8_t* target
        cdef int code = Z_OK
        cdef Py_ssize_t fed = min(source.shape[0], 1 << 30), made
        cdef uint8_t nothing = 0
        if not 0 < size <= 1 << 30:
            raise ValueError("size must be from 1 to 2**30")
        if self.ended:
            return b"", 0
        data = PyBytes_FromStringAndSize(NULL, size)
        target = <uint8_t*> PyBytes_AS_STRING(data)
        # zlib does not write through next_in.
        self.stream.next_in = <uint8_t*> &source[0] if fed else &nothing
        self.stream.avail_in = fed
        self.stream.next_out = target
        self.stream.avail_out = size
        with nogil:
            code = inflate(&self.stream, Z_BLOCK if stop_at_block else Z_NO_FLUSH)
        fed -= self.stream.avail_in
        made = size - <Py_ssize_t> self.stream.avail_out
        self.stream.next_in = NULL
        self.stream.next_out = NULL
        self.ended = code == Z_STREAM_END
        self.bits = self.stream.data_type & UNUSED_BITS
        self.at_block = (
            not self.ended
            and self.stream.data_type & BLOCK_ENDED
            and not self.stream.data_type & LAST_BLOCK
        )
        if code == Z_MEM_ERROR:
            raise MemoryError("zlib cannot allocate a window")
        # Z_BUF_ERROR: neither input nor room for output was left.
        if code != Z_OK and code != Z_STREAM_END and code != Z_BUF_ERROR:
            raise ValueError(
                self.stream.msg.decode("ascii", "replace")
                if self.stream.msg != NULL else "the stream needs a preset dictionary"
            )
        return data[:made] if made < size else data, fed

    def window(self):
        """Return the last output that the next block may refer to, up to 32 KiB, as bytes."""
        cdef uint8_t found[WINDOW]
        cdef unsigned int length = 0
        if inflateGetDictionary(&self.stream, found, &length) != Z_OK:
            raise ValueError("zlib has no window")
        return PyBytes_FromStringAndSize(<char*> found, length)
