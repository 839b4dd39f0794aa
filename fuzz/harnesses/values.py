"""Members that are values: JSON, MessagePack, class numbers, text."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from typing import Any

import msgpack

from fuzz.harness import Harness, check
from imagearchive.codecs.codec import DecodeOptions
from imagearchive.codecs.value_codecs import ClassCodec, JsonCodec, MessagePackCodec, TextCodec

_CODECS = (JsonCodec(), MessagePackCodec(), ClassCodec(), TextCodec())


class Values(Harness):
    """Decodes a value; the first byte of an input chooses the format."""

    name = "values"
    smoke_runs = 400_000
    max_size = 1 << 14
    tokens = (
        b"[", b"]", b"{", b"}", b'"', b"\\ud800", b"null", b"NaN", b"Infinity", b"-0", b"1e999",
        b'"k":', b"\x80", b"\x90", b"\xa0", b"\xc0", b"\xc1", b"\xc7", b"\xcb", b"\xcf", b"\xd9",
        b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde", b"\xdf\xff\xff\xff\xff", b"\xc6",
        b"\xff",
        b"\xc8\0\4\xff", b"\xd6\xff",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return one value of each kind in each format."""
        value = {"a": [1, -2, 3.5, None, True, "ü", ""], "b": {"c": {}, "d": []}, "e": 1 << 40}
        yield b"\0" + json.dumps(value).encode()
        yield b"\1" + msgpack.packb(value)
        yield b"\1" + msgpack.packb([b"bytes", msgpack.ExtType(5, b"x"), 2**64 - 1, -(2**63)])
        yield b"\1" + msgpack.packb(msgpack.Timestamp(5, 6))
        yield b"\2 17\n"
        yield b"\3text \xc3\xbc"

    def run(self, data: bytes) -> Hashable:
        """Decode, and compare JSON with `json`."""
        number, data = data[0] % 4 if data else 0, data[1:]
        value = _CODECS[number].decode(data, DecodeOptions(), len(data))
        if number == 0:
            check(repr(value) == repr(json.loads(data)), "json loads another value")
        return number, _kinds(value, 0)


def _kinds(value: Any, depth: int) -> Hashable:
    if depth < 3 and isinstance(value, list | tuple):
        return frozenset(_kinds(item, depth + 1) for item in value[:20])
    if depth < 3 and isinstance(value, dict):
        return frozenset((type(k).__name__, _kinds(v, depth + 1)) for k, v in [*value.items()][:20])
    return type(value).__name__
