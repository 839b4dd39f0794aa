"""Members to objects and back, by extension; `DecodedView` does so for a whole archive.

================================  ==================================================
extension                         object
================================  ==================================================
``jpg jpeg png gif bmp webp``     array (H, W, 3) of uint8; see `imagearchive.images.pillow`
``tif tiff ppm``                  likewise
``npy``                           the array; objects in it only if they are plain data
``npz``                           `NpzArrays`: a mapping of name -> array, decoded on access
``json``                          dict, list, …
``msgpack``                       dict, list, … (needs the ``msgpack`` extra)
``txt``                           str, from UTF-8
``cls``                           int, from decimal text
``pkl pickle``                    any object, only with ``allow_pickle=True``
``gz xz bz2 zst``                 bytes; stacked on another (``x.json.gz``), that one's object
================================  ==================================================
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from imagearchive.arrays.npy import NpyHeader, parse_header
from imagearchive.codecs.compression import COMPRESSIONS, compress, decompress
from imagearchive.containers.rows import KIND_FILE
from imagearchive.errors import (
    CorruptArchiveError,
    DecodeError,
    ImageArchiveError,
    LimitError,
    MemberNotFoundError,
    MissingDependencyError,
    OptionError,
    OptionTypeError,
    UnsafePickleError,
    UnsupportedArchiveError,
    UnsupportedMemberError,
)
from imagearchive.images.pillow import FORMATS, ImageMode, ImageOptions, decode_image, encode_image
from imagearchive.storage.deflate import inflate
from imagearchive.storage.limits import Limits
from imagearchive.storage.local import MemoryStorage

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DecodedView", "NpzArrays", "decode", "encode", "extension_of", "register_codec"]

_T = TypeVar("_T")

# x.gz.gz.gz…: a file exists that decompresses to itself.
_MAX_LAYERS: Final = 4
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class _Options:
    """All that decoding depends on beside the bytes."""

    image: ImageOptions = field(default_factory=ImageOptions)
    limits: Limits = field(default_factory=Limits)
    allow_pickle: bool = False


@dataclass(frozen=True)
class _Codec:
    """A user's pair of functions."""

    encoder: Callable[[Any], Buffer] | None
    decoder: Callable[[Any], Any] | None
    stackable: bool


_registered: dict[str, _Codec] = {}


def register_codec(
    extensions: str | Iterable[str],
    encoder: Callable[[Any], Buffer] | None,
    decoder: Callable[[Any], Any] | None,
    *,
    stackable: bool = False,
) -> None:
    """Teach `decode`, `encode` and every `DecodedView` of this process further extensions.

    A registered codec goes before the built-in one of the same extension. Processes that are
    started by ``spawn`` have to register it again, best when the module with the codec is
    imported.

    Parameters
    ----------
    extensions : str or iterable of str
        With or without the dot, in any case: ``"jp2"`` or ``[".jp2", ".j2k"]``.
    encoder : callable or None
        Object -> bytes-like. None where nothing is to be encoded.
    decoder : callable or None
        Bytes-like (`bytes` or `memoryview`) -> object. What it raises reaches the caller as it is.
    stackable : bool
        The codec is a compression: what it decodes to is decoded further by the extension before
        it, as in ``x.json.lz4``. Its output is not bounded by the limits.

    Raises
    ------
    OptionError
        An extension is empty or contains a dot or slash.
    """
    _register(_registered, extensions, encoder, decoder, stackable)


def _register(
    registry: dict[str, _Codec],
    extensions: str | Iterable[str],
    encoder: Callable[[Any], Buffer] | None,
    decoder: Callable[[Any], Any] | None,
    stackable: bool,
) -> None:
    names = [extensions] if isinstance(extensions, str) else list(extensions)
    cleaned = [name.removeprefix(".").lower() for name in names]
    for name in cleaned:
        if not name or "." in name or "/" in name:
            raise OptionError(
                f"extension {name!r}: give one suffix, such as 'jp2'; stacked ones are taken apart"
            )
    for function in (encoder, decoder):
        if function is not None and not callable(function):
            raise OptionTypeError(f"a codec is made of functions, not {type(function).__name__}")
    for name in cleaned:
        registry[name] = _Codec(encoder, decoder, stackable)


def extension_of(name: str) -> str:
    """Return the extension in lower case without dot; "" for ``name``, ``.name``, ``name.``."""
    stem, _, extension = name.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem.strip(".") else ""


def decode(
    name: str,
    data: Buffer,
    *,
    mode: ImageMode = "RGB",
    exif_transpose: bool = False,
    background: Sequence[int] | None = None,
    allow_pickle: bool = False,
    max_size: float = Limits.max_size,
    max_ratio: float = Limits.max_ratio,
    max_pixels: float = Limits.max_pixels,
) -> Any:
    """Decode the bytes of a member by the extension of its name.

    The options are those of `DecodedView`.

    Raises
    ------
    UnsupportedMemberError
        The extension is unknown.
    DecodeError
        The content is damaged, truncated, or not what the extension says.
    LimitError
        It would grow beyond the limits.
    UnsafePickleError
        It is or contains a pickle.
    MissingDependencyError
        The optional package for the extension is not installed.
    """
    options = _Options(
        ImageOptions(mode, exif_transpose, background),
        Limits(max_size, max_ratio, max_pixels),
        allow_pickle,
    )
    return _decode(name, data, options, _registered)


def _decode(name: str, data: Buffer, options: _Options, registry: Mapping[str, _Codec]) -> Any:
    stored = memoryview(data).nbytes
    content = data
    rest = name
    layers = 0
    try:
        while True:
            extension = extension_of(rest)
            codec = registry.get(extension)
            if codec is not None:
                if codec.decoder is None:
                    raise UnsupportedMemberError(f"the codec of .{extension} cannot decode")
                if not codec.stackable:
                    return codec.decoder(content)
                content = codec.decoder(content)
            elif extension in COMPRESSIONS:
                content = decompress(extension, content, options.limits, stored)
            elif extension in _DECODERS:
                return _DECODERS[extension](content, options)
            elif layers and not extension:
                return content
            else:
                raise UnsupportedMemberError(_unknown(extension))
            layers += 1
            if layers > _MAX_LAYERS:
                raise LimitError(f"more than {_MAX_LAYERS} layers of compression")
            rest = rest[: -len(extension) - 1]
    except MissingDependencyError:
        raise
    except ImageArchiveError as error:
        raise _named(name, error) from error


def _named(name: str, error: ImageArchiveError) -> ImageArchiveError:
    # A member that contradicts its format is a member that cannot be decoded; the archive is fine.
    kinds = (CorruptArchiveError, UnsupportedArchiveError)
    kind = DecodeError if isinstance(error, kinds) else type(error)
    shown = name if name.isprintable() and len(name) <= 400 else ascii(name[:400])
    return kind(f"{shown}: {error}")


def _unknown(extension: str) -> str:
    what = f"unknown extension .{extension}" if extension else "no extension"
    return f"{what}; read the bytes from the archive itself, or teach it with register_codec"


# ---------------------------------------------------------------- decoders


def _decode_image(data: Buffer, options: _Options) -> npt.NDArray[Any]:
    return decode_image(data, options.image, options.limits)


def _decode_npy(data: Buffer, options: _Options) -> npt.NDArray[Any]:
    header = parse_header(data, where="npy array")
    if header.has_objects:
        return _decode_objects(data, header, options)
    order: Literal["C", "F"] = "F" if header.fortran_order else "C"
    if not header.nbytes:
        return _empty(header, options.limits)
    flat = np.frombuffer(memoryview(data), header.dtype, header.count, header.data_offset)
    # A copy: the caller may write to it, and a mapped archive is not kept open by it.
    return np.array(flat.reshape(header.shape, order=order))


def _decode_objects(data: Buffer, header: NpyHeader, options: _Options) -> npt.NDArray[Any]:
    if options.allow_pickle:
        array: npt.NDArray[Any] = np.load(io.BytesIO(bytes(data)), allow_pickle=True)
        return array
    if header.dtype != object:
        raise UnsafePickleError(_pickled("an array of records with Python objects"))
    from imagearchive.arrays.objects.array import ObjectArray

    try:
        return ObjectArray(
            MemoryStorage(data, "npy array"), header.data_offset, header.shape, "its objects"
        ).whole()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{error}. {_pickled('Such an array')}") from error


def _empty(header: NpyHeader, limits: Limits) -> npt.NDArray[Any]:
    # Elements of no bytes take memory in NumPy all the same, as many as the header likes.
    if header.count > limits.allowed(0):
        raise LimitError(f"an array of shape {header.shape} of elements of no bytes")
    try:
        return np.zeros(header.shape, header.dtype)
    except ValueError as error:
        raise DecodeError(f"NumPy has no array of shape {header.shape}: {error}") from error


def _decode_npz(data: Buffer, options: _Options) -> NpzArrays:
    return NpzArrays(data, limits=options.limits, allow_pickle=options.allow_pickle)


def _decode_json(data: Buffer, options: _Options) -> Any:
    try:
        return json.loads(data if isinstance(data, bytes) else bytes(data))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not valid JSON: {error}") from error


def _decode_msgpack(data: Buffer, options: _Options) -> Any:
    msgpack = _msgpack()
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(f"not valid MessagePack: {str(error) or type(error).__name__}") from error


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError:
        raise MissingDependencyError(
            "MessagePack needs a package: pip install 'imagearchive[msgpack]'"
        ) from None
    return msgpack


def _decode_text(data: Buffer, options: _Options) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"not UTF-8: {error}") from error


def _decode_class(data: Buffer, options: _Options) -> int:
    text = _decode_text(data, options).strip()
    if not _DECIMAL.fullmatch(text):
        raise DecodeError(f"{text[:40]!r} is no decimal number of a class")
    return int(text)


def _decode_pickle(data: Buffer, options: _Options) -> Any:
    if not options.allow_pickle:
        raise UnsafePickleError(_pickled("a pickle"))
    try:
        return pickle.loads(data)
    except Exception as error:
        # A pickle may raise whatever the functions that it names raise.
        raise DecodeError(f"the pickle cannot be loaded: {error}") from error


def _pickled(what: str) -> str:
    return (
        f"{what} can run any code when it is loaded; nothing of it was executed. If you trust "
        f"whoever made the archive, pass allow_pickle=True"
    )


_DECODERS: Final[dict[str, Callable[[Any, _Options], Any]]] = {
    **dict.fromkeys(FORMATS, _decode_image),
    "npy": _decode_npy,
    "npz": _decode_npz,
    "json": _decode_json,
    "msgpack": _decode_msgpack,
    "txt": _decode_text,
    "cls": _decode_class,
    "pkl": _decode_pickle,
    "pickle": _decode_pickle,
}


class NpzArrays(Mapping[str, npt.NDArray[Any]]):
    """The arrays of an NPZ archive in memory, each decoded when it is asked for.

    Nothing is kept: asking twice decodes twice. Safe for threads.

    Parameters
    ----------
    data : bytes-like
        The whole archive; it is not copied.
    limits : Limits, optional
        Bounds of one decompressed array.
    allow_pickle : bool
        Load arrays of Python objects, which can run any code.

    Raises
    ------
    DecodeError
        The bytes are no ZIP archive.
    """

    def __init__(
        self, data: Buffer, *, limits: Limits | None = None, allow_pickle: bool = False
    ) -> None:
        from imagearchive.containers.zip import scan as zip_scanner

        self._storage = MemoryStorage(data, "npz")
        self._options = _Options(limits=limits or Limits(), allow_pickle=allow_pickle)
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
            raise MemberNotFoundError(
                f"no array {key!r}; there are {', '.join(map(repr, self._position)) or 'none'}"
            )
        entry = self._rows.entries[row]
        offset, stored, size = (int(entry[name]) for name in ("offset", "stored", "size"))
        if int(entry["kind"]) != KIND_FILE or int(entry["method"]) not in (0, 8):
            raise UnsupportedMemberError(f"array {key!r} is encrypted or compressed otherwise")
        try:
            data: Buffer
            if int(entry["method"]) == 8:
                self._options.limits.check(size, stored)
                data = inflate(self._storage, offset, stored, size, int(entry["crc"]), "npz")
            else:
                data = self._storage.read(offset, stored)
            return _decode_npy(data, self._options)
        except ImageArchiveError as error:
            raise _named(f"array {key!r}", error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._position)

    def __len__(self) -> int:
        return len(self._position)

    def __repr__(self) -> str:
        return f"NpzArrays({', '.join(self._position)})"

    def __reduce__(self) -> tuple[Any, ...]:
        data = bytes(self._storage.read(0, self._storage.size))
        return _load_npz, (data, self._options.limits, self._options.allow_pickle)


def _load_npz(data: bytes, limits: Limits, allow_pickle: bool) -> NpzArrays:
    return NpzArrays(data, limits=limits, allow_pickle=allow_pickle)


# ---------------------------------------------------------------- encoders


def encode(name: str, value: Any, *, allow_pickle: bool = False) -> bytes:
    """Encode an object as the extension of a name asks; the inverse of `decode`.

    The same object gives the same bytes. Lossy formats (JPEG) do not give back the same array.

    Raises
    ------
    UnsupportedMemberError
        The extension is unknown.
    DecodeError
        The object cannot be written in that format.
    UnsafePickleError
        ``pkl`` or an array of Python objects without ``allow_pickle=True``.
    """
    return _encode(name, value, allow_pickle, _registered)


def _encode(name: str, value: Any, allow_pickle: bool, registry: Mapping[str, _Codec]) -> bytes:
    extension = extension_of(name)
    codec = registry.get(extension)
    try:
        if codec is not None and codec.encoder is None:
            raise UnsupportedMemberError(f"the codec of .{extension} cannot encode")
        if codec.stackable if codec is not None else extension in COMPRESSIONS:
            inner = name[: -len(extension) - 1]
            # x.gz, and nothing before: the value is the bytes themselves.
            value = _encode(inner, value, allow_pickle, registry) if extension_of(inner) else value
        if codec is not None and codec.encoder is not None:
            return bytes(codec.encoder(value))
        if extension in COMPRESSIONS:
            return _compress(extension, value)
        if extension in FORMATS:
            return encode_image(extension, value)
        if extension in _ENCODERS:
            return _ENCODERS[extension](value, allow_pickle)
        raise UnsupportedMemberError(_unknown(extension))
    except MissingDependencyError:
        raise
    except ImageArchiveError as error:
        raise _named(name, error) from error


def _compress(extension: str, value: Any) -> bytes:
    try:
        return compress(extension, value)
    except TypeError as error:
        raise DecodeError(f"{extension} holds bytes, not {type(value).__name__}") from error


def _encode_npy(value: Any, allow_pickle: bool) -> bytes:
    array = np.asarray(value)
    _check_objects(array, allow_pickle)
    target = io.BytesIO()
    np.save(target, array, allow_pickle=allow_pickle)
    return target.getvalue()


def _encode_npz(value: Any, allow_pickle: bool) -> bytes:
    if not isinstance(value, Mapping):
        raise DecodeError(f"npz holds a mapping of name -> array, not {type(value).__name__}")
    arrays = {str(key): np.asarray(array) for key, array in value.items()}
    for array in arrays.values():
        _check_objects(array, allow_pickle)
    target = io.BytesIO()
    # As `numpy.savez` does, which takes some names for arguments of its own.
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
    return target.getvalue()


def _check_objects(array: npt.NDArray[Any], allow_pickle: bool) -> None:
    if array.dtype.hasobject and not allow_pickle:
        raise UnsafePickleError(
            "an array of Python objects can only be written as a pickle, which readers refuse for "
            "good reason; store numbers or fixed-width strings, or pass allow_pickle=True"
        )


def _encode_json(value: Any, allow_pickle: bool) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DecodeError(f"cannot be written as JSON: {error}") from error


def _encode_msgpack(value: Any, allow_pickle: bool) -> bytes:
    try:
        packed: bytes = _msgpack().packb(value, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise DecodeError(f"cannot be written as MessagePack: {error}") from error
    return packed


def _encode_text(value: Any, allow_pickle: bool) -> bytes:
    if not isinstance(value, str):
        raise DecodeError(f"txt holds text, not {type(value).__name__}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise DecodeError(f"not text that UTF-8 can hold: {error}") from error


def _encode_class(value: Any, allow_pickle: bool) -> bytes:
    if not isinstance(value, int | np.integer):
        raise DecodeError(f"cls holds a whole number, not {type(value).__name__}")
    text = str(int(value))
    if not _DECIMAL.fullmatch(text):
        raise DecodeError(f"cls holds a number of up to 18 digits, not {len(text.lstrip('-'))}")
    return text.encode()


def _encode_pickle(value: Any, allow_pickle: bool) -> bytes:
    if not allow_pickle:
        raise UnsafePickleError(
            "readers refuse pickles for good reason; write json, msgpack or npy, or pass "
            "allow_pickle=True"
        )
    return pickle.dumps(value)


_ENCODERS: Final[dict[str, Callable[[Any, bool], bytes]]] = {
    "npy": _encode_npy,
    "npz": _encode_npz,
    "json": _encode_json,
    "msgpack": _encode_msgpack,
    "txt": _encode_text,
    "cls": _encode_class,
    "pkl": _encode_pickle,
    "pickle": _encode_pickle,
}


# ---------------------------------------------------------------- the view


class DecodedView(Mapping[str, Any]):
    """A mapping of name -> decoded object over a mapping of name -> bytes.

    Read-only and without a cache: each access reads and decodes. Safe for threads and processes
    as far as the store is; it can be pickled if the store can.

    Parameters
    ----------
    store : Mapping of str to bytes-like
        An `Archive`, a dict, or anything else that maps names to bytes.
    mode : {"RGB", "L", "RGBA", "unchanged"}
        What images become: three channels, one, four, or what the file has. Always (H, W, C).
    exif_transpose : bool
        Turn images as their EXIF orientation says. Off by default: boxes and labels refer to the
        pixels as they are stored, and the loader leaves them as well.
    background : sequence of 3 ints, optional
        Colour on which transparent pixels are composited. Without it, alpha is dropped.
    allow_pickle : bool
        Load pickles and arrays of any Python objects, **which can run any code**. Arrays of plain
        objects (numbers, text, lists, arrays …) are decoded without it.
    max_size : float
        Bytes that one member may have after decompression.
    max_ratio : float
        How many times its stored size it may grow to, once beyond 64 MiB.
    max_pixels : float
        Width times height of an image.

    Raises
    ------
    OptionError, OptionTypeError
        An option has no such value, or `store` is no mapping.

    Notes
    -----
    ``view[name]`` raises `UnsupportedMemberError` for an unknown extension. ``get`` returns its
    default for it, as for a name that does not exist, and ``values`` and ``items`` give the raw
    bytes, so that a loop over all members goes on. A damaged member raises `DecodeError` in all
    of them; the iterators of ``values`` and ``items`` can be advanced past it by calling `next`
    again.
    """

    def __init__(
        self,
        store: Mapping[str, Any],
        *,
        mode: ImageMode = "RGB",
        exif_transpose: bool = False,
        background: Sequence[int] | None = None,
        allow_pickle: bool = False,
        max_size: float = Limits.max_size,
        max_ratio: float = Limits.max_ratio,
        max_pixels: float = Limits.max_pixels,
    ) -> None:
        if not isinstance(store, Mapping):
            raise OptionTypeError(
                f"DecodedView stands over a mapping of name -> bytes, not {type(store).__name__}"
            )
        self.store = store
        self._options = _Options(
            ImageOptions(mode, exif_transpose, background),
            Limits(max_size, max_ratio, max_pixels),
            allow_pickle,
        )
        self._codecs: dict[str, _Codec] = {}

    def register_codec(
        self,
        extensions: str | Iterable[str],
        encoder: Callable[[Any], Buffer] | None,
        decoder: Callable[[Any], Any] | None,
        *,
        stackable: bool = False,
    ) -> None:
        """Teach this view alone further extensions; see `imagearchive.codecs.register_codec`."""
        _register(self._codecs, extensions, encoder, decoder, stackable)

    def __getitem__(self, name: str) -> Any:
        return self.decode(name, self.store[name])

    def decode(self, name: str, data: Buffer) -> Any:
        """Decode bytes by the extension of a name, with the options and codecs of this view."""
        return _decode(name, data, self._options, {**_registered, **self._codecs})

    def encode(self, name: str, value: Any) -> bytes:
        """Encode an object by the extension of a name, with the codecs of this view."""
        registry = {**_registered, **self._codecs}
        return _encode(name, value, self._options.allow_pickle, registry)

    def knows(self, name: str) -> bool:
        """Whether the extension of a name has a decoder here."""
        rest = name
        for layer in range(_MAX_LAYERS + 1):
            extension = extension_of(rest)
            codec = self._codecs.get(extension) or _registered.get(extension)
            stackable = codec.stackable if codec else extension in COMPRESSIONS
            if not stackable:
                return bool(codec) or extension in _DECODERS or (layer > 0 and not extension)
            rest = rest[: -len(extension) - 1]
        return True

    def get(self, name: str, default: Any = None) -> Any:
        """Decode a member; `default` where the name does not exist or its extension is unknown."""
        return self[name] if name in self.store and self.knows(name) else default

    def __contains__(self, name: object) -> bool:
        return name in self.store

    def __iter__(self) -> Iterator[str]:
        return iter(self.store)

    def __len__(self) -> int:
        return len(self.store)

    def values(self) -> ValuesView[Any]:
        """Return decoded members; raw bytes where the extension is unknown."""
        return _Values(self)

    def items(self) -> ItemsView[str, Any]:
        """Return pairs of name and decoded member; raw bytes where the extension is unknown."""
        return _Items(self)

    def __repr__(self) -> str:
        return f"DecodedView({self.store!r})"


class _Iterator(Iterator[_T]):
    """Goes on after an error, as a generator could not."""

    def __init__(self, view: DecodedView, pick: Callable[[str, Any], _T]) -> None:
        self._view = view
        self._names = iter(view.store)
        self._pick = pick

    def __next__(self) -> _T:
        name = next(self._names)
        view = self._view
        return self._pick(name, view[name] if view.knows(name) else view.store[name])


class _Values(ValuesView[Any]):
    _mapping: DecodedView

    def __iter__(self) -> Iterator[Any]:
        return _Iterator(self._mapping, lambda name, value: value)


class _Items(ItemsView[str, Any]):
    _mapping: DecodedView

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return _Iterator(self._mapping, lambda name, value: (name, value))
