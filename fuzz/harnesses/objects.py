"""Pickled arrays of objects, against `pickle` with the same allowed names."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Hashable, Iterable
from random import Random
from typing import Any, ClassVar

import numpy as np
from support.npz import boxes_of
from support.object_arrays import crafted, objects, open_stream, same

from fuzz.harness import DifferenceError, Harness, check
from fuzz.harnesses.members import sometimes
from fuzz.mutation import mutate

OPCODES = tuple(
    opcode.encode("latin-1")
    for opcode in "().012BCGIJKLMNRTUXabcdeghijlopqrstu]}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b"
    "\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"
)


class ObjectArrays(Harness):
    """Decodes an array of objects whole and element by element.

    The first byte of an input is the number of elements, of which 0x80 means two axes.
    """

    name = "objects"
    smoke_runs = 400_000
    max_size = 1 << 13
    tokens = (
        *OPCODES, b"K\1", b"M\1\0", b"]\x94(K\1K\2e", b"\x8c\1a\x94", b"h\0", b"h\2", b"N\x85",
        b"}\x94(K\1K\2u", b"cnumpy\ndtype\n", b"cbuiltins\nset\n", b"cbuiltins\neval\n",
        b"c_codecs\nencode\n", b"X\1\0\0\0a", b"G?\xf0\0\0\0\0\0\0", b"\x8a\1\xff",
        b"cnumpy.core.multiarray\nscalar\n", b"cnumpy._core.multiarray\n_reconstruct\n",
        b"cnumpy\nndarray\n", b"C\0", b"C\5hello", b"\x95\5\0\0\0\0\0\0\0", b"(e", b"(u", b"(t",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return pickles of every kind of value, in all protocols."""
        shared = [1.5, 2.5]
        arrays: list[list[Any]] = [
            boxes_of(6),
            [1, -1, 1 << 40, 1 << 70, True, None, 1.25, 1j, "text", b"bytes", "ü" * 300],
            [np.arange(6).reshape(2, 3), np.zeros((2, 0)), np.array("s"), np.arange(4.0)[::-1]],
            [np.float32(1.5), np.int64(3), np.dtype("<i4"), np.str_("x"), np.bool_(True)],
            [shared, shared, [shared], {"a": shared, "b": (1, 2)}],
            [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {1, 2}, frozenset({3}), bytearray(b"x")],
            [np.array([1, "a", None], object), np.zeros(2, [("a", "<i4"), ("b", "U3")])],
            [np.datetime64("2020-01-01"), slice(1, 2), range(3), complex(1, 2)],
        ]
        for values in arrays:
            for protocol in (2, 3, 4, 5):
                yield bytes([len(values)]) + pickle.dumps(objects(values), protocol)
        grid = objects([[i] for i in range(6)], (2, 3))
        yield b"\x83" + pickle.dumps(grid, 4)
        yield b"\1" + crafted(b"K\1")
        yield b"\1" + crafted(b"]" * 20 + b"a" * 19)

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, the first of them rarely."""
        if rng.random() < 0.05:
            return mutate(rng, data, other, self.tokens)
        return data[:1] + mutate(rng, data[1:], other[1:], self.tokens)

    def run(self, data: bytes) -> Hashable:
        """Decode; what is accepted must be what `pickle` loads."""
        count = data[0] if data else 0
        shape = (2, (count & 0x7F) % 8) if count & 0x80 else (count,)
        array = open_stream(data[1:], shape)
        parts = [array.row(i) for i in range(shape[0])]
        whole = array.whole()
        if not sometimes(data, 8):
            return frozenset(type(value).__name__ for value in whole.ravel()[:3])
        # For the comparisons of values nested 256 levels deep, which recurse.
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(10_000)
        try:
            expected = _load(data[1:])
            if expected is None:
                return "refused by pickle"
            check(isinstance(expected, np.ndarray), "not an array")
            check(expected.shape == whole.shape, "another shape")
            # Not with the values: the strings of NumPy may hold what cannot be printed.
            check(same(whole, expected), "pickle loads other values")
            for i, part in enumerate(parts):
                check(same(part, whole[i]), "row differs from whole")
        finally:
            sys.setrecursionlimit(limit)
        return frozenset(type(value).__name__ for value in whole.ravel()[:3])


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Loads what our own decoder accepted.

    NumPy believes the flags and the alignment in the state of a dtype, which can crash it; our
    decoder ignores them.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        check(module.split(".", maxsplit=1)[0] in _MODULES, "an unexpected module was accepted")
        check(name not in ("eval", "exec", "getattr", "open"), "an unsafe global was accepted")
        return super().find_class(module, name)

    def load_build(self) -> None:
        state, target = self.stack[-1], self.stack[-2]
        if isinstance(target, np.dtype):
            alignment = target.alignment if state[3] is None else 1
            flags = target.flags | (state[7] & 0x80)
            self.stack[-1] = (*state[:6], alignment, flags, *state[8:])
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


_MODULES = ("numpy", "builtins", "__builtin__", "_codecs", "collections", "copyreg", "copy_reg")


def _load(data: bytes) -> Any:
    """Return what `pickle` loads, or None if it refuses the arguments that our decoder ignores."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except DifferenceError:
        raise
    except Exception:
        return None
