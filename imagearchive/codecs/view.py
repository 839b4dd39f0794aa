"""`DecodedView` decodes the members of an archive by their extension.

================================  ==================================================
extension                         object
================================  ==================================================
``jpg jpeg png gif bmp webp``     array (H, W, 3) of uint8; see `imagearchive.images.pillow`
``tif tiff ppm``                  likewise
``npy``                           the array; Python objects in it must be plain data
``npz``                           `NpzArrays`: a mapping of name -> array, decoded on access
``json``                          dict, list, ...
``msgpack``                       dict, list, ... (needs the ``msgpack`` extra)
``txt``                           str, from UTF-8
``cls``                           int, from decimal text
``idx idx1-ubyte idx3-ubyte``     the array
``pkl pickle``                    plain values and arrays; any other object only with
                                  ``allow_pickle=True``
``gz xz bz2 zst``                 bytes, or in ``x.json.gz`` the object of the inner extension
================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import TYPE_CHECKING, Any, Final, TypeVar

from imagearchive.codecs.codec import Codec, DecodeOptions
from imagearchive.codecs.codec_registry import (
    add_codec,
    decode_member,
    encode_member,
    has_codec,
)
from imagearchive.errors import DecodeError, OptionTypeError
from imagearchive.images.pillow import ImageMode, ImageOptions
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DecodedView"]

_T = TypeVar("_T")


# Up to this many bytes decode to little, whatever they were decompressed from.
_SMALL: Final = 4096


class DecodedView(Mapping[str, Any]):
    """A mapping of name -> decoded object over a mapping of name -> bytes.

    It is read-only and has no cache: each access reads and decodes. Threads and processes can share
    a view if they can share the store; a view can be pickled if the store can.

    Parameters
    ----------
    store : Mapping of str to bytes-like
        An `Archive`, a dict, or anything else that maps names to bytes.
    mode : {"RGB", "L", "RGBA", "unchanged", "index"}
        Channels of images: three, one, four, or those of the file; or, for masks, one channel of
        the stored integers, which of a palette image are its indices. The shape is always
        (H, W, C).
    exif_transpose : bool
        Apply the EXIF orientation of images. Off by default, because boxes and labels refer to the
        stored pixels; `DataLoader` does not apply it either.
    background : sequence of 3 ints, optional
        Color behind transparent pixels. Without it, alpha is dropped.
    allow_pickle : bool
        Load pickles and arrays of any Python objects, **which can run arbitrary code**. Plain
        objects (numbers, text, lists, arrays and so on) are decoded without it.
    max_size : float
        Largest size of a decompressed member in bytes.
    max_ratio : float
        Largest ratio of decompressed to stored size of a member that exceeds 64 MiB.
    max_pixels : float
        Largest width times height of an image.
    max_objects : float
        Largest number of values in a JSON or MessagePack member, beyond 8 for each stored byte.

    Raises
    ------
    OptionError, OptionTypeError
        An option is invalid, or `store` is not a mapping.

    Notes
    -----
    For an unknown extension, ``view[name]`` raises `UnsupportedMemberError`, ``get`` returns its
    default, and ``values`` and ``items`` yield the raw bytes, so that a loop over all members goes
    on. A damaged member raises `DecodeError` in all of them; call `next` on the iterators of
    ``values`` and ``items`` again to continue after it.
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
        max_objects: float = Limits.max_objects,
    ) -> None:
        if not isinstance(store, Mapping):
            raise OptionTypeError(
                f"DecodedView needs a mapping of name -> bytes, got {type(store).__name__}"
            )
        self.store = store
        self._options = DecodeOptions(
            ImageOptions(mode, exif_transpose, background),
            Limits(max_size, max_ratio, max_pixels, max_objects),
            allow_pickle,
        )
        self._codecs: dict[str, Codec] = {}

    def register_codec(
        self,
        extensions: str | Iterable[str],
        encoder: Callable[[Any], Buffer] | None,
        decoder: Callable[[Any], Any] | None,
        *,
        stackable: bool = False,
    ) -> None:
        """Add a codec to this view only; see `imagearchive.codecs.register_codec`."""
        add_codec(self._codecs, extensions, encoder, decoder, stackable)

    def __getitem__(self, name: str) -> Any:
        data = self.store[name]
        try:
            return self.decode(name, data, self._stored_size(name, data))
        except DecodeError:
            check_unchanged = getattr(self.store, "check_unchanged", None)
            if check_unchanged is not None:
                # An archive that was overwritten is not a damaged one.
                check_unchanged()
            raise

    def _stored_size(self, name: str, data: Buffer) -> int | None:
        """Return what a member takes in an archive that may have compressed it."""
        info = getattr(self.store, "info", None)
        if info is None or memoryview(data).nbytes <= _SMALL:
            return None
        stored_size: int = info(name).stored_size
        return stored_size

    def decode(self, name: str, data: Buffer, stored_size: int | None = None) -> Any:
        """Decode bytes by the extension of a name, with the options and codecs of this view.

        The limits refer to `stored_size`, the bytes that the data takes in its archive; by default
        it is the length of `data`.
        """
        return decode_member(name, data, self._options, self._codecs, stored_size)

    def encode(self, name: str, value: Any) -> bytes:
        """Encode an object by the extension of a name, with the codecs of this view."""
        return encode_member(name, value, self._options.allow_pickle, self._codecs)

    def knows(self, name: str) -> bool:
        """Whether this view has a codec for the extension of a name."""
        return has_codec(name, self._codecs)

    def get(self, name: str, default: Any = None) -> Any:
        """Decode a member; return `default` if the name or its extension is unknown."""
        return self[name] if name in self.store and self.knows(name) else default

    def __contains__(self, name: object) -> bool:
        return name in self.store

    def __iter__(self) -> Iterator[str]:
        return iter(self.store)

    def __len__(self) -> int:
        return len(self.store)

    def values(self) -> ValuesView[Any]:
        """Return the decoded members, or raw bytes if the extension is unknown."""
        return _Values(self)

    def items(self) -> ItemsView[str, Any]:
        """Return pairs of name and decoded member, or raw bytes if the extension is unknown."""
        return _Items(self)

    def __repr__(self) -> str:
        return f"DecodedView({self.store!r})"


class _Iterator(Iterator[_T]):
    """Can continue after an error, unlike a generator."""

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
