"""Files to write, wherever their paths lead: `open_output` is what every writer opens.

On this machine that is an `AtomicFile`. A URL is written to a temporary file on this machine, which
is uploaded when it is whole. So a writer may seek in it, an upload that fails can be repeated, and
nothing is visible on the server before all of it is there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from typing import TYPE_CHECKING, Any

from imagearchive.errors import OptionError, TargetExistsError
from imagearchive.errors.hints import Hint
from imagearchive.storage import atomic
from imagearchive.storage.atomic import AtomicFile
from imagearchive.storage.location import Location, PublishingLocation, local_path, locate
from imagearchive.storage.path_options import add_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "UploadedFile",
    "check_target",
    "open_output",
    "output_folder",
    "output_path",
    "temporary_folder",
    "upload_name",
]


class UploadedFile(AtomicFile):
    """A file that is uploaded by `publish`, or not at all.

    Parameters
    ----------
    location : PublishingLocation
        The target.
    overwrite : bool
        Replace an object that has the name.
    before_replace : callable, optional
        Called just before another object is replaced.
    on_upload : callable, optional
        Called after the upload with the location, which then reads from this machine.
    buffering : int
        As in `open`.

    Raises
    ------
    TargetExistsError
        The target exists and `overwrite` is false.
    OptionError
        The server cannot be written to.
    RemoteError
        The server cannot be asked.
    OSError
        The temporary file cannot be created.
    """

    # Readable by nobody else: the folder of temporary files is shared.
    _mode = 0o600

    def __init__(
        self,
        location: PublishingLocation,
        *,
        overwrite: bool = False,
        before_replace: Callable[[], object] | None = None,
        on_upload: Callable[[Location], object] | None = None,
        buffering: int = -1,
    ) -> None:
        location.check_writable()
        self._location = location
        self._on_upload = on_upload
        super().__init__(
            location.path,
            overwrite=overwrite,
            sync=False,
            before_replace=before_replace,
            buffering=buffering,
        )

    @functools.cached_property
    def written_path(self) -> str:
        """What errors of writing are about; the temporary file is beside it."""
        return os.path.join(temporary_folder(self.path), upload_name(self.path))

    def _check_target(self) -> None:
        _check_remote_target(self._location, self._overwrite)

    def _is_taken(self) -> bool:
        return self._overwrite and self._location.is_file()

    def _rename(self) -> None:
        self._location.publish(self.part)
        self.published = True
        if self._on_upload is not None:
            self._on_upload(self._location.with_copy(self.part))
        with contextlib.suppress(OSError):
            os.unlink(self.part)

    def withdraw(self) -> None:
        """Remove the object even after `publish`, unless it has replaced another one."""
        self.abort()
        if self.published and not self._replaced:
            self._location.remove()


def upload_name(url: str) -> str:
    """Return the beginning of the names of temporary files that are uploaded to a URL.

    Writers of other URLs must not take them for their own: complete files that wait to be uploaded
    together are not locked.
    """
    digest = hashlib.blake2b(os.fsencode(url), digest_size=8).hexdigest()
    return f"imagearchive-upload-{digest}"


def output_path(
    name: str,
    path: Any,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> str:
    """Return the path or URL of a file to write, with ``~`` expanded.

    Parameters
    ----------
    name : str
        Of the argument.
    path : object
        What the caller passed.
    storage_options, filesystem : optional
        How to reach a URL; they travel with the text.

    Raises
    ------
    OptionError, OptionTypeError
        See `imagearchive.errors.arguments.check_path` and `add_options`. Or it is a URL of a
        server that cannot be written to.
    """
    text = local_path(name, path)
    if storage_options is not None or filesystem is not None:
        text = add_options(text, storage_options, filesystem)
    location = locate(text, name)
    if isinstance(location, PublishingLocation):
        location.check_writable()
        return location.path
    if location.local_path is None:
        raise OptionError(f"{location.path}: nothing can be written there; name a file")
    return text


def output_folder(
    name: str,
    path: Any,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> str:
    """Return the path or URL of a directory to write to; arguments and errors of `output_path`."""
    text = local_path(name, path)
    if storage_options is not None or filesystem is not None:
        text = add_options(text, storage_options, filesystem)
    location = locate(text, name)
    if location.local_path is not None:
        return text
    output_path(name, location.join("file").path)
    return location.path


def check_target(path: str, overwrite: bool) -> None:
    """Refuse to write where something is that must not be replaced.

    Raises
    ------
    TargetExistsError
        A file or object is there and `overwrite` is false, or what is there is not a file.
    """
    location = locate(path)
    if isinstance(location, PublishingLocation):
        _check_remote_target(location, overwrite)
    else:
        atomic.check_target(path, overwrite)


def _check_remote_target(location: PublishingLocation, overwrite: bool) -> None:
    # What looks like a directory in a bucket does not stand in the way of an object.
    if not overwrite and location.is_file():
        raise TargetExistsError(
            f"{location.path} exists", hints=[Hint("overwrite=True", "to replace it")]
        )


def temporary_folder(path: str) -> str:
    """Return the folder on this machine in which a file is written before it is published."""
    if locate(path).local_path is not None:
        return os.path.dirname(path) or "."
    # Imported here, because files on this machine do not need it.
    import tempfile

    return tempfile.gettempdir()


def open_output(
    path: str,
    *,
    overwrite: bool = False,
    sync: bool = True,
    before_replace: Callable[[], object] | None = None,
    on_upload: Callable[[Location], object] | None = None,
    buffering: int = -1,
) -> AtomicFile:
    """Open a file that appears under its path or URL when it is whole.

    Parameters
    ----------
    path : str
        As `output_path` returns it.
    overwrite, sync, before_replace, buffering
        As in `AtomicFile`.
    on_upload : callable, optional
        As in `UploadedFile`.

    Raises
    ------
    TargetExistsError, OptionError, RemoteError, OSError
        As `AtomicFile` and `UploadedFile`.
    """
    location = locate(path)
    if isinstance(location, PublishingLocation):
        return UploadedFile(
            location,
            overwrite=overwrite,
            before_replace=before_replace,
            on_upload=on_upload,
            buffering=buffering,
        )
    return AtomicFile(
        path, overwrite=overwrite, sync=sync, before_replace=before_replace, buffering=buffering
    )
