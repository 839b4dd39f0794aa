"""Members to objects and back, by extension; `DecodedView` does so for a whole archive."""

from imagearchive.codecs.view import (
    DecodedView,
    NpzArrays,
    decode,
    encode,
    extension_of,
    register_codec,
)
from imagearchive.storage.limits import Limits

__all__ = [
    "DecodedView",
    "Limits",
    "NpzArrays",
    "decode",
    "encode",
    "extension_of",
    "register_codec",
]
