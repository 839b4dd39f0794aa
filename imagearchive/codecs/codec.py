"""What a codec is, and the options of decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imagearchive.errors import (
    CorruptArchiveError,
    DecodeError,
    ImageArchiveError,
    UnsafePickleError,
    UnsupportedArchiveError,
)
from imagearchive.errors.hints import Hint
from imagearchive.images.pillow import ImageOptions
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Codec", "DecodeOptions", "UserCodec", "unsafe_pickle", "with_name"]


@dataclass(frozen=True)
class DecodeOptions:
    """Everything that decoding depends on besides the bytes.

    Attributes
    ----------
    image : ImageOptions
        How images become arrays.
    limits : Limits
        Bounds on what decoding one member may take.
    allow_pickle : bool
        Whether pickles are loaded, which can run arbitrary code.
    """

    image: ImageOptions = field(default_factory=ImageOptions)
    limits: Limits = field(default_factory=Limits)
    allow_pickle: bool = False


class Codec(ABC):
    """Converts between the bytes of a member and an object. Stateless, so threads share one.

    Attributes
    ----------
    stackable : bool
        The codec is a compression: the extension before it decodes its result, as in ``x.json.gz``.
    can_decode, can_encode : bool
    """

    stackable = False
    can_decode = True
    can_encode = True

    @abstractmethod
    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Return the object.

        Parameters
        ----------
        data : bytes-like
        options : DecodeOptions
        stored_size : int
            Size of the whole member in the archive, to which ``limits.max_ratio`` refers. `data`
            may be larger, where other codecs have decompressed it already.
        """

    @abstractmethod
    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Return the bytes. The same object gives the same bytes."""


class UserCodec(Codec):
    """A pair of functions that a user registered."""

    def __init__(
        self,
        encoder: Callable[[Any], Buffer] | None,
        decoder: Callable[[Any], Any] | None,
        stackable: bool,
    ) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self.stackable = stackable
        self.can_decode = decoder is not None
        self.can_encode = encoder is not None

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> Any:
        """Call the decoder; whatever it raises reaches the caller unchanged."""
        assert self._decoder is not None
        return self._decoder(data)

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Call the encoder."""
        assert self._encoder is not None
        return bytes(self._encoder(value))


def unsafe_pickle(what: str) -> UnsafePickleError:
    """Return the error for content that only `pickle` can load."""
    return UnsafePickleError(
        f"{what} can run arbitrary code when it is loaded, so it was not loaded",
        hints=[Hint("allow_pickle=True", "to load it, if you trust the source of the archive")],
    )


def with_name(name: str, error: ImageArchiveError) -> ImageArchiveError:
    """Return a copy of an error whose message begins with the name of what was being decoded."""
    # Errors of containers become DecodeErrors: the member is damaged, not the archive.
    kinds = (CorruptArchiveError, UnsupportedArchiveError)
    kind = DecodeError if isinstance(error, kinds) else type(error)
    shown = name if name.isprintable() and len(name) <= 400 else ascii(name[:400])
    return kind(f"{shown}: {error.message}", hints=error.hints)
