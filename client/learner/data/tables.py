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
"""(where it stands, for messages; its columns)."""
PLACE = re.compile(r"\{([^{}]*)\}")
SUFFIXES = (".jsonl", ".parquet", ".csv")


def read_organisation_data(organisation: OrganisationFile) -> tuple[list[Problem], list[Problem]]:
    """(problems to train on, held-out problems) of an organisation.

    Without a file of its own, the held-out part is chosen by a hash of each question: the same ones are held out
    whatever is added later, and a question that occurs twice is never on both sides.

    Raises:
        ConfigError: a file cannot be read, or has no such column.
        DataError: a row has no question or answer; file and row are named.
    """
    data = organisation.settings.data
    train = _problems(organisation, data.train)
    if data.held_out:
        held_out = _problems(organisation, data.held_out)
        twice = {asked for asked, _ in train} & {asked for asked, _ in held_out}
        if twice:
            raise DataError(
                f"{len(twice)} questions of {data.held_out} stand in {data.train} too, so they are not held out. "
                f"The first begins {sorted(twice)[0][:60]!r}."
            )
    else:
        held_out = [(asked, p) for asked, p in train if _share(asked) < data.held_out_share]
        train = [(asked, p) for asked, p in train if _share(asked) >= data.held_out_share]
    if not train:
        raise DataError(f"{data.train} leaves no problem to train on.")
    return [problem for _, problem in train], [problem for _, problem in held_out]


def read_table(source: str, data: Data, template: str = "{question}") -> list[tuple[str, Problem]]:
    """(the question as it stands in the data, the problem) for each row of a file or of a dataset of the Hub.

    Args:
        source: an absolute path, or `hub:NAME[:CONFIG]:SPLIT`.
        data: which columns are what.
        template: the user's turn.

    Raises:
        ConfigError: the file cannot be read, or the template names a column that data.labels does not.
        DataError: a row has no question or answer; file and row are named.
    """
    rows = _hub_rows(source) if source.startswith("hub:") else _file_rows(Path(source))
    problems = [_problem(where, row, data, template) for where, row in rows]
    if not problems:
        raise DataError(f"{source} holds no problems.")
    return problems


def _problems(organisation: OrganisationFile, source: str) -> list[tuple[str, Problem]]:
    place = source if source.startswith("hub:") else str(organisation.path(source))
    return read_table(place, organisation.settings.data, organisation.settings.prompt.template)


def _problem(where: str, row: Mapping[str, Any], data: Data, template: str) -> tuple[str, Problem]:
    columns = {name: _text(where, row, name) for name in (data.question, data.answer, *data.labels)}
    asked, answer = columns[data.question], columns[data.answer]
    if data.answer_after:
        _, mark, answer = answer.rpartition(data.answer_after)
        if not mark:
            raise DataError(f"{where}: the answer has no {data.answer_after!r} (data.answer-after).")
    known = {**columns, "question": asked}
    odd = [name for name in PLACE.findall(template) if name not in known]
    if odd:
        raise ConfigError(
            f"prompt.template cannot be filled in: there is no {odd[0]!r}. It may name {{question}} and the columns in "
            "data.labels."
        )
    return asked, Problem(
        PLACE.sub(lambda found: known[found[1]], template),
        answer.strip(),
        {name: columns[name] for name in data.labels},
    )


def _text(where: str, row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None or isinstance(value, (dict, list, bytes)) or (isinstance(value, float) and not isfinite(value)):
        has = ", ".join(str(key) for key in row) or "none"
        raise DataError(f"{where} has no text or number in column {name!r}. Its columns: {has}.")
    text = str(value)
    if not text.strip():
        raise DataError(f"{where} has nothing in column {name!r}.")
    return text


def _file_rows(path: Path) -> Iterable[Row]:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} is no data file. Give one of {', '.join(SUFFIXES)}, or hub:NAME:SPLIT.")
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
    """`hub:NAME:SPLIT` or `hub:NAME:CONFIG:SPLIT`."""
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
    """A number in [0, 1) that a question's text decides."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") / 2**64


def fingerprint(problems: Iterable[Problem]) -> str:
    """SHA-256 over problems, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.question, problem.answer, problem.labels], sort_keys=True).encode())
    return digest.hexdigest()
