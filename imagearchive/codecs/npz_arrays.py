"""``.npz`` members: a mapping of arrays that are decoded on access."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.codecs.codec import Codec, DecodeOptions, with_name
from imagearchive.codecs.npy_codec import check_objects, decode_npy
from imagearchive.containers.rows import KIND_FILE
from imagearchive.containers.zip import scan as zip_scanner
from imagearchive.errors import (
    CorruptArchiveError,
    DecodeError,
    ImageArchiveError,
    MemberNotFoundError,
    UnsupportedArchiveError,
    UnsupportedMemberError,
)
from imagearchive.storage.deflate import inflate
from imagearchive.storage.limits import Limits
from imagearchive.storage.local import MemoryStorage

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["NpzArrays", "NpzCodec"]


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
            self._rows = zip_scanner.scan(self._storage)
        except (CorruptArchiveError, UnsupportedArchiveError) as error:
            raise DecodeError(f"not a valid NPZ archive: {error}") from error
        self._position = {
            self._rows.name(row).decode("utf-8", "surrogateescape").removesuffix(".npy"): row
            for row in range(self._rows.rows)
        }

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        row = self._position.get(key)
        if row is None:
            known = ", ".join(map(repr, self._position)) or "none"
            raise MemberNotFoundError(f"no array {key!r}; the archive has {known}")
        entry = self._rows.entries[row]
        offset, stored, size = (int(entry[name]) for name in ("offset", "stored_size", "size"))
        if int(entry["kind"]) != KIND_FILE or int(entry["method"]) not in (0, 8):
            raise UnsupportedMemberError(
                f"array {key!r} is encrypted or uses an unsupported compression method"
            )
        try:
            data: Buffer
            if int(entry["method"]) == 8:
                self._limits.check(size, stored)
                data = inflate(self._storage, offset, stored, size, int(entry["crc"]), "npz")
            else:
                data = self._storage.read(offset, stored)
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
        arrays = {str(key): np.asarray(array) for key, array in value.items()}
        for array in arrays.values():
            check_objects(array, allow_pickle)
        target = io.BytesIO()
        # `numpy.savez` would take some of the names for its own arguments.
        with zipfile.ZipFile(target, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
        return target.getvalue()
