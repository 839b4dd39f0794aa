"""Headers of ``.npy`` files, against NumPy."""

from __future__ import annotations

import ast
import io
import warnings
from collections.abc import Hashable, Iterable
from random import Random

import numpy as np

from fuzz.harness import Harness, check
from fuzz.mutation import mutate
from imagearchive.arrays.npy import MAGIC, build_header, parse_header
from imagearchive.codecs.codec import DecodeOptions
from imagearchive.codecs.npy_codec import NpyCodec

DTYPES = (
    "<f8", ">i2", "|u1", "<U3", "|S5", "<c16", "<M8[ns]", "<m8[D]", "?", "|V7", "<f2",
    [("a", "<i4"), ("b", "<f8", (2, 3))], [("x", [("y", "|u1")]), ("z", "<U2")],
)  # fmt: skip


class NpyHeaders(Harness):
    """Parses a header, and decodes the array behind it."""

    name = "npy"
    smoke_runs = 250_000
    max_size = 1 << 14
    tokens = (
        b"'descr'", b"'fortran_order'", b"'shape'", b"True", b"False", b"None", b"(", b")", b"[",
        b"]", b"{", b"}", b",", b":", b"L", b"()", b"(0,)", b"'<f8'", b"'|O'", b"'<U0'", b"'|S0'",
        b"'|V0'", b"'<M8[25s/3]'", b"('a', '<f8')", b"('<f8', (2, 3))", b"(('t', 'n'), 'u1')",
        b"\\x41", b"\\N{DIGIT ONE}", b"u'", b"-1", b"1e3", b"0x1", b"1_0", b"9223372036854775807",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return arrays of every kind of dtype, in all versions of the format."""
        for number, dtype in enumerate(DTYPES):
            array = np.zeros((3, 2)[: number % 3], dtype)
            for version in ((1, 0), (2, 0), (3, 0)):
                file = io.BytesIO()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    np.lib.format.write_array(file, np.asfortranarray(array), version=version)
                yield file.getvalue()
            yield build_header("u1", (2, 2)) + b"abcd"

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, and mostly correct the length of the header."""
        changed = bytearray(mutate(rng, data, other, self.tokens))
        end = changed.find(b"\n") + 1
        if rng.random() < 0.8 and end and changed[:6] == MAGIC and len(changed) > 12:
            if changed[6] == 1:
                changed[8:10] = ((end - 10) & 0xFFFF).to_bytes(2, "little")
            else:
                changed[8:12] = ((end - 12) & 0xFFFFFFFF).to_bytes(4, "little")
        return bytes(changed)

    def run(self, data: bytes) -> Hashable:
        """Parse and decode; what is accepted must be what NumPy reads."""
        header = parse_header(data, where="x.npy")
        array = NpyCodec().decode(data, DecodeOptions(), len(data))
        if header.has_objects:
            return "objects"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                expected = np.load(io.BytesIO(data), allow_pickle=False, max_header_size=1 << 17)
            except ValueError:
                # NumPy refuses some spaces between the tokens of a header.
                return "refused by NumPy"
        check(array.dtype == expected.dtype, f"another dtype: {array.dtype}, {expected.dtype}")
        check(array.shape == expected.shape, f"another shape: {array.shape}, {expected.shape}")
        check(array.tobytes() == expected.tobytes(), "another content")
        again = build_header(array.dtype, array.shape)
        literal = ast.literal_eval(again[again.index(b"{") :].decode("utf-8", "replace"))
        check(literal["shape"] == array.shape, "another shape written")
        return array.dtype.kind, array.ndim, header.fortran_order, header.version, not array.size
