"""A streaming NPZ writer: samples in, an ordinary ``.npz`` out, in constant memory.

The file is what `numpy.savez` would write, with two differences that `numpy.load` does not notice:
the data of stored arrays start at a multiple of 64 bytes of the file, so that a mapped row is
aligned, and the bytes depend on the samples alone (no time stamps).

- A column whose rows all have one shape becomes one array, its first dimension counting the rows.
- A numeric column whose rows differ in shape becomes flat values, offsets and, where they differ
  beyond their first dimension, shapes: ``NAME.values``, ``NAME.offsets``, ``NAME.shapes``.
- A column of strings becomes an array of fixed-width strings, or ``NAME.utf8`` and
  ``NAME.offsets`` where fixed width would waste much (one long string among many short ones) or
  lose something (a string that ends in NUL).
- A column of byte strings, such as encoded images, becomes ``NAME.bytes`` and ``NAME.offsets``.

`imagearchive.arrays.ragged` specifies those names; `LazyNPZDataset` reads them.

The ``.npy`` headers precede the data, but contain the number of rows. So the column that takes most
space is written straight into the file, after space reserved for its header, which is filled in at
the end; the others wait in unnamed temporary files beside it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from imagearchive.arrays.npy import ALIGNMENT, build_header
from imagearchive.arrays.ragged import BYTES, OFFSETS, SHAPES, UTF8, VALUES
from imagearchive.containers.npz.column_writer import CHUNK, Chunks, Column, Part, Prepared
from imagearchive.containers.npz.direct_column import DirectColumn, member_name
from imagearchive.containers.zip.stream import ZipStream
from imagearchive.errors import ClosedError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_flag, check_integer
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.closing import Abortable
from imagearchive.storage.outputs import open_output, output_path

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NpzWriter"]


class NpzWriter(Abortable):
    """Writes one ``.npz`` from samples that come one by one, or in batches.

    Parameters
    ----------
    path : path-like
        The file to write, or a URL. It appears under this name when it is whole; until then it
        has a temporary name. An existing file stays until it is replaced. Of several writers to
        the same path, the one that is closed last wins.
    compress : bool
        Deflate the arrays, as `numpy.savez_compressed` does.
    level : int
        Level of the compression, from 1 (fast) to 9 (small).
    ragged : collection of str
        Numeric columns to write as values and offsets even where all rows have one shape, so
        that several files of one dataset have the same layout.
    storage_options, filesystem : optional
        How to reach a URL, as in `open`.

    Raises
    ------
    TargetExistsError
        `path` is a directory, device, FIFO or socket.
    OSError
        The file cannot be written.

    Notes
    -----
    Memory does not depend on the number of samples. Use a writer from one thread at a time, and
    not across a fork. As a context manager, it closes at the end of the block, or aborts if the
    block raises.

    Examples
    --------
    >>> with NpzWriter("train.npz") as writer:
    ...     for image, boxes, path in samples:
    ...         writer.append(images=image, bboxes=boxes, image_paths=path)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compress: bool = False,
        level: int = 6,
        ragged: Collection[str] = (),
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
    ) -> None:
        level = check_integer("level", level, 1, 9)
        self.path = output_path("path", path, storage_options, filesystem)
        self._level = level if check_flag("compress", compress) else None
        self._ragged = frozenset([ragged] if isinstance(ragged, str) else ragged)
        self._columns: dict[str, Column] = {}
        self._rows = 0
        self._failed = False
        self._target = open_output(self.path, overwrite=True, buffering=CHUNK)
        self._zip = ZipStream(self._target.file)
        self._closed = False

    def __len__(self) -> int:
        """Return the number of samples so far."""
        return self._rows

    def append(self, /, **sample: Any) -> None:
        """Add one sample.

        Parameters
        ----------
        **sample
            One value for each column: a number, an array, nested lists of numbers, a str or
            bytes. An empty list fits any column of lists.

        Raises
        ------
        OptionError
            The columns are not those of the first sample, or the number of dimensions of a row
            differs from earlier rows. Nothing of the sample is written.
        OptionTypeError
            A value is none of these, or does not fit earlier ones.
        """
        self._add({name: ([value], False) for name, value in sample.items()}, 1)

    def extend(self, /, **columns: Any) -> None:
        """Add several samples at once.

        Parameters
        ----------
        **columns
            For each column an array whose first dimension counts the samples, or a list of
            values as `append` takes them; all of one length.

        Raises
        ------
        OptionError, OptionTypeError
            As `append`, and if the lengths differ. Nothing is written.
        """
        rows: dict[str, tuple[Any, bool]] = {}
        for name, values in columns.items():
            block = isinstance(values, np.ndarray) and values.dtype.kind not in "OSU"
            if not hasattr(values, "__len__") or (block and not values.ndim):
                raise OptionTypeError(f"column {name!r}: {type(values).__name__} has no rows")
            rows[name] = (values, block)
        lengths = {name: len(values) for name, (values, _) in rows.items()}
        if len(set(lengths.values())) > 1:
            raise OptionError(f"columns of different lengths: {lengths}")
        self._add(rows, next(iter(lengths.values()), 0))

    def close(self) -> None:
        """Complete the file and give it its name; a second call does nothing.

        Raises
        ------
        ClosedError
            An earlier write failed; the file is discarded.
        OSError
            The file cannot be written; it is discarded.
        """
        if self._closed:
            return
        if self._failed:
            self.abort()
            raise ClosedError(f"{self.path}: an earlier write failed, so the file was discarded")
        try:
            with os_errors_for(self._target.written_path):
                self._finish()
        except BaseException:
            self.abort()
            raise
        self._closed = True
        self._drop_columns()
        self._target.publish()

    def abort(self) -> None:
        """Discard what was written; an existing file of that name stays as it was."""
        self._closed = True
        self._drop_columns()
        self._target.abort()

    def _drop_columns(self) -> None:
        for column in self._columns.values():
            column.close()
        self._columns = {}

    def _add(self, rows: dict[str, tuple[Sequence[Any], bool]], count: int) -> None:
        if self._closed or self._failed:
            why = "an earlier write failed" if self._failed else "the writer is closed"
            raise ClosedError(f"{self.path}: {why}; open a new writer")
        columns = self._columns or self._new_columns(rows)
        if rows.keys() != columns.keys():
            raise OptionError(
                f"columns {sorted(rows)} differ from those of the first sample, {sorted(columns)}"
            )
        # All values are checked before the first is written, so that no sample is half written.
        prepared = {name: columns[name].prepare(*values) for name, values in rows.items()}
        self._failed = True
        if not self._columns:
            self._columns = columns
        with os_errors_for(self._target.written_path):
            if self._rows == 0 and count:
                self._choose_direct(prepared)
            for name, values in prepared.items():
                columns[name].write(values)
        self._rows += count
        self._failed = False

    def _new_columns(self, names: Iterable[str]) -> dict[str, Column]:
        folder = os.path.dirname(os.path.abspath(self._target.written_path))
        columns = {name: Column(name, folder, name in self._ragged) for name in names}
        taken = {name + end for name in columns for end in (VALUES, UTF8, BYTES, OFFSETS, SHAPES)}
        for name in columns:
            encoded = name.encode("utf-8", "surrogatepass")
            if not name or "\0" in name or len(encoded) > 60000 or name in taken:
                raise OptionError(
                    f"column {name!r}: the name is empty, too long, or collides with a part of "
                    f"another column; choose another"
                )
        return columns

    def _choose_direct(self, prepared: dict[str, Prepared]) -> None:
        """Let the column with the largest first row write into the file at once."""
        sizes = {name: one.nbytes for name, one in prepared.items() if one.kind != "utf8"}
        name = max(sizes, key=sizes.__getitem__, default="")
        if not sizes.get(name):
            return
        one = prepared[name]
        if one.kind == "bytes":
            longest: tuple[int, ...] = (10**19,)
            dtype = np.dtype(np.uint8)
        else:
            longest = (10**19, *one.shape[1:], 10**10)
            dtype = one.dtype
        self._columns[name].redirect(
            DirectColumn(self._zip.file, name, dtype, longest, self._level)
        )

    def _finish(self) -> None:
        parts = [part for column in self._columns.values() for part in column.parts()]
        for part in parts:
            if isinstance(part.data, DirectColumn):
                self._zip.add_record(part.data.finish(part))
        self._zip.file.seek(0, os.SEEK_END)
        for part in parts:
            if not isinstance(part.data, DirectColumn):
                self._zip.add(member_name(part.name), self._npy(part), level=self._level)
        self._zip.finish()

    def _npy(self, part: Part) -> Chunks:
        # The header pads itself, so that the array is aligned in the file.
        at = self._zip.file.tell()
        yield build_header(part.dtype, part.shape, align=ALIGNMENT, at=at)
        yield from cast("Chunks", part.data)
