"""The table of codecs by extension, and how a name with one or more extensions is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from imagearchive.codecs.codec import Codec, DecodeOptions, UserCodec, with_name
from imagearchive.codecs.compression import COMPRESSIONS, CompressionCodec
from imagearchive.codecs.image_codec import ImageCodec
from imagearchive.codecs.npy_codec import IdxCodec, NpyCodec
from imagearchive.codecs.npz_arrays import NpzCodec
from imagearchive.codecs.value_codecs import (
    ClassCodec,
    JsonCodec,
    MessagePackCodec,
    PickleCodec,
    TextCodec,
)
from imagearchive.errors import (
    ImageArchiveError,
    LimitError,
    MissingDependencyError,
    OptionError,
    OptionTypeError,
    UnsupportedMemberError,
)
from imagearchive.errors.arguments import check_callable, check_sequence, shorten
from imagearchive.images.pillow import FORMATS, ImageMode, ImageOptions
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CODECS",
    "add_codec",
    "decode",
    "decode_member",
    "encode",
    "encode_member",
    "extension_of",
    "has_codec",
    "register_codec",
]

#: The codecs of this process by extension, in lower case without the dot. `register_codec` adds
#: to it and may replace those that are built in.
CODECS: Final[dict[str, Codec]] = {
    **{extension: ImageCodec(extension) for extension in FORMATS},
    "npy": NpyCodec(),
    "npz": NpzCodec(),
    **dict.fromkeys(("idx", "idx1-ubyte", "idx3-ubyte"), IdxCodec()),
    "json": JsonCodec(),
    "msgpack": MessagePackCodec(),
    "txt": TextCodec(),
    "cls": ClassCodec(),
    **dict.fromkeys(("pkl", "pickle"), PickleCodec()),
    **{extension: CompressionCodec(extension) for extension in COMPRESSIONS},
}

# A gzip file exists that decompresses to itself: x.gz.gz.gz... would never end.
_MAX_LAYERS: Final = 4


def register_codec(
    extensions: str | Iterable[str],
    encoder: Callable[[Any], Buffer] | None,
    decoder: Callable[[Any], Any] | None,
    *,
    stackable: bool = False,
) -> None:
    """Add a codec to `decode`, `encode` and every `DecodedView` of this process.

    A registered codec replaces the built-in one for the same extension. Processes started by
    ``spawn`` have to register it again; the simplest way is to register it when the module that
    defines the codec is imported.

    Parameters
    ----------
    extensions : str or iterable of str
        With or without the dot, in any case: ``"jp2"`` or ``[".jp2", ".j2k"]``.
    encoder : callable or None
        Object -> bytes-like. None if the codec cannot encode.
    decoder : callable or None
        Bytes-like (`bytes` or `memoryview`) -> object. None if the codec cannot decode. Whatever
        it raises reaches the caller unchanged.
    stackable : bool
        The codec is a compression: the extension before it decodes its result, as in
        ``x.json.lz4``. The limits do not bound its output.

    Raises
    ------
    OptionError
        An extension is empty or contains a dot or slash.
    OptionTypeError
        An extension is not a str, or a function cannot be called.
    """
    add_codec(CODECS, extensions, encoder, decoder, stackable)


def add_codec(
    table: dict[str, Codec],
    extensions: str | Iterable[str],
    encoder: Callable[[Any], Buffer] | None,
    decoder: Callable[[Any], Any] | None,
    stackable: bool,
) -> None:
    """Add a codec to a table, as `register_codec` does to that of the process."""
    expected = "a str such as 'jp2', or several"
    names = [extensions] if isinstance(extensions, str) else extensions
    names = check_sequence("extensions", names, expected)
    if not all(isinstance(name, str) for name in names):
        raise OptionTypeError(f"extensions must be {expected}, got {shorten(extensions)}")
    cleaned = [name.removeprefix(".").lower() for name in names]
    for name in cleaned:
        if not name or "." in name or "/" in name:
            raise OptionError(
                f"extension must be one suffix such as 'jp2', got {name!r}; stacked extensions are "
                f"decoded one by one"
            )
    for which, function in (("encoder", encoder), ("decoder", decoder)):
        if function is not None:
            check_callable(which, function)
    for name in cleaned:
        table[name] = UserCodec(encoder, decoder, stackable)


def extension_of(name: str) -> str:
    """Return the extension in lower case without dot; "" for ``name``, ``.name``, ``name.``."""
    stem, _, extension = name.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem.strip(".") else ""


def has_codec(name: str, table: Mapping[str, Codec]) -> bool:
    """Whether the extension of a name has a codec, in `table` or in that of the process."""
    rest = name
    for layer in range(_MAX_LAYERS + 1):
        extension = extension_of(rest)
        codec = table.get(extension) or CODECS.get(extension)
        if codec is None:
            return layer > 0 and not extension
        if not codec.stackable:
            return True
        rest = rest[: -len(extension) - 1]
    return True


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
    max_objects: float = Limits.max_objects,
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
        The content would grow beyond the limits.
    UnsafePickleError
        The content is a pickle or contains one.
    MissingDependencyError
        The optional package for the extension is not installed.
    OptionTypeError
        `name` is not a str, or `data` not bytes-like.
    """
    _check_name(name)
    try:
        memoryview(data)
    except TypeError:
        raise OptionTypeError(f"data must be bytes-like, got {shorten(data)}") from None
    options = DecodeOptions(
        ImageOptions(mode, exif_transpose, background),
        Limits(max_size, max_ratio, max_pixels, max_objects),
        allow_pickle,
    )
    return decode_member(name, data, options, {})


def decode_member(
    name: str,
    data: Buffer,
    options: DecodeOptions,
    table: Mapping[str, Codec],
    stored_size: int | None = None,
) -> Any:
    """Decode by the codecs in `table`, or those of the process for extensions not in it.

    `stored_size` is what the member takes in its archive, by default the length of `data`.
    """
    if stored_size is None:
        stored_size = memoryview(data).nbytes
    rest = name
    layers = 0
    try:
        while True:
            extension = extension_of(rest)
            codec = table.get(extension) or CODECS.get(extension)
            if codec is None:
                if layers and not extension:
                    return data
                raise _unknown(extension, "read the bytes from the archive itself")
            if not codec.can_decode:
                raise UnsupportedMemberError(f"the codec for .{extension} cannot decode")
            decoded = codec.decode(data, options, stored_size)
            if not codec.stackable:
                return decoded
            data = decoded
            layers += 1
            if layers > _MAX_LAYERS:
                raise LimitError(f"more than {_MAX_LAYERS} layers of compression")
            rest = rest[: -len(extension) - 1]
    except MissingDependencyError:
        raise
    except ImageArchiveError as error:
        raise with_name(name, error) from error


def encode(name: str, value: Any, *, allow_pickle: bool = False) -> bytes:
    """Encode an object by the extension of a name; the inverse of `decode`.

    The same object gives the same bytes. A lossy format (JPEG) does not give back the same array.

    Raises
    ------
    UnsupportedMemberError
        The extension is unknown.
    DecodeError
        The format cannot express the object.
    UnsafePickleError
        ``pkl`` or an array of Python objects without ``allow_pickle=True``.
    OptionTypeError
        `name` is not a str.
    """
    _check_name(name)
    return encode_member(name, value, allow_pickle, {})


def encode_member(name: str, value: Any, allow_pickle: bool, table: Mapping[str, Codec]) -> bytes:
    """Encode by the codecs in `table`, or those of the process for extensions not in it."""
    try:
        return _encode(name, value, allow_pickle, table)
    except MissingDependencyError:
        raise
    except ImageArchiveError as error:
        raise with_name(name, error) from error


def _encode(name: str, value: Any, allow_pickle: bool, table: Mapping[str, Codec]) -> bytes:
    extension = extension_of(name)
    codec = table.get(extension) or CODECS.get(extension)
    if codec is None:
        raise _unknown(extension, "encode the value yourself")
    if not codec.can_encode:
        raise UnsupportedMemberError(f"the codec for .{extension} cannot encode")
    if codec.stackable:
        inner = name[: -len(extension) - 1]
        # In "x.gz", nothing precedes the compression: the value itself is the bytes.
        value = _encode(inner, value, allow_pickle, table) if extension_of(inner) else value
    return codec.encode(value, allow_pickle)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise OptionTypeError(f"name must be a str such as 'labels.json', got {shorten(name)}")


def _unknown(extension: str, advice: str) -> UnsupportedMemberError:
    what = f"unknown extension .{extension}" if extension else "no extension"
    return UnsupportedMemberError(f"{what}; {advice}, or add a codec with register_codec")
