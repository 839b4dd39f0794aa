"""S3, Google Cloud Storage, and Azure, by obstore."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import unquote

from imagearchive.errors import (
    MissingDependencyError,
    OptionError,
    RemoteAccessError,
    RemoteError,
    UnsupportedArchiveError,
)
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.path_options import AccessOptions
from imagearchive.storage.remote.client import Listing, ObjectStatus, replaced
from imagearchive.storage.remote.retries import RetryPolicy, TransientError

__all__ = ["SCHEMES", "CloudClient"]

T = TypeVar("T")

#: The class of obstore for each scheme.
SCHEMES: Final = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
# Options, and variables of the environment, that name another server than the cloud's own.
_ENDPOINTS: Final = {
    "s3": ("endpoint", "aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3"),
    "gs": ("base_url", "google_base_url"),
    "az": ("endpoint", "azure_endpoint", "azure_storage_endpoint"),
}
# Bytes of a part of an upload at least, how many parts S3 allows, and how many are sent at a time.
_PART: Final = 8 << 20
_MAX_PARTS: Final = 9_000
_PARTS_AT_ONCE: Final = 8
# What a server answered, in the text of an error of obstore. The rest of that text may repeat
# parts of the request.
_STATUS: Final = re.compile(r"status(?: code)?:? (\d{3})\b")
_CODE: Final = re.compile(r"<Code>([\w.]{1,80})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})")
# What is in the text of an error if there are no credentials.
_CREDENTIALS: Final = re.compile(r"credential|InstanceMetadata|token", re.IGNORECASE)
_PUBLIC: Final = Hint("storage_options={'skip_signature': True}", "for public data")
_CLOCK: Final = ("RequestTimeTooSkewed", "AuthenticationFailedClock")
_EXPIRED: Final = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired")
# Reasons of failures that never reached an answer, in the text of errors.
_CAUSES: Final = (
    ("timed out", "the server did not answer in time"),
    ("TimedOut", "the server did not answer in time"),
    ("TooManyRedirects", "too many redirects; is it a loop?"),
    (
        "Header missing from response",
        "the server sent something else than an object; is a login needed, or the endpoint wrong?",
    ),
    ("Content-Range header not present", "the server does not say which range it sends"),
    ("dns error", "the host of the endpoint is not known"),
    ("Connection refused", "the connection was refused"),
    ("certificate", "the certificate of the server is not trusted"),
    ("error trying to connect", "the server cannot be reached"),
    ("error sending request", "the server cannot be reached"),
    ("HTTP error", "the connection was closed"),
    ("URL scheme is not allowed", "the endpoint is not encrypted, and allow_http is not set"),
)


class CloudClient:
    """Requests to one bucket or container.

    obstore's threads do not exist in a forked child, so a client is for the process that made it;
    `imagearchive.storage.remote.clients` sees to that. Retries are those of obstore, which also
    resumes a body that was cut. Other failures are repeated here, at most three times. obstore
    follows redirects, and sends the header Authorization to no other host.

    Parameters
    ----------
    scheme : str
        One of `SCHEMES`.
    bucket : str
        Name of the bucket or container.
    options : AccessOptions
        The arguments of obstore's class. Without credentials, it looks for them in the
        environment, and where the cloud offers them to its machines.
    """

    def __init__(self, scheme: str, bucket: str, options: AccessOptions) -> None:
        self._obstore = _import_obstore(f"{scheme}://{bucket}")
        self._bucket = bucket
        self._root = f"{scheme}://{bucket}/"
        self._lost = options.lost
        retries = RetryPolicy.from_config(options.values.get("retry_config"))
        self._retries = replace(retries, max_retries=min(3, retries.max_retries))
        try:
            self._store = _make_store(self._obstore, scheme, bucket, options, retries)
        except Exception as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(
                f"storage_options of {scheme}://{bucket}: {_explain(error, options)}"
            ) from None

    def status(self, key: str) -> ObjectStatus:
        """Return size and identity; see `Client.status`."""

        def get() -> ObjectStatus:
            try:
                return _status(self._obstore.head(self._store, key))
            except self._obstore.exceptions.BaseError as error:
                if _status_code(error) not in (400, 403):
                    raise
            # Only the answer to another request says why, for example that a token has expired.
            return _status(self._obstore.get(self._store, key, options={"range": (0, 2)}).meta)

        return self._call(key, get)

    def read(self, key: str, offset: int, size: int, expected: ObjectStatus) -> memoryview:
        """Return a range, by one request; see `Client.read`."""
        # Some servers take a range of the first byte alone for none.
        asked = max(size, min(2, expected.size - offset))
        options: dict[str, Any] = {"range": (offset, offset + asked)}
        name, _, value = expected.identity.partition("=")
        if name == "etag":
            options["if_match"] = value

        def get() -> memoryview:
            try:
                answer = self._obstore.get(self._store, key, options=options)
            except self._obstore.exceptions.BaseError as error:
                # Where a condition is ignored, a shorter object has replaced this one.
                if _is_other_range(error) and self.status(key)[:2] != expected[:2]:
                    raise replaced(self._root + key) from None
                raise
            found = _status(answer.meta)
            if found[:2] != expected[:2]:
                raise replaced(self._root + key)
            data = memoryview(answer.bytes())
            if len(data) != asked:
                raise TransientError(f"the body ended after {len(data)} of {asked} bytes")
            return data[:size]

        return self._call(key, get)

    def read_start(
        self, key: str, size: int, known: str = ""
    ) -> tuple[ObjectStatus, memoryview] | None:
        """Return the beginning of an object, unless it is the known one."""
        options: dict[str, Any] = {"range": (0, size)}
        name, _, value = known.partition("=")
        if name == "etag":
            options["if_none_match"] = value

        def get() -> tuple[ObjectStatus, memoryview] | None:
            try:
                answer = self._obstore.get(self._store, key, options=options)
            except self._obstore.exceptions.NotModifiedError:
                return None
            except self._obstore.exceptions.BaseError as error:
                if _status_code(error) != 416 and not isinstance(
                    error, self._obstore.exceptions.GenericError
                ):
                    raise
                # No range is inside an empty object; not all servers say that by 416.
                found = _status(self._obstore.head(self._store, key))
                if found.size:
                    raise
                return found, memoryview(b"")
            found = _status(answer.meta)
            if known and found.identity == known:
                return None
            data = memoryview(answer.bytes())
            if len(data) != min(size, found.size):
                raise TransientError(f"the body ended after {pluralize(len(data), 'byte')}")
            return found, data

        return self._call(key, get)

    def list(self, prefix: str) -> Listing:
        """List what is below a prefix."""

        def get() -> Listing:
            found = self._obstore.list_with_delimiter(self._store, prefix or None)
            skip = len(prefix)
            return Listing(
                [one[skip:].strip("/") for one in found["common_prefixes"]],
                # A prefix may be an object, too: consoles make such ones as folders.
                [
                    (one["path"][skip:], _status(one))
                    for one in found["objects"]
                    if len(one["path"]) > skip
                ],
            )

        return self._call(prefix, get)

    def put(self, key: str, path: str) -> ObjectStatus:
        """Upload a file in several parts; it appears when it is complete."""

        def send() -> ObjectStatus:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                part = max(_PART, -(-size // _MAX_PARTS))
                if size <= part:
                    answer = self._obstore.put(self._store, key, file.read(), use_multipart=False)
                else:
                    chunks = _iter_chunks(file, part)
                    answer = self._obstore.put(
                        self._store, key, chunks, chunk_size=part, max_concurrency=_PARTS_AT_ONCE
                    )
            if answer.get("e_tag"):
                return ObjectStatus(size, f"etag={answer['e_tag']}")
            return _status(self._obstore.head(self._store, key))

        return self._call(key, send)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._call(key, lambda: self._obstore.delete(self._store, key))

    def close(self) -> None:
        """Do nothing: obstore closes its connections."""

    def _call(self, key: str, call: Callable[[], T]) -> T:
        """Make a request, and raise errors of ours for those of obstore."""
        shown = self._root + key

        def attempt() -> T:
            try:
                return call()
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown) from None
            except self._obstore.exceptions.PreconditionError:
                raise replaced(shown) from None
            except (self._obstore.exceptions.BaseError, PermissionError, OSError) as error:
                if isinstance(error, (RemoteError, RemoteAccessError)):
                    raise
                raise self._failure(shown, error) from None

        return self._retries.run(attempt, lambda reason: RemoteError(f"{shown}: {reason}"))

    def _failure(self, shown: str, error: Exception) -> Exception:
        """Return the error to raise for one of obstore's."""
        exceptions = self._obstore.exceptions
        text = str(error)
        code = _status_code(error)
        if _is_other_range(error):
            return TransientError("the server sent another range than it was asked for")
        if "NotPartial" in text:
            return self._explain_whole(shown)
        if code == 404:
            # The bucket, since an object that does not exist is another error.
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown)
        if code == 407 or "ProxyAuthRequired" in text:
            return RemoteAccessError(
                f"{shown}: access is denied by the proxy (407); check the user and the password "
                f"in its address"
            )
        named = _CODE.search(text)
        name = named[1] if named else ""
        refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        if isinstance(error, refused) or code in (401, 403) or name in (*_CLOCK, *_EXPIRED):
            hints: list[Hint] = []
            if name in _CLOCK:
                why = "the clock of this machine is wrong; set it"
            elif name in _EXPIRED:
                why = "the credentials have expired; obtain new ones"
            elif self._lost:
                why = (
                    "its credentials were pickled by another program; pass storage_options again, "
                    "or set them in the environment"
                )
            else:
                why, hints = "check the credentials", [_PUBLIC]
            what = " ".join(str(part) for part in (code, name) if part)
            return RemoteAccessError(
                f"{shown}: access is denied ({what or 'refused'}); {why}", hints=hints
            )
        if not code and _CREDENTIALS.search(self._without_names(shown, text)):
            return RemoteAccessError(
                f"{shown}: no credentials were found; set them in the environment or in "
                f"storage_options",
                hints=[_PUBLIC],
            )
        return RemoteError(f"{shown}: {_explain(error)}")

    def _without_names(self, shown: str, text: str) -> str:
        """Return the text of an error without the names of the bucket and the object."""
        text = unquote(text)
        for name in filter(None, (shown.removeprefix(self._root), self._bucket)):
            text = text.replace(name, "")
        return text

    def _explain_whole(self, shown: str) -> Exception:
        """Return the error for an answer that is not a part of an object."""
        with contextlib.suppress(self._obstore.exceptions.BaseError, OSError):
            answer = self._obstore.get(self._store, shown.removeprefix(self._root))
            if "html" in answer.attributes.get("Content-Type", ""):
                return RemoteAccessError(
                    f"{shown}: the server sent a web page instead of data; is a login needed?"
                )
        return UnsupportedArchiveError(
            f"{shown}: the server ignores the header Range, so parts of the object cannot be read"
        )


def _iter_chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the content of a file.

    obstore asks for it in the thread that called it, so an interrupt is raised here. It then
    removes the parts that it has sent.
    """
    while chunk := file.read(size):
        yield chunk


def _import_obstore(shown: str) -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise MissingDependencyError(
            f"{shown}: reading from a bucket needs obstore; install it with "
            f"pip install 'imagearchive[remote]'"
        ) from None
    return obstore


def _make_store(
    obstore: Any, scheme: str, bucket: str, options: AccessOptions, retries: RetryPolicy
) -> Any:
    values = {**options.values, "retry_config": retries.to_config()}
    settings = {name.lower(): value for name, value in {**os.environ, **values}.items()}
    endpoints = [str(settings.get(name) or "") for name in _ENDPOINTS[scheme]]
    if "prefix" in values:
        raise OptionError("storage_options has no 'prefix'; it is a part of the URL")
    if any(endpoint.startswith("http://") for endpoint in endpoints):
        client: Mapping[str, Any] = values.get("client_options") or {}
        values["client_options"] = {"allow_http": True, **client}
    store = getattr(obstore.store, SCHEMES[scheme])
    return store(bucket, **values)


def _status(meta: Mapping[str, Any]) -> ObjectStatus:
    modified = meta["last_modified"]
    if meta.get("e_tag"):
        identity = f"etag={meta['e_tag']}"
    elif meta.get("version"):
        identity = f"version={meta['version']}"
    else:
        identity = f"modified={modified.isoformat()}"
    return ObjectStatus(int(meta["size"]), identity, int(modified.timestamp()) * 10**9)


def _is_other_range(error: Exception) -> bool:
    """Whether an answer is not the part that was asked for, as if the object were shorter."""
    text = str(error)
    return _status_code(error) == 416 or "UnexpectedRange" in text or "InvalidRange" in text


def _status_code(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _explain(error: Exception, options: AccessOptions | None = None) -> str:
    """Return what happened, without what may contain credentials."""
    text = str(error)
    code = _status_code(error)
    if code is not None:
        named, message = _CODE.search(text), _MESSAGE.search(text)
        more = f": {message[1]}" if message else ""
        return f"the server answered {code}{' ' + named[1] if named else ''}{more}"
    for sign, meaning in _CAUSES:
        if sign in text:
            return meaning
    if options is not None:
        first = text.splitlines()[0] if text else ""
        return first if not _has_value(first, options) else type(error).__name__
    return f"the request failed ({type(error).__name__})"


def _has_value(text: str, options: AccessOptions) -> bool:
    return any(str(value) in text for value in options.values.values() if str(value))
