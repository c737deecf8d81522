"""The rows of a data file: CSV, JSON Lines, Parquet, or a dataset of the Hub. Read strictly: what is not clear is
refused, by file and line, rather than guessed. No torch."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....common.errors import ConfigError, DataError
from .problems import json_lines

Row = tuple[str, Mapping[str, Any]]
"""(place, for messages; the row's columns)."""
SUFFIXES = (".jsonl", ".parquet", ".csv")
LARGEST_CELL = (1 << 31) - 1
"""Characters of a CSV cell. The csv module's own limit, 131,072, is less than some documents have."""


def read_rows(source: str) -> Iterable[Row]:
    """Yield (place, columns) of each row of a file, or of a dataset of the Hub (`hub:NAME[:CONFIG]:SPLIT`).

    Raises:
        ConfigError: the file or dataset cannot be read.
        DataError: a row cannot be read, or a column occurs twice; names file and row.
    """
    return _hub_rows(source) if source.startswith("hub:") else _file_rows(Path(source))


def _file_rows(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path} is not a data file. Use one of {', '.join(SUFFIXES)}, or hub:NAME:SPLIT.")
    if not path.is_file():
        raise ConfigError(f"There is no data file {path}.")
    try:
        match suffix:
            case ".jsonl":
                yield from json_lines(path)
            case ".csv":
                yield from _csv_rows(path)
            case ".parquet":
                yield from _parquet_rows(path)
            case other:  # of SUFFIXES, checked above
                raise AssertionError(other)
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror or error}.") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    text = _utf8(path)
    header = next((cells for _, cells in _records(path, text, spaces=False)), [])
    # `question, answer`: the file has a space after each comma, which is not part of any cell
    spaces = any(name.startswith(" ") for name in header)
    records = _records(path, text, spaces=spaces)
    line, header = next(records, (1, []))
    columns = [name.strip() for name in header]
    _check_header(f"{path}, line {line}", columns)
    for line, cells in records:
        where = f"{path}, line {line}"
        _check_cells(where, cells, columns)
        yield where, dict(zip(columns, cells, strict=True))


def _utf8(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not CSV in UTF-8: {error.reason} on line {line}. Save it again; spreadsheets call it CSV UTF-8."
        ) from error


def _records(path: Path, text: str, *, spaces: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which it begins, cells) of each record that is not empty.

    Args:
        spaces: whether blanks after a comma are left out.

    Raises:
        DataError: a quote is not closed, or is followed by text; names the line on which its record begins.
    """
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=spaces)
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = f", read until line {reader.line_num}" if reader.line_num > begin else ""
            raise DataError(
                f'{path}, line {begin} has a stray quote (") in the record that begins there{end}: {error}. '
                'Enclose such a cell in quotes, and write each quote inside it twice: "a 5"" pipe".'
            ) from error
        if cells:
            yield begin, cells


def _check_header(where: str, columns: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(columns).items() if name and count > 1]
    if repeated:
        raise DataError(f"{where} has the column {repeated[0]!r} twice, so its value is not clear. Rename one.")
    other = [mark for mark in (";", "\t") if len(columns) == 1 and mark in columns[0]]
    if other:
        raise DataError(f"{where} has one column, {columns[0]!r}. Separate the columns by commas, not by {other[0]!r}.")


def _check_cells(where: str, cells: Sequence[str], columns: Sequence[str]) -> None:
    counts = f"than the header: {len(cells)}, not {len(columns)}"
    if len(cells) > len(columns):
        raise DataError(f'{where} has more cells {counts}. Enclose a cell that has a comma in quotes: "a, b".')
    if len(cells) < len(columns):
        raise DataError(f"{where} has fewer cells {counts}. Add what is missing.")
    if any(cell.startswith(" ") and cell.lstrip(" ").startswith('"') for cell in cells):
        raise DataError(f"{where} has a space before a quote, which makes the quote part of the cell. Remove it.")


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_header(str(path), file.schema_arrow.names)
            table = file.read()
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not Parquet: {error}.") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", {field.name: _as_written(row[field.name], field.type) for field in table.schema}


def _as_written(value: Any, kind: Any) -> Any:
    """Return a value of an Arrow type with its short floats as they were written: 0.1 in 32 bits is 0.1, not
    0.10000000149."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_float32(kind) or types.is_float16(kind):
        return float(str(np.float32(value) if types.is_float32(kind) else np.float16(value)))
    if types.is_struct(kind) and isinstance(value, dict):  # the Hub's pictures are not
        return {field.name: _as_written(value[field.name], field.type) for field in kind}
    if (types.is_list(kind) or types.is_large_list(kind)) and isinstance(value, list):
        return [_as_written(each, kind.value_type) for each in value]
    return value


def _hub_rows(source: str) -> Iterator[Row]:
    """Yield the rows of `hub:NAME:SPLIT` or `hub:NAME:CONFIG:SPLIT`."""
    parts = source.split(":")[1:]
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"{source} is not of the form hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT.")
    from datasets import load_dataset

    try:
        loaded = load_dataset(*parts[:-1], split=parts[-1])
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot load {source} ({type(error).__name__}). Check name and network.") from error
    kinds = loaded.features.arrow_schema
    for number, row in enumerate(loaded, start=1):
        yield f"{source}, row {number}", {name: _as_written(row[name], kinds.field(name).type) for name in kinds.names}
