"""The reading part of `barecat.DecodedView`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from imagearchive.codecs import view
from imagearchive.compat.barecat.not_offered import VIEW_METHODS, not_offered
from imagearchive.errors import UnsupportedMemberError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DecodedView"]


class UnknownExtensionError(UnsupportedMemberError, ValueError):
    """No codec is registered for the extension; the original raises a `ValueError`."""


class DecodedView(view.DecodedView):
    """`imagearchive.DecodedView` with the arguments and errors of `barecat.DecodedView`.

    It returns images with three channels whatever is in the file, and loads pickles only with
    ``allow_pickle=True``.
    """

    def register_codec(
        self,
        exts: str | Iterable[str],
        encoder: Callable[[Any], Buffer] | None,
        decoder: Callable[[Any], Any] | None,
        nonfinal: bool = False,
        *,
        stackable: bool = False,
    ) -> None:
        """Add a codec to this view; `nonfinal` and `stackable` mean the same."""
        super().register_codec(exts, encoder, decoder, stackable=nonfinal or stackable)

    def decode(self, name: str, data: Buffer, stored_size: int | None = None) -> Any:
        """Decode bytes by the extension of a name, with the options and codecs of this view."""
        if not self.knows(name):
            raise UnknownExtensionError(
                f"{name}: no codec is registered for this extension; read the bytes from the "
                f"archive itself"
            )
        return super().decode(name, data, stored_size)


for _method, _instead in VIEW_METHODS.items():
    setattr(DecodedView, _method, not_offered(f"DecodedView.{_method}", _instead))
