"""JSON, MessagePack, text, class numbers and pickles."""

from __future__ import annotations

import json
import pickle
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.codecs.codec import Codec, DecodeOptions, unsafe_pickle
from imagearchive.errors import DecodeError, LimitError, MissingDependencyError, UnsafePickleError
from imagearchive.errors.hints import Hint

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ClassCodec", "JsonCodec", "MessagePackCodec", "PickleCodec", "TextCodec"]

_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,18}")


class JsonCodec(Codec):
    """What JSON can express: dict, list, str, numbers, True, False and None."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Parse a JSON document.

        Raises LimitError for more than ``max_objects`` values. Each begins the document or follows
        one of four characters, which are also counted within strings.
        """
        raw = data if isinstance(data, bytes) else bytes(data)
        allowed = options.limits.allowed_objects(stored_size)
        if len(raw) > allowed and sum(map(raw.count, (b",", b":", b"[", b"{"))) > allowed:
            raise options.limits.too_many_objects(stored_size)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"not valid JSON: {error}") from error

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write UTF-8 without escapes."""
        try:
            return json.dumps(value, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DecodeError(f"cannot be written as JSON: {error}") from error


class MessagePackCodec(Codec):
    """What MessagePack can express, by the optional package ``msgpack``."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Parse one MessagePack value; maps may have keys of any type."""
        msgpack = _msgpack()
        errors = (
            ValueError, TypeError, OverflowError, RecursionError, MemoryError,
            msgpack.UnpackException,
        )  # fmt: skip
        allowed = options.limits.allowed_objects(stored_size)
        bounds: dict[str, Any] = {}
        if memoryview(data).nbytes > allowed:
            seen = 0

            def count(container: Any) -> Any:
                nonlocal seen
                seen += 1 + len(container)
                if seen > allowed:
                    raise options.limits.too_many_objects(stored_size)
                return container

            bounds = {"list_hook": count, "object_hook": count}
            bounds |= {"max_array_len": int(allowed), "max_map_len": int(allowed)}
        try:
            return msgpack.unpackb(data, raw=False, strict_map_key=False, **bounds)
        except LimitError:
            raise
        except errors as error:
            reason = str(error) or type(error).__name__
            raise DecodeError(f"not valid MessagePack: {reason}") from error

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write one MessagePack value."""
        try:
            packed: bytes = _msgpack().packb(value, use_bin_type=True)
        except (TypeError, ValueError, OverflowError) as error:
            raise DecodeError(f"cannot be written as MessagePack: {error}") from error
        return packed


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError:
        raise MissingDependencyError(
            "MessagePack needs another package: pip install 'imagearchive[msgpack]'"
        ) from None
    return msgpack


class TextCodec(Codec):
    """Text in UTF-8."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> str:
        """Return the text unchanged, line ends included."""
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(f"not UTF-8: {error}") from error

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write a str."""
        if not isinstance(value, str):
            raise DecodeError(f"txt needs a str, got {type(value).__name__}")
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise DecodeError(f"UTF-8 cannot express the text: {error}") from error


class ClassCodec(Codec):
    """An integer in decimal, such as the class of an image."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> int:
        """Return the integer; whitespace around it is ignored."""
        text = TextCodec().decode(data, options, stored_size).strip()
        if not _DECIMAL.fullmatch(text):
            raise DecodeError(f"cls needs a decimal integer of up to 18 digits, got {text[:40]!r}")
        return int(text)

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write an int or a NumPy integer."""
        if not isinstance(value, int | np.integer):
            raise DecodeError(f"cls needs an integer, got {type(value).__name__}")
        text = str(int(value))
        if not _DECIMAL.fullmatch(text):
            digits = len(text.lstrip("-"))
            raise DecodeError(f"cls needs an integer of up to 18 digits, got {digits} digits")
        return text.encode()


class PickleCodec(Codec):
    """Any Python object, only with ``allow_pickle=True``."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Unpickle the object, which can run arbitrary code."""
        if not options.allow_pickle:
            raise unsafe_pickle("a pickle")
        try:
            return pickle.loads(data)
        except Exception as error:
            # The functions that a pickle names may raise anything.
            raise DecodeError(f"the pickle cannot be loaded: {error}") from error

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Pickle the object."""
        if not allow_pickle:
            raise UnsafePickleError(
                "readers refuse pickles by default; write json, msgpack or npy instead",
                hints=[Hint("allow_pickle=True", "to write a pickle all the same")],
            )
        return pickle.dumps(value)
