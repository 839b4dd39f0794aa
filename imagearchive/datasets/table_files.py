"""Reads tables from CSV, TSV, text, JSON, JSON Lines, and Parquet files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from imagearchive.codecs.codec import DecodeOptions
from imagearchive.codecs.value_codecs import JsonCodec
from imagearchive.datasets.table_columns import (
    Column,
    NoSuchColumnError,
    column_of_records,
    column_of_table,
)
from imagearchive.errors import DecodeError, LabelError, MissingDependencyError, OptionError
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.companion_files import CompanionFile

__all__ = ["parse_json", "read_table_file"]

DELIMITERS: Final = ",;\t|"


def read_table_file(
    file: CompanionFile, archive: Archive, names: Sequence[str | int]
) -> dict[str | int, Column]:
    """Read some columns of a table.

    Parameters
    ----------
    file : CompanionFile
        Its extension says what it is: ``.csv``, ``.tsv``, ``.txt``, ``.json``, ``.jsonl``,
        ``.ndjson``, or ``.parquet``.
    archive : Archive
        May contain the file.
    names : sequence of str or int
        The columns. Integers number the columns of a file without a header, from 0.

    Raises
    ------
    LabelError
        The file cannot be found or parsed, or has no such column.
    OptionError
        Its extension is not known.
    MissingDependencyError
        It is a Parquet file, and pyarrow is not installed.
    """
    extension = file.given.rpartition("/")[2].rpartition(".")[2].lower()
    reader = _READERS.get(extension)
    if reader is None:
        *most, last = (f".{known}" for known in _READERS)
        raise OptionError(
            f"{file}: a table must be a file with the extension {', '.join(most)} or {last}; read "
            f"it yourself and pass its columns as a dict"
        )
    return reader(file, archive, names)


def _read_separated(
    file: CompanionFile, archive: Archive, names: Sequence[str | int]
) -> dict[str | int, Column]:
    text = file.read_text(archive)
    header = text.lstrip().partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in rows:
                if row:
                    yield rows.line_num, row
        except csv.Error as error:
            raise LabelError(
                f"{file}: line {rows.line_num}: not a table of cells separated by {delimiter!r} "
                f"({error})"
            ) from None

    try:
        return _columns_of_rows(file, numbered(), names)
    except LabelError as error:
        if delimiter in header or len(header.split()) < 2:
            raise
        raise LabelError(
            f"{error.message}. The cells of a .csv are separated by commas, semicolons, tabs, or "
            f"'|'; if those of this file are separated by spaces, rename it to end in .txt, or "
            f"pass its columns as a dict"
        ) from None


def _read_text(
    file: CompanionFile, archive: Archive, names: Sequence[str | int]
) -> dict[str | int, Column]:
    """Read cells separated by whitespace."""
    lines = enumerate(file.read_text(archive).split("\n"), 1)
    rows = ((number, line.split()) for number, line in lines)
    return _columns_of_rows(file, (row for row in rows if row[1]), names)


def _columns_of_rows(
    file: CompanionFile, rows: Iterator[tuple[int, list[str]]], names: Sequence[str | int]
) -> dict[str | int, Column]:
    numbered = [name for name in names if isinstance(name, int)]
    if len(numbered) == len(names):
        places = dict(zip(names, numbered))
    else:
        _, header = next(rows, (0, []))
        header = [cell.strip() for cell in header]
        if numbered:
            raise OptionError(
                f"{file}: name all columns, or number all of them for a file without a header; got "
                f"{', '.join(map(repr, names))}, and the columns are "
                f"{', '.join(map(repr, header[:20]))}"
            )
        places = {name: _find(file, header, str(name)) for name in names}
    cells: dict[str | int, list[str | None]] = {name: [] for name in places}
    appends = [(cells[name].append, place) for name, place in places.items()]
    for line, row in rows:
        try:
            for append, place in appends:
                append(row[place])
        except IndexError:
            raise LabelError(
                f"{file}: line {line}: expected at least "
                f"{pluralize(max(places.values()) + 1, 'cell')}, got {len(row)}"
            ) from None
    return {
        name: Column(f"{file}: column {name!r}", found, is_typed=False)
        for name, found in cells.items()
    }


def _find(file: CompanionFile, header: Sequence[str], name: str) -> int:
    if header.count(name) != 1:
        found = "several columns are" if name in header else "no column is"
        raise NoSuchColumnError(
            f"{file}: {found} called {name!r}; the columns are {', '.join(map(repr, header[:20]))}",
            name,
        )
    return header.index(name)


def _read_json(
    file: CompanionFile, archive: Archive, names: Sequence[str | int]
) -> dict[str | int, Column]:
    return _columns_of_json(file, parse_json(file, file.read(archive)), names)


def _read_json_lines(
    file: CompanionFile, archive: Archive, names: Sequence[str | int]
) -> dict[str | int, Column]:
    records = [
        parse_json(where, line.encode("utf-8", "surrogatepass"))
        for line, where in file.lines(archive)
    ]
    return _columns_of_json(file, records, names)


def parse_json(where: object, data: bytes) -> Any:
    """Parse a JSON document; `where` is its name for messages.

    Raises
    ------
    LabelError
        It is not valid, or nested too deeply.
    """
    try:
        return JsonCodec().decode(data.removeprefix(b"\xef\xbb\xbf"), DecodeOptions(), len(data))
    except DecodeError as error:
        raise LabelError(f"{where}: {error}") from None


def _columns_of_json(
    file: CompanionFile, value: Any, names: Sequence[str | int]
) -> dict[str | int, Column]:
    if isinstance(value, list):
        return {name: column_of_records(str(file), value, name) for name in names}
    if isinstance(value, Mapping) and any(isinstance(column, list) for column in value.values()):
        return {name: column_of_table(str(file), value, name) for name in names}
    raise LabelError(
        f"{file}: a table in JSON must be a list of objects, or an object whose values are the "
        f"columns, got {type(value).__name__}"
    )


def _read_parquet(
    file: CompanionFile, archive: Archive, names: Sequence[str | int]
) -> dict[str | int, Column]:
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError:
        raise MissingDependencyError(
            f"{file}: reading Parquet needs another package: pip install pyarrow"
        ) from None
    try:
        opened = parquet.ParquetFile(BufferReader(file.read(archive)))
        present = opened.schema_arrow.names
        for name in names:
            _find(file, present, str(name))
        table = opened.read(columns=[str(name) for name in names])
    except (ArrowException, OSError, ValueError) as error:
        raise LabelError(f"{file}: not a Parquet file that can be read: {error}") from None
    return {name: column_of_table(str(file), table, str(name)) for name in names}


_Reader = Callable[["CompanionFile", "Archive", Sequence["str | int"]], dict["str | int", Column]]

_READERS: Final[dict[str, _Reader]] = {
    "csv": _read_separated,
    "tsv": _read_separated,
    "txt": _read_text,
    "json": _read_json,
    "jsonl": _read_json_lines,
    "ndjson": _read_json_lines,
    "parquet": _read_parquet,
}
