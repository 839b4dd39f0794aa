"""``.npz`` members: a mapping of arrays that are decoded on access."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy.typing as npt

from imagearchive.codecs.codec import Codec, DecodeOptions, with_name
from imagearchive.codecs.npy_codec import decode_npy, encode_npy
from imagearchive.containers.rows import KIND_DIRECTORY, METHOD_DEFLATED
from imagearchive.containers.zip.stream import ZipStream
from imagearchive.containers.zip.zip_container import ZipContainer
from imagearchive.errors import (
    CorruptArchiveError,
    DecodeError,
    ImageArchiveError,
    MemberNotFoundError,
    UnsupportedArchiveError,
)
from imagearchive.errors.arguments import shorten
from imagearchive.storage.limits import Limits
from imagearchive.storage.local import MemoryStorage

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["NpzArrays", "NpzCodec"]

_ZIP: Final = ZipContainer()

# How much of a list of names goes into a message.
_SHOWN: Final = 500
# ZIP stores the length of a name in 16 bits.
_LONGEST_NAME: Final = 0xFFFF


class NpzArrays(Mapping[str, npt.NDArray[Any]]):
    """The arrays of an NPZ archive in memory, each decoded on access.

    There is no cache: each access decodes again. Safe for threads.

    Parameters
    ----------
    data : bytes-like
        The whole archive; it is not copied.
    limits : Limits, optional
        Bounds of one decompressed array.
    allow_pickle : bool
        Load arrays of any Python objects, which can run arbitrary code.

    Raises
    ------
    DecodeError
        The bytes are not a ZIP archive.
    """

    def __init__(
        self, data: Buffer, *, limits: Limits | None = None, allow_pickle: bool = False
    ) -> None:
        self._storage = MemoryStorage(data, "npz")
        self._limits = limits or Limits()
        self._allow_pickle = allow_pickle
        try:
            self._rows = _ZIP.scan(self._storage)
        except (CorruptArchiveError, UnsupportedArchiveError) as error:
            raise DecodeError(f"not a valid NPZ archive: {error}") from error
        self._position = {
            self._rows.name(row).decode("utf-8", "surrogateescape").removesuffix(".npy"): row
            for row in range(self._rows.rows)
            if self._rows.entries[row]["kind"] != KIND_DIRECTORY
        }

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        row = self._position.get(key)
        if row is None:
            known = ", ".join(map(repr, self._position))[:_SHOWN] or "none"
            raise MemberNotFoundError(f"no array {key!r}; the archive has {known}")
        entry = self._rows.entries[row]
        try:
            if entry["method"] == METHOD_DEFLATED:
                self._limits.check(int(entry["size"]), int(entry["stored_size"]))
            data = _ZIP.read_member(self._storage, entry, "npz")
            return decode_npy(data, self._limits, self._allow_pickle)
        except ImageArchiveError as error:
            raise with_name(f"array {key!r}", error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._position)

    def __len__(self) -> int:
        return len(self._position)

    def __repr__(self) -> str:
        return f"NpzArrays({', '.join(self._position)})"

    def __reduce__(self) -> tuple[Any, ...]:
        data = bytes(self._storage.read(0, self._storage.size))
        return _unpickle, (data, self._limits, self._allow_pickle)


def _unpickle(data: bytes, limits: Limits, allow_pickle: bool) -> NpzArrays:
    return NpzArrays(data, limits=limits, allow_pickle=allow_pickle)


class NpzCodec(Codec):
    """Mappings of names to arrays."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> NpzArrays:
        """Return a mapping whose arrays are decoded on access."""
        return NpzArrays(data, limits=options.limits, allow_pickle=options.allow_pickle)

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write a mapping of names to arrays, uncompressed."""
        if not isinstance(value, Mapping):
            raise DecodeError(f"npz needs a mapping of name -> array, got {type(value).__name__}")
        target = io.BytesIO()
        # `numpy.savez` would take some of the names for its own arguments.
        stream = ZipStream(target)
        written = set()
        for key, array in value.items():
            name = _member_name(str(key))
            if name in written:
                raise DecodeError(f"two arrays are named {str(key)!r}; rename one of them")
            written.add(name)
            try:
                stream.add(name, [encode_npy(array, allow_pickle)])
            except ImageArchiveError as error:
                raise with_name(f"array {str(key)!r}", error) from error
        stream.finish()
        return target.getvalue()


def _member_name(name: str) -> bytes:
    try:
        encoded = f"{name}.npy".encode()
    except UnicodeEncodeError as error:
        raise DecodeError(f"UTF-8 cannot express the name {name!r}: {error}") from error
    if "\0" in name or len(encoded) > _LONGEST_NAME:
        raise DecodeError(
            f"the name of an array must be at most {_LONGEST_NAME - len('.npy')} bytes without "
            f"NUL, got {shorten(name)}"
        )
    return encoded
