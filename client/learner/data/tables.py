"""The organisation's data files as problems: JSON Lines, Parquet, CSV, or a dataset of the Hub. No torch."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from ....common.errors import ConfigError, DataError
from ...organisation.settings import Data, OrganisationFile
from .problems import Problem, json_lines

Row = tuple[str, Mapping[str, Any]]
"""(place, for messages; the row's columns)."""
PLACE = re.compile(r"\{([^{}]*)\}")
SUFFIXES = (".jsonl", ".parquet", ".csv")


def read_organisation_data(organisation: OrganisationFile) -> tuple[list[Problem], list[Problem]]:
    """Load an organisation's data, and return (problems to train on, held-out problems).

    Without a file for the held-out part, a hash of each question decides: the same questions stay held out when data is
    added later, and a question that occurs twice is never in both parts.

    Raises:
        ConfigError: a file cannot be read, or has no such column.
        DataError: a row has no question or answer; names file and row.
    """
    data = organisation.settings.data
    train = _problems(organisation, data.train)
    if data.held_out:
        held_out = _problems(organisation, data.held_out)
        shared = {question for question, _ in train} & {question for question, _ in held_out}
        if shared:
            raise DataError(
                f"{len(shared)} questions of {data.held_out} are in {data.train} too, so they are not held out. Remove "
                f"them from one. The first begins {sorted(shared)[0][:60]!r}."
            )
    else:
        held_out = [(question, p) for question, p in train if _share(question) < data.held_out_share]
        train = [(question, p) for question, p in train if _share(question) >= data.held_out_share]
    if not train:
        raise DataError(f"{data.train} leaves no problem to train on. Add problems, or lower data.held-out-share.")
    return [problem for _, problem in train], [problem for _, problem in held_out]


def read_table(source: str, data: Data, template: str = "{question}") -> list[tuple[str, Problem]]:
    """Read a file or a dataset of the Hub, and return (the question as in the data, the problem) for each row.

    Args:
        source: an absolute path, or `hub:NAME[:CONFIG]:SPLIT`.
        data: the names of the columns.
        template: text of the user's turn, with `{column}` as placeholders.

    Raises:
        ConfigError: the file cannot be read, or the template names a column that is not in data.labels.
        DataError: a row has no question or answer; names file and row.
    """
    problems = [_problem(where, row, data, template) for where, row in read_rows(source)]
    if not problems:
        raise DataError(f"{source} does not contain any problems.")
    return problems


def read_rows(source: str) -> Iterable[Row]:
    """Yield (place, columns) of each row of a file, or of a dataset of the Hub (`hub:NAME[:CONFIG]:SPLIT`).

    Raises:
        ConfigError: the file or dataset cannot be read.
        DataError: a row cannot be read; names file and row.
    """
    return _hub_rows(source) if source.startswith("hub:") else _file_rows(Path(source))


def split_reference(where: str, answer: str, mark: str) -> tuple[str, str]:
    """Return (the working, the reference answer) of a text like GSM8K's `... #### 18`.

    Raises:
        DataError: the mark is missing, or nothing follows it.
    """
    working, found, reference = answer.rpartition(mark)
    if not found or not reference.strip():
        raise DataError(f"{where}: the answer has no {mark!r} followed by a reference answer.")
    return working, reference.strip()


def _problems(organisation: OrganisationFile, source: str) -> list[tuple[str, Problem]]:
    place = source if source.startswith("hub:") else str(organisation.path(source))
    return read_table(place, organisation.settings.data, organisation.settings.prompt.template)


def _problem(where: str, row: Mapping[str, Any], data: Data, template: str) -> tuple[str, Problem]:
    columns = {name: text_of(where, row, name) for name in (data.question, data.answer, *data.labels)}
    question, answer = columns[data.question], columns[data.answer]
    if data.answer_after:
        _, answer = split_reference(where, answer, data.answer_after)
    known = {**columns, "question": question}
    unknown = [name for name in PLACE.findall(template) if name not in known]
    if unknown:
        raise ConfigError(
            f"prompt.template cannot be filled in: there is no column {unknown[0]!r}. It may name {{question}} and the "
            "columns in data.labels."
        )
    return question, Problem(
        PLACE.sub(lambda match: known[match[1]], template),
        answer.strip(),
        {name: columns[name] for name in data.labels},
    )


def text_of(where: str, row: Mapping[str, Any], name: str) -> str:
    """Return a column of a row as text.

    Raises:
        DataError: it is missing, empty, or not a text or a number.
    """
    value = row.get(name)
    if value is None or isinstance(value, (dict, list, bytes)) or (isinstance(value, float) and not isfinite(value)):
        has = ", ".join(str(key) for key in row) or "none"
        raise DataError(f"{where} has no text or number in column {name!r}. Its columns: {has}.")
    text = str(value)
    if not text.strip():
        raise DataError(f"{where} has an empty column {name!r}.")
    return text


def _file_rows(path: Path) -> Iterable[Row]:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} is not a data file. Use one of {', '.join(SUFFIXES)}, or hub:NAME:SPLIT.")
    if not path.is_file():
        raise ConfigError(f"There is no data file {path}.")
    try:
        match path.suffix:
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


def _csv_rows(path: Path) -> Iterable[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            for row in (reader := csv.DictReader(file)):
                yield f"{path}, line {reader.line_num}", {str(k): v for k, v in row.items() if k is not None}
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not CSV in UTF-8: {error}.") from error


def _parquet_rows(path: Path) -> Iterable[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not Parquet: {error}.") from error
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))


def _hub_rows(source: str) -> Iterable[Row]:
    """Yield the rows of `hub:NAME:SPLIT` or `hub:NAME:CONFIG:SPLIT`."""
    parts = source.split(":")[1:]
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"{source} is not of the form hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT.")
    from datasets import load_dataset

    try:
        loaded = load_dataset(*parts[:-1], split=parts[-1])
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot load {source} ({type(error).__name__}). Check name and network.") from error
    yield from ((f"{source}, row {i}", dict(row)) for i, row in enumerate(loaded, start=1))


def _share(question: str) -> float:
    """Return a number in [0, 1) that depends on the question's text alone."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") / 2**64


def fingerprint(problems: Iterable[Problem]) -> str:
    """Return the SHA-256 over problems, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.question, problem.answer, problem.labels], sort_keys=True).encode())
    return digest.hexdigest()
