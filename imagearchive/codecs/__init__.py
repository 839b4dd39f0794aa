"""Decodes members to objects and encodes objects to members, by the extension of a name."""

from imagearchive.codecs.codec_registry import decode, encode, extension_of, register_codec
from imagearchive.codecs.npz_arrays import NpzArrays
from imagearchive.codecs.view import DecodedView
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
