"""Paths that carry how to reach them: endpoint, credentials, timeouts.

Everything above this package passes paths as text. A `PathWithOptions` is such a text, and nothing
but `locate` has to know that there is more to it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_path, check_size, shorten
from imagearchive.errors.plurals import pluralize

__all__ = [
    "AccessOptions",
    "BlockCacheOptions",
    "PathWithOptions",
    "add_options",
    "hide_credentials",
    "options_of",
    "server_of",
    "with_text_of",
]

# Options that are pickled as they are. All others may be credentials.
PUBLIC: Final = frozenset({
    "endpoint", "region", "default_region", "skip_signature", "virtual_hosted_style_request",
    "account_name", "use_emulator", "request_payer", "base_url", "retry_config",
})  # fmt: skip
_HTTP: Final = re.compile(r"https?://", re.IGNORECASE)
# Parameters of a query that grant access: signed URLs of the clouds, and common names.
_SECRET: Final = re.compile(
    r"x-(amz|goog|ms)-.*|signature|sig|se|sp|sv|st|sr|spr|skoid|sktid|skt|ske|sks|skv|expires"
    r"|policy|key-pair-id|awsaccesskeyid|googleaccessid|.*token.*|.*key|password|auth.*",
    re.IGNORECASE,
)
# Options, and variables of the environment, that say which server a bucket is on.
_SERVER: Final = re.compile(
    r"((aws|azure|azure_storage|google)_)?(endpoint(_url)?(_s3)?|base_url|account_name"
    r"|use_emulator|azurite_blob_storage_url)",
    re.IGNORECASE,
)
# Bytes of a cache of blocks, by default and at least.
_CACHE_BYTES: Final = 10 << 30
_MIN_CACHE_BYTES: Final = 1 << 20
_NONCE_BYTES: Final = 16
_MAC_BYTES: Final = 32


class BlockCacheOptions(NamedTuple):
    """Where blocks of remote objects are cached, and how many bytes they may take."""

    folder: str
    limit: int


class AccessOptions:
    """How to reach an object: the argument ``storage_options``, and parts of a URL.

    Immutable. Two are equal if their values are. They are shown without values, and pickled such
    that only the processes of this program can read those that may be credentials; see `seal`.

    Parameters
    ----------
    values : mapping
        As obstore takes them.
    filesystem : object, optional
        A file system with the interface of fsspec, which is then used instead.
    query : str
        The part of a URL's query that grants access.
    user : str
        ``user:password`` of a URL.
    lost : bool
        Whether credentials could not be restored from a pickle.
    cache : BlockCacheOptions, optional
        Where blocks are cached. Clients do not depend on it.
    """

    __slots__ = ("_key", "cache", "filesystem", "lost", "query", "user", "values")

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        query: str = "",
        user: str = "",
        lost: bool = False,
        cache: BlockCacheOptions | None = None,
    ) -> None:
        self.values = dict(values or {})
        self.filesystem = filesystem
        self.query = query
        self.user = user
        self.lost = lost
        self.cache = cache
        self._key: bytes | None = None

    @property
    def key(self) -> bytes:
        """A digest that distinguishes how to reach objects; it is never stored."""
        if self._key is None:
            text = repr((_sorted(self.values), self.query, self.user, id(self.filesystem)))
            self._key = hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest()
        return self._key

    def replace(self, query: str, user: str) -> AccessOptions:
        """Return the options with what a URL contains."""
        return AccessOptions(self.values, self.filesystem, query, user, self.lost, self.cache)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, AccessOptions) and other.key == self.key and other.cache == self.cache
        )

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"AccessOptions(<{pluralize(len(self.values), 'value')}>)"

    def __reduce__(self) -> tuple[Any, ...]:
        public = {name: value for name, value in self.values.items() if name in PUBLIC}
        secret = {name: value for name, value in self.values.items() if name not in PUBLIC}
        sealed = b""
        if secret or self.query or self.user:
            sealed = seal(pickle.dumps((secret, self.query, self.user), 5))
        return _restore_options, (public, sealed, self.filesystem, self.cache)


def _restore_options(
    public: dict[str, Any], sealed: bytes, filesystem: Any, cache: BlockCacheOptions | None
) -> AccessOptions:
    secret, query, user, lost = {}, "", "", False
    if sealed:
        opened = unseal(sealed)
        if opened is None:
            lost = True
        else:
            secret, query, user = pickle.loads(opened)
    return AccessOptions({**public, **secret}, filesystem, query, user, lost, cache)


class PathWithOptions(str):
    """A path or URL as text, with `AccessOptions`; equal to the text alone."""

    __slots__ = ("options",)
    options: AccessOptions

    def __new__(cls, text: str, options: AccessOptions) -> PathWithOptions:
        """Return the text with options."""
        made = super().__new__(cls, text)
        made.options = options
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return PathWithOptions, (str(self), self.options)

    def __str__(self) -> str:
        # str() of a subclass would otherwise be the object itself.
        return "".join(self)


def options_of(path: str) -> AccessOptions:
    """Return the options that a path carries; those of plain text are empty."""
    return path.options if isinstance(path, PathWithOptions) else _NONE


def with_text_of(path: str, text: str) -> str:
    """Return another text with the options of a path."""
    return PathWithOptions(text, path.options) if isinstance(path, PathWithOptions) else text


def server_of(options: AccessOptions) -> str:
    """Return which server objects are on, as far as their URL does not say it."""
    settings = {**os.environ, **options.values}
    return repr(sorted((n.lower(), str(v)) for n, v in settings.items() if _SERVER.fullmatch(n)))


def hide_credentials(path: str) -> str:
    """Return a path without credentials in its text: those of a URL become options of the path.

    User and password, and what grants access in the query of a signed URL, are credentials.
    """
    match = _HTTP.match(path)
    if match is None:
        return path
    # Imported here, because most paths are no URLs.
    from urllib.parse import unquote

    scheme, rest = match[0], path[match.end() :].partition("#")[0]
    before, _, query = rest.partition("?")
    user, at, _ = before.partition("/")[0].rpartition("@")
    secret: list[str] = []
    shown: list[str] = []
    for part in query.split("&") if query else []:
        name = unquote(part.partition("=")[0])
        (secret if _SECRET.fullmatch(name) else shown).append(part)
    if not at and not secret:
        return path
    text = scheme + before[len(user) + len(at) :] + ("?" + "&".join(shown) if shown else "")
    options = options_of(path)
    query = "&".join(part for part in (options.query, *secret) if part)
    return PathWithOptions(text, options.replace(query, user or options.user))


def add_options(
    path: Any,
    storage_options: Any = None,
    filesystem: Any = None,
    cache_dir: Any = None,
    cache_bytes: Any = None,
) -> Any:
    """Return a path, or a list of paths, that carries options; unchanged if there are none.

    Credentials in a URL become options, too, as in `hide_credentials`.

    Raises
    ------
    OptionTypeError
        `storage_options` is not a mapping with names as keys, or another type is wrong.
    OptionError
        There cannot be such a cache.
    """
    if path is None:
        return None
    if storage_options is None and filesystem is None and cache_dir is None and cache_bytes is None:
        if isinstance(path, str):
            return hide_credentials(path)
        has_url = isinstance(path, (list, tuple)) and any(
            isinstance(one, str) and _HTTP.match(one) for one in path
        )
        return [add_options(one) for one in path] if has_url else path
    if storage_options is not None and (
        not isinstance(storage_options, Mapping)
        or not all(isinstance(name, str) for name in storage_options)
    ):
        # Not shown: it may contain credentials.
        raise OptionTypeError(
            f"storage_options must be a dict such as {{'region': 'eu-central-1'}}, got "
            f"{type(storage_options).__name__}"
        )
    if filesystem is not None and not all(
        callable(getattr(filesystem, name, None)) for name in ("info", "cat_file", "ls")
    ):
        raise OptionTypeError(
            f"filesystem must have the interface of fsspec (info, cat_file, ls), got "
            f"{shorten(filesystem)}"
        )
    cache = _check_cache(cache_dir, cache_bytes, filesystem)
    return _with_options(path, AccessOptions(storage_options, filesystem, cache=cache))


def _with_options(path: Any, options: AccessOptions) -> Any:
    if isinstance(path, (str, bytes, os.PathLike)):
        text = hide_credentials(os.fsdecode(path))
        inside = options_of(text)
        return PathWithOptions(str(text), options.replace(inside.query, inside.user))
    if isinstance(path, Sequence):
        return [_with_options(one, options) for one in path]
    return path


def _check_cache(cache_dir: Any, cache_bytes: Any, filesystem: Any) -> BlockCacheOptions | None:
    limit = _CACHE_BYTES
    if cache_bytes is not None:
        limit = check_size("cache_bytes", cache_bytes, _MIN_CACHE_BYTES)
    if cache_dir is None:
        if cache_bytes is not None:
            raise OptionError("cache_bytes needs cache_dir, the folder of the cache")
        return None
    if filesystem is not None:
        raise OptionError(
            "cache_dir cannot be combined with filesystem, which cannot say that the bytes of two "
            "requests are of the same state of an object; use a caching file system of fsspec"
        )
    folder = check_path("cache_dir", cache_dir)
    if "://" in folder:
        raise OptionError(
            f"cache_dir must be a folder on this machine, got {shorten(hide_credentials(folder))}"
        )
    return BlockCacheOptions(os.path.abspath(folder), limit)


def seal(data: bytes) -> bytes:
    """Encrypt bytes so that only the processes of this program can read them.

    The key is the one that `multiprocessing` gives to all processes that it starts, in every way
    of starting them. BLAKE2 with a key makes the stream that the bytes are combined with, and the
    code that shows that nobody changed them.
    """
    nonce = os.urandom(_NONCE_BYTES)
    cipher = _combine(data, nonce)
    return nonce + _mac(nonce + cipher) + cipher


def unseal(data: bytes) -> bytes | None:
    """Decrypt what `seal` returned; None if another program made it."""
    import hmac

    nonce, rest = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
    mac, cipher = rest[:_MAC_BYTES], rest[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(nonce + cipher)):
        return None
    return _combine(cipher, nonce)


def _derived_key(purpose: bytes) -> bytes:
    # Imported here, because few programs need it.
    from multiprocessing import current_process

    key = hashlib.blake2b(bytes(current_process().authkey), person=b"imagearchive").digest()
    return hashlib.blake2b(purpose, key=key).digest()


def _mac(data: bytes) -> bytes:
    return hashlib.blake2b(data, key=_derived_key(b"mac"), digest_size=_MAC_BYTES).digest()


def _combine(data: bytes, nonce: bytes) -> bytes:
    key = _derived_key(b"stream")
    stream = b"".join(
        hashlib.blake2b(nonce + number.to_bytes(8, "little"), key=key).digest()
        for number in range(-(-len(data) // 64))
    )
    return bytes(one ^ two for one, two in zip(data, stream))


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted((name, _sorted(one)) for name, one in value.items())
    return value


_NONE: Final = AccessOptions()
