"""`ShardWriter`: writes samples of several fields to a row of TAR archives."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from imagearchive.archive.shard_size import ShardMember, ShardSize
from imagearchive.archive.writers import TarWriter
from imagearchive.codecs.codec_registry import encode_member
from imagearchive.containers.tar.writer import RECORD
from imagearchive.errors import ClosedError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_flag, check_integer, check_size, shorten
from imagearchive.storage.closing import Abortable
from imagearchive.storage.location import locate
from imagearchive.storage.outputs import output_path
from imagearchive.storage.path_options import with_text_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ShardPath", "ShardWriter"]

logger = logging.getLogger(__name__)

_NUMBER: Final = re.compile(r"\{(?::(0?[1-9][0-9]?)d?)?\}")
_DIGITS: Final = "06d"
_KEY: Final = "__key__"


class ShardPath:
    """The path of a row of archives, with a place for their number.

    Parameters
    ----------
    name : str
        Of the argument.
    value : path-like
        Such as ``train-{:05d}.tar``, or a URL. ``{}`` stands for six digits.
    storage_options, filesystem : optional
        How to reach a URL.
    """

    def __init__(
        self,
        name: str,
        value: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
    ) -> None:
        self.text = output_path(name, value, storage_options, filesystem)
        parts = _NUMBER.split(self.text)
        if len(parts) != 3 or "{" in parts[0] + parts[2]:
            raise OptionError(
                f"{name} must hold one {{}} where the number of a shard goes, as in "
                f"train-{{:05d}}.tar, got {self.text!r}"
            )
        if not parts[2].endswith(".tar") or "/" in parts[2]:
            raise OptionError(
                f"{name}: shards are TAR archives, so the name must end with the number and .tar, "
                f"as in train-{{:05d}}.tar, got {self.text!r}"
            )
        self._before, width, self._after = parts
        self._format = f"{width}d" if width else _DIGITS

    def number(self, number: int) -> str:
        """Return the path of one shard."""
        return with_text_of(self.text, f"{self._before}{number:{self._format}}{self._after}")

    def pattern(self, first: int, count: int) -> str:
        """Return the brace pattern that names so many shards."""
        if count < 2:
            return self.number(first)
        low, high = f"{first:{self._format}}", f"{first + count - 1:{self._format}}"
        return with_text_of(self.text, f"{self._before}{{{low}..{high}}}{self._after}")


class ShardWriter(Abortable):
    """Writes samples to TAR archives, a new one whenever one is full, each with its index.

    The members of a sample are ``KEY.EXTENSION``, as WebDataset names them, and lie next to each
    other. `imagearchive.SampleArchive`, `Archive.samples`, and WebDataset read them.

    An archive appears under its name when it is complete; so all but the last can be read while
    the next samples are written. If the ``with`` block raises, the archive that is being written
    is removed, and those before it stay. The same samples give the same bytes. For one thread.

    Parameters
    ----------
    path : path-like
        With a place for the number of the archive: ``train-{:05d}.tar``, or a URL. ``{}`` stands
        for six digits.
    shard_size : int or str
        Maximum size of an archive in bytes, or as ``"100MB"``, without the index. A larger sample
        gets an archive of its own. Units are powers of 1024.
    shard_samples : int, optional
        Maximum number of samples in an archive.
    overwrite : bool
        Replace archives of these names.
    mtime : int
        Modification time of all members, in seconds since 1970.
    index, sync : bool
        As in `TarWriter`.
    first_number : int
        Number of the first archive.
    storage_options, filesystem : optional
        How to reach a URL, as in `open`.

    Attributes
    ----------
    paths : list of str
        The complete archives, in order.

    Raises
    ------
    OptionError
        `path` has no place for a number.
    TargetExistsError
        There is an archive of the name of the first shard, and `overwrite` was not given.

    Examples
    --------
    >>> with ShardWriter("train-{:05d}.tar", shard_size="500MB") as writer:
    ...     writer.write({"__key__": "0001", "jpg": image, "cls": 3, "caption.txt": "a cat"})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shard_size: int | str = "1GB",
        shard_samples: int | None = None,
        overwrite: bool = False,
        mtime: int = 0,
        index: bool = True,
        sync: bool = True,
        first_number: int = 0,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
    ) -> None:
        self._first_number = check_integer("first_number", first_number, 0)
        self._path = ShardPath("path", path, storage_options, filesystem)
        # A smaller archive does not exist.
        self._shard = ShardSize(check_size("shard_size", shard_size, RECORD))
        self._shard_samples = (
            None if shard_samples is None else check_integer("shard_samples", shard_samples, 1)
        )
        self._options: dict[str, Any] = {
            "overwrite": check_flag("overwrite", overwrite),
            "mtime": check_integer("mtime", mtime),
            "index": check_flag("index", index),
            "sync": check_flag("sync", sync),
        }
        self.paths: list[str] = []
        self._count = 0
        self._in_shard = 0
        self._keys: set[str] = set()
        self._closed = False
        # Now, so that a name that is taken is an error before the first sample is made.
        self._tar = self._start()

    def __len__(self) -> int:
        """Samples written so far."""
        return self._count

    @property
    def pattern(self) -> str:
        """The brace pattern that names all archives so far, for `imagearchive.open`."""
        count = len(self.paths) + (not self._closed)
        return self._path.pattern(self._first_number, count)

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add a sample.

        Parameters
        ----------
        sample : mapping of str to object
            ``__key__`` is the key of the sample, a relative path without an extension. Every
            other name that does not begin with two underscores is an extension, such as ``jpg``
            or ``seg.png``, and its value is the content: bytes are written as they are, and
            everything else is encoded by the last part of the extension, as
            `imagearchive.codecs.encode` does. None is left out.

        Raises
        ------
        OptionError
            There is no key, it has a dot in its last part, or the archive has a sample of this
            key.
        UnsafePathError
            The key is absolute or leads out of the archive.
        UnsupportedMemberError, DecodeError
            A value cannot be encoded by its extension. The sample is not written.
        ClosedError
            The writer is closed.
        """
        key = self._check_key(sample)
        members = [
            (f"{key}.{name}", _encoded(f"{key}.{name}", value))
            for name, value in sample.items()
            if not name.startswith("__") and value is not None
        ]
        if not members:
            raise OptionError(f"the sample {key!r} has no fields")
        self.write_members(key, members)

    def write_members(self, key: str, members: Sequence[tuple[str, Buffer]]) -> None:
        """Add a sample whose members have their names and contents already.

        Parameters
        ----------
        key : str
        members : sequence of (str, bytes-like)

        Raises
        ------
        OptionError, UnsafePathError, ClosedError
            As `write`.
        """
        if self._closed:
            raise ClosedError(f"{self._path.text}: the writer is closed")
        size = self._shard.sample_size(
            ShardMember(
                name.encode("utf-8", "surrogateescape"),
                memoryview(data).nbytes,
                self._options["mtime"],
            )
            for name, data in members
        )
        full = self._shard.exceeds(size) or self._in_shard == self._shard_samples
        if self._in_shard and full:
            self._finish()
            self._tar = self._start()
        if key in self._keys:
            raise OptionError(
                f"{self._tar.path}: there is a sample of the key {key!r} already; keys must differ"
            )
        for name, data in members:
            self._tar.add(name, data)
        self._shard.add(size)
        self._keys.add(key)
        self._in_shard += 1
        self._count += 1

    def _check_key(self, sample: Mapping[str, Any]) -> str:
        try:
            key = sample[_KEY]
        except (KeyError, TypeError):
            raise OptionError(
                f"a sample must be a mapping with the entry {_KEY!r}, got {shorten(sample)}"
            ) from None
        if not isinstance(key, str):
            raise OptionTypeError(f"{_KEY} must be a str, got {shorten(key)}")
        last = key.rpartition("/")[2]
        if not last or "." in last:
            raise OptionError(
                f"{_KEY} must be a path whose last part has no dot, since the first dot ends the "
                f"key, got {key!r}"
            )
        return key

    def _start(self) -> TarWriter:
        self._shard.start()
        self._keys.clear()
        self._in_shard = 0
        return TarWriter(self._next_path(), **self._options)

    def _next_path(self) -> str:
        return self._path.number(self._first_number + len(self.paths))

    def _finish(self) -> None:
        self._tar.close()
        self.paths.append(self._tar.path)

    def close(self) -> None:
        """Complete the last archive; again does nothing.

        Raises
        ------
        TargetExistsError, OSError
            As `TarWriter.close`.
        """
        if self._closed:
            return
        self._finish()
        self._closed = True
        if locate(beyond := self._next_path()).exists():
            logger.warning(
                "%s: left over from a larger set of shards; a pattern matches it, too", beyond
            )

    def abort(self) -> None:
        """Remove the archive that is being written; those before it stay."""
        self._closed = True
        self._tar.abort()


def _encoded(name: str, value: Any) -> bytes | memoryview:
    if isinstance(value, bytes | bytearray | memoryview):
        return memoryview(value).cast("B")
    return encode_member(name, value, False, {})
