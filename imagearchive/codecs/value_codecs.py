"""JSON, MessagePack, text, class numbers and pickles."""

from __future__ import annotations

import codecs
import json
import pickle
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.arrays.objects.plain_pickle import load_plain_pickle
from imagearchive.codecs.codec import Codec, DecodeOptions, unsafe_pickle
from imagearchive.errors import DecodeError, LimitError, MissingDependencyError, UnsafePickleError
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ClassCodec", "JsonCodec", "MessagePackCodec", "PickleCodec", "TextCodec"]

_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,18}")

# Deepest nesting of lists and dicts that is read or written. Without it, the recursion limit of the
# interpreter would decide, which differs among versions and depends on the caller.
MAX_NESTING: Final = 512

# A string, which may lack its end; and what is left of a document besides brackets.
_JSON_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_CONTAINERS: Final = (dict, list, tuple)
# The first bytes of MessagePack's arrays and maps.
_NOT_CONTAINERS: Final = bytes(set(range(256)) - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})


class JsonCodec(Codec):
    """What JSON can express: dict, list, str, numbers, True, False and None."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Parse a JSON document.

        Raises LimitError for more than ``max_objects`` values, and DecodeError for more than
        `MAX_NESTING` levels. Each value begins the document or follows
        one of four characters, which are also counted within strings.
        """
        raw = data if isinstance(data, bytes) else bytes(data)
        allowed = options.limits.allowed_objects(stored_size)
        if len(raw) > allowed and sum(map(raw.count, (b",", b":", b"[", b"{"))) > allowed:
            raise options.limits.too_many_objects(stored_size)
        _check_json_nesting(raw)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"not valid JSON: {error}") from error

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write UTF-8 without escapes."""
        try:
            raw = json.dumps(value, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DecodeError(f"cannot be written as JSON: {error}") from error
        _check_json_nesting(raw)
        return raw


class MessagePackCodec(Codec):
    """What MessagePack can express, by the optional package ``msgpack``."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Parse one MessagePack value; maps may have keys of any type.

        Raises LimitError for more than ``max_objects`` values, and DecodeError for more than
        `MAX_NESTING` levels.
        """
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
            value = msgpack.unpackb(data, raw=False, strict_map_key=False, **bounds)
        except LimitError:
            raise
        except msgpack.StackError:
            raise _too_deep() from None
        except errors as error:
            if bounds and re.search("exceeds max_(array|map)_len", str(error)):
                raise options.limits.too_many_objects(stored_size) from None
            reason = str(error) or type(error).__name__
            raise DecodeError(f"not valid MessagePack: {reason}") from error
        # Most members have too few containers to be nested too deeply.
        if len(bytes(data).translate(None, _NOT_CONTAINERS)) > MAX_NESTING:
            _check_value_nesting(value)
        return value

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write one MessagePack value."""
        try:
            packed: bytes = _msgpack().packb(value, use_bin_type=True)
        except (TypeError, ValueError, OverflowError) as error:
            raise DecodeError(f"cannot be written as MessagePack: {error}") from error
        _check_value_nesting(value)
        return packed


def _check_json_nesting(raw: bytes) -> None:
    """Refuse a document whose lists and dicts are nested too deeply."""
    if len(raw) <= MAX_NESTING or raw.count(b"[") + raw.count(b"{") <= MAX_NESTING:
        return
    if raw.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE)) or b"\0" in raw[:4]:
        # UTF-16 or UTF-32, as json.loads finds out too.
        raw = raw.decode(json.detect_encoding(raw), "replace").encode("utf-8", "replace")
    brackets = np.frombuffer(_JSON_STRING.sub(b"", raw).translate(None, _NOT_BRACKETS), np.uint8)
    opens = (brackets == ord("[")) | (brackets == ord("{"))
    steps = np.where(opens, np.int8(1), np.int8(-1))
    if len(steps) and np.cumsum(steps, dtype=np.int32).max() > MAX_NESTING:
        raise _too_deep()


def _check_value_nesting(value: Any) -> None:
    """Refuse a value whose lists and dicts are nested too deeply."""
    level = [value]
    for _ in range(MAX_NESTING):
        below: list[Any] = []
        for container in level:
            # Keys of maps can be arrays as well, which are read as tuples.
            if type(container) is dict:
                below += [key for key in container if type(key) is tuple]
                below += [item for item in container.values() if type(item) in _CONTAINERS]
            elif type(container) in _CONTAINERS:
                below += [item for item in container if type(item) in _CONTAINERS]
        if not below:
            return
        level = below
    raise _too_deep()


def _too_deep() -> DecodeError:
    return DecodeError(f"lists and dicts are nested more than {MAX_NESTING} levels deep")


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
            raise DecodeError(
                f"cls needs an integer of up to 18 digits, got {pluralize(digits, 'digit')}"
            )
        return text.encode()


class PickleCodec(Codec):
    """Plain values and arrays; any Python object, only with ``allow_pickle=True``."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Decode plain values without executing anything, or unpickle what is allowed."""
        if not options.allow_pickle:
            try:
                return load_plain_pickle(data, "the pickle")
            except UnsafePickleError as error:
                refused = unsafe_pickle("such a pickle")
                raise UnsafePickleError(
                    f"{error.message}; {refused.message}", hints=refused.hints
                ) from error
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
        try:
            return pickle.dumps(value)
        except Exception as error:
            # The methods of an object may raise anything.
            raise DecodeError(f"the object cannot be pickled: {error}") from error
