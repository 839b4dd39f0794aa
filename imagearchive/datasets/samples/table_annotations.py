"""The fields of samples that are columns of a table."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.companion_files import CompanionFile
from imagearchive.datasets.match_names import match_names
from imagearchive.datasets.samples.annotation_part import AnnotationPart, RowContext
from imagearchive.datasets.samples.annotations import Annotations
from imagearchive.datasets.samples.field_specs import own_classes
from imagearchive.datasets.samples.field_values import split_classes
from imagearchive.datasets.samples.flat_text import FlatText
from imagearchive.datasets.samples.pairing import SHOWN, Missing, matching_members
from imagearchive.datasets.samples.saved_arrays import SavedArrays, is_array, open_saved
from imagearchive.datasets.samples.table_cells import Cells, cells_of
from imagearchive.datasets.table_rows import (
    IMAGE_NAMES,
    check_column_names,
    locate_table,
    match_rows,
    read_columns,
    rows_of_split,
)
from imagearchive.errors import CorruptIndexError, ImageArchiveError, LabelError, OptionError
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.transforms.fields import Boxes, ColumnField, Field, Image, Label

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.samples.pairing import FieldMembers, Pairing
    from imagearchive.datasets.samples.sample_members import SampleMembers
    from imagearchive.datasets.table_columns import Column

__all__ = ["SampleTable", "TableAnnotations"]

_Rows = npt.NDArray[np.int64]

# In place of the row of a member: it has none, or only some that ``split=`` does not choose.
_NO_ROW: Final = -1
_NOT_CHOSEN: Final = -2


@dataclass(frozen=True)
class SampleTable:
    """The table of a `SampleArchive`, whose constructor documents the arguments.

    Attributes
    ----------
    table : CompanionFile, or mapping of str or int to Column
        The columns that are needed, if it is not a file.
    image, keys : str, int, or None
        The column that says which sample a row belongs to: one of them.
    split, split_column
    """

    table: Any
    image: str | int | None
    keys: str | int | None
    split: Any
    split_column: str | int

    @classmethod
    def check(
        cls,
        table: Any,
        image: str | int | None,
        keys: Any,
        split: Any,
        split_column: str | int,
        fields: Mapping[str, Field],
    ) -> SampleTable | None:
        """Return the arguments, or None if there is no table.

        Raises
        ------
        OptionError, OptionTypeError
            They cannot be used together.
        """
        columns = _columns_of(fields)
        if table is None:
            if columns:
                name = next(iter(columns))
                raise OptionError(
                    f"the field {name!r} is the column {columns[name].column!r} of table=, which "
                    f"is missing"
                )
            if image is not None or split is not None:
                raise OptionError("image= and split= are columns of table=, which is missing")
            return None
        if image is None and (isinstance(keys, bool) or not isinstance(keys, (str, int))):
            raise OptionError(
                "table= needs the column that says which sample a row belongs to: image= for one "
                "with the names of the images, keys= for one with the keys"
            )
        if image is not None and not any(isinstance(field, Image) for field in fields.values()):
            raise OptionError(
                "image= names images, and there is no field of the kind Image; name the column "
                "that has the keys with keys="
            )
        by_key = None if image is not None else keys
        options = cls(locate_table(table), image, by_key, split, split_column)
        check_column_names([*options.names(fields), split_column])
        if isinstance(options.table, CompanionFile):
            return options
        found = options.read(None, options.table, fields)
        return dataclasses.replace(options, table=found)

    def names(self, fields: Mapping[str, Field]) -> list[str | int]:
        """Return the columns that all rows need, first the one that says to whom a row belongs."""
        join = self.keys if self.image is None else self.image
        assert join is not None
        columns = [field.column for field in _columns_of(fields).values()]
        return [join, *(column for column in columns if column is not None)]

    def read(
        self, archive: Archive | None, table: Any, fields: Mapping[str, Field]
    ) -> dict[str | int, Column]:
        """Return these columns, and that of ``split=`` if it is given.

        Raises
        ------
        LabelError, OptionError, OptionTypeError
            As `read_columns`.
        """
        split_column = None if self.split is None else self.split_column
        return read_columns(archive, table, self.names(fields), split_column)


def _columns_of(fields: Mapping[str, Field]) -> dict[str, ColumnField]:
    return {
        name: field
        for name, field in fields.items()
        if isinstance(field, ColumnField) and field.column is not None
    }


class TableAnnotations(Annotations):
    """The columns of a table that are fields.

    Parameters
    ----------
    options : SampleTable
    fields : mapping of str to Field
        All fields of the dataset.
    members : sequence of FieldMembers
        The archive of the first one may contain the file. The columns are saved beside its index.
    missing : {"error", "skip", "none"}

    Raises
    ------
    LabelError
        The table cannot be read, or lacks a column.
    """

    def __init__(
        self,
        options: SampleTable,
        fields: Mapping[str, Field],
        members: Sequence[FieldMembers],
        missing: Missing,
    ) -> None:
        self._options, self._members, self._missing = options, members, missing
        self._images = [isinstance(fields[one.name], Image) for one in members]
        archive = members[0].archive
        columns = _columns_of(fields)
        file = options.table if isinstance(options.table, CompanionFile) else None
        self._where = "table" if file is None else str(file)
        if file is None:
            self._saved = _arrays_of(options, options.table, columns)
            # What the pairing depends on.
            names = ["names", "name_offsets", "chosen", *(f"{name}.present" for name in columns)]
            digest = hashlib.blake2b(digest_size=16)
            for name in names:
                digest.update(self._saved.sections[name].tobytes())
            self.identity, self.fingerprint = digest.hexdigest(), ""
        else:
            holders = file.signatures(archive)
            self.identity = repr(holders)
            self._saved = open_saved(
                [archive],
                "\0".join(["table", file.path, repr((_asked(options), columns))]),
                None if holders is None else self.identity,
                lambda: _read(options, file, archive, columns),
                lambda found: _is_valid(found, columns),
                holders,
            )
            self.fingerprint = str(self._saved.meta["checksum"])
        sections = self._saved.sections
        self._names = FlatText(sections["names"], sections["name_offsets"])
        self._chosen = sections["chosen"]
        self._columns = [
            _ColumnPart(name, field, fields, self._saved, f"{self._where}: column {field.column!r}")
            for name, field in columns.items()
        ]
        self.parts = self._columns
        self.classes: Mapping[str, list[str]] = self._saved.meta["classes"]
        self.description = repr((file and file.path, _asked(options), columns))

    def keys(self) -> list[str] | None:
        """Return the keys of the samples, in order; None if the table does not have them."""
        if self._options.keys is None:
            return None
        return [self._names.text(row) for row in self._chosen_rows().tolist()]

    def _chosen_rows(self) -> _Rows:
        return np.flatnonzero(self._chosen)

    def selects(self) -> bool:
        """Whether `select` leaves out samples."""
        return self._options.keys is None and not bool(self._chosen.all())

    def select(self, positions: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which samples are not only in rows that ``split=`` does not choose.

        Parameters
        ----------
        positions : ndarray, shape (F, N)
            Of the members of all samples.
        """
        chosen: npt.NDArray[np.bool_] = self._find(positions) != _NOT_CHOSEN
        return chosen

    def rows(self, members: SampleMembers, pairing: Pairing) -> list[_Rows]:
        """Return the row of each sample for each column, -1 where it is missing."""
        if self._options.keys is None:
            rows = self._find(pairing.positions)
        else:
            chosen = self._chosen_rows()
            rows = chosen if pairing.kept is None else chosen[pairing.kept]
        return [column.rows(rows) for column in self._columns]

    def _find(self, positions: npt.NDArray[Any]) -> _Rows:
        """Return the row of each sample by its image; `_NO_ROW` or `_NOT_CHOSEN` without one."""
        number = self._images.index(True)
        of_members = self._rows_of_members(self._members[number])
        image = positions[number]
        return np.where(image < 0, _NO_ROW, of_members[image])

    def _rows_of_members(self, field: FieldMembers) -> _Rows:
        candidates = matching_members(field)
        table = field.archive.table
        result = np.full(max(1, len(table)), _NO_ROW, np.int64)
        others = np.flatnonzero(~self._chosen).tolist()
        if others:
            names = [self._names.text(row) for row in others]
            found = match_names(table, b"", candidates, names, IMAGE_NAMES)
            result[found[found >= 0]] = _NOT_CHOSEN
        chosen = self._chosen_rows()
        names = [self._names.text(row) for row in chosen.tolist()]
        where = f"{self._where}: column {self._options.image!r}"
        found = match_rows(
            field.archive,
            b"",
            candidates,
            names,
            where,
            narrower="make the pattern of the images narrower",
            lenient=Hint("missing='skip'", "to leave these rows out"),
            is_lenient=self._missing != "error",
        )
        fits = np.flatnonzero(found >= 0)
        _check_repeated(found[fits], [names[row] for row in fits.tolist()], where)
        result[found[fits]] = chosen[fits]
        return result


class _ColumnPart(AnnotationPart):
    """A field that is a column."""

    def __init__(
        self,
        name: str,
        field: ColumnField,
        fields: Mapping[str, Field],
        saved: SavedArrays,
        where: str,
    ) -> None:
        self.name, self._field, self._where = name, field, where
        self._cells = Cells(saved.sections, f"{name}.")
        self._file = saved.file
        self._classes = own_classes(name, field, fields)
        self.entries: Mapping[str, Field] = {name: field}
        if self._classes is not None:
            self.entries = {name: field, self._classes: Label()}

    def rows(self, rows: _Rows) -> _Rows:
        """Return the rows of samples, -1 for cells that are missing."""
        present = (rows >= 0) & self._cells.present[rows]
        return np.where(present, rows, -1)

    def where(self, row: int) -> str:
        """Return the name of a cell for messages."""
        return f"{self._where}: row {row}"

    def describe_missing(self, count: int, total: int, keys: Sequence[str]) -> str:
        """Return the message for samples without a value."""
        return (
            f"{self._where}: no value for the field {self.name!r} in {count:,} of "
            f"{pluralize(total, 'sample', grouped=True)}, such as {', '.join(map(repr, keys))}"
        )

    def values(self, row: int, context: RowContext) -> dict[str, Any]:
        """Return the entries of a sample; see `AnnotationPart`."""
        try:
            value = self._cells.value(self._field, row, context.size_of(self._field))
        except ImageArchiveError:
            raise
        except (ValueError, IndexError) as error:
            if self._file is None:
                raise
            raise CorruptIndexError(
                f"{self._file.path}: the saved columns are damaged ({error}); delete it and open "
                f"the archive again"
            ) from error
        if not isinstance(self._field, Boxes):
            return {self.name: value}
        boxes, classes = split_classes(value, self._classes is not None)
        entries: dict[str, Any] = {self.name: boxes}
        return entries if self._classes is None else {**entries, self._classes: classes}


def _asked(options: SampleTable) -> tuple[Any, ...]:
    """Return which rows are asked for, and by what they are found."""
    return options.image, options.keys, options.split, options.split_column


def _read(
    options: SampleTable,
    file: CompanionFile,
    archive: Archive,
    columns: Mapping[str, ColumnField],
) -> SavedArrays:
    found = options.read(archive, file, columns)
    saved = _arrays_of(options, found, columns)
    checksum = zlib.crc32(file.read(archive))
    return SavedArrays(saved.sections, {**saved.meta, "checksum": checksum})


def _arrays_of(
    options: SampleTable, table: Mapping[Any, Column], columns: Mapping[str, ColumnField]
) -> SavedArrays:
    join = table[options.names(columns)[0]]
    names = FlatText.of(join.texts(np.arange(len(join))))
    chosen = np.ones(len(join), np.bool_)
    if options.split is not None:
        chosen[:] = False
        chosen[rows_of_split(table[options.split_column], options.split)] = True
    sections: dict[str, npt.NDArray[Any]] = {
        "names": names.data,
        "name_offsets": names.offsets,
        "chosen": chosen,
    }
    classes = {}
    for name, field in columns.items():
        added, of_field = cells_of(table[field.column], field, f"{name}.")
        sections.update(added)
        if of_field:
            classes[name] = of_field
    return SavedArrays(sections, {"classes": classes, "checksum": 0})


def _is_valid(found: SavedArrays, columns: Mapping[str, ColumnField]) -> bool:
    sections, classes = found.sections, found.meta.get("classes")
    if not {"names", "name_offsets", "chosen"} <= sections.keys():
        return False
    names = FlatText(sections["names"], sections["name_offsets"])
    chosen = sections["chosen"]
    return (
        names.is_valid
        and is_array(chosen, np.bool_, 1)
        and len(chosen) == len(names)
        and isinstance(found.meta.get("checksum"), int)
        and isinstance(classes, dict)
        and all(isinstance(one, list) and all(map(_is_text, one)) for one in classes.values())
        and all(Cells.is_valid(sections, f"{name}.", len(names)) for name in columns)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _check_repeated(positions: _Rows, names: Sequence[str], where: str) -> None:
    """Raise LabelError if two rows are of the same image."""
    order = np.argsort(positions, kind="stable")
    repeated = order[1:][np.diff(positions[order]) == 0]
    if len(repeated):
        listed = ", ".join(repr(names[one]) for one in repeated[:SHOWN].tolist())
        raise LabelError(
            f"{where}: several rows are of the same image: {listed}; keep one row for each image"
        )
