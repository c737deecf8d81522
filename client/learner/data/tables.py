"""The organisation's data as problems: columns, template, and what is held out. No torch."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from ....common.errors import DataError
from ...organisation.settings import Data, OrganisationFile
from .cells import text_of
from .problems import Problem
from .prompt_template import check_template, filled
from .table_files import read_rows


def read_organisation_data(organisation: OrganisationFile) -> tuple[list[Problem], list[Problem]]:
    """Load an organisation's data, and return (problems to train on, held-out problems).

    Without a file for the held-out part, a hash of each question decides: the same questions stay held out when data is
    added later, and a question that occurs twice is never in both parts. With data.unit-id the unit is hashed instead,
    so that no unit is in both parts.

    Raises:
        ConfigError: a file cannot be read, or has no such column.
        DataError: a row has no question or answer; names file and row.
    """
    data = organisation.settings.data
    train = _problems(organisation, data.train)
    if data.held_out:
        held_out = _problems(organisation, data.held_out)
        trained_on = {same_question(question) for question, _ in train}
        shared = sorted({question for question, _ in held_out if same_question(question) in trained_on})
        if shared:
            raise DataError(
                f"{len(shared)} questions of {data.held_out} are in {data.train} too, so they are not held out. Remove "
                f"them from one. The first begins {shared[0][:60]!r}. White space, line ends and Unicode forms make no "
                "difference."
            )
    else:
        held_out = [(question, p) for question, p in train if _share(p.unit or question) < data.held_out_share]
        train = [(question, p) for question, p in train if _share(p.unit or question) >= data.held_out_share]
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
        ConfigError: the file cannot be read, or the template is wrong (`check_template`).
        DataError: a row has no question or answer; names file and row.
    """
    rows = list(read_rows(source))
    if not rows:
        raise DataError(f"{source} does not contain any problems.")
    check_template(template, {"question", *data.labels}, data.answer, rows[0][1])
    return [_problem(where, row, data, template) for where, row in rows]


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
    question, answer = (text_of(where, row, name) for name in (data.question, data.answer))
    labels = {name: text_of(where, row, name) for name in data.labels}
    if data.answer_after:
        _, answer = split_reference(where, answer, data.answer_after)
    prompt = filled(template, {**labels, "question": question})
    unit = text_of(where, row, data.unit_id) if data.unit_id else ""
    return question, Problem(prompt, answer.strip(), labels, unit)


def same_question(question: str) -> str:
    """Return a text that two questions have in common if they are the same but for white space, line ends, Unicode
    forms (NFKC) and invisible characters. Case counts.

    >>> same_question("2 apples?\\r\\n") == same_question(" 2\\u00a0apples?"), same_question("A") == same_question("a")
    (True, False)
    """
    visible = "".join(each for each in unicodedata.normalize("NFKC", question) if unicodedata.category(each) != "Cf")
    return " ".join(visible.split())


def _share(question: str) -> float:
    """Return a number in [0, 1) that depends on the question alone, in the same way as `same_question`."""
    return int.from_bytes(hashlib.sha256(same_question(question).encode()).digest()[:8], "big") / 2**64


def fingerprint(problems: Iterable[Problem]) -> str:
    """Return the SHA-256 over problems, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        fields = [problem.question, problem.answer, problem.labels, *([problem.unit] if problem.unit else [])]
        digest.update(json.dumps(fields, sort_keys=True).encode())
    return digest.hexdigest()
