"""Answers as JSON Lines, one completion per line, so that a long evaluation can be interrupted and resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ...client.learner.data.problems import Problem
from ...common.errors import ConfigError
from ...common.storage.jsonl import append_lines, read_lines
from .answer import Answer

FIELDS = tuple(f.name for f in fields(Answer))


class Record:
    """The answers so far, in a file if one is named."""

    def __init__(self, path: Path | None, fingerprint: Mapping[str, object]) -> None:
        """Read the file, or start it.

        Raises:
            ConfigError: the file belongs to another evaluation, or does not contain answers.
        """
        self._path = path
        self._known: dict[tuple[str, str, int, int], Answer] = {}
        if path is None:
            return
        lines: list[dict[str, Any]] = read_lines(path)
        if not lines:
            if path.exists() and path.stat().st_size:
                raise ConfigError(f"{path} does not contain answers. Name another file with --save.")
            append_lines(path, [{"evaluation": dict(fingerprint)}])
            return
        self._check(lines[0].get("evaluation"), fingerprint)
        for line in lines[1:]:
            answer = Answer(**{name: line[name] for name in FIELDS})
            self._known[answer.decoding, answer.model, answer.problem, answer.sample] = answer

    def answers(self, decoding: str, model: str, problems: Sequence[int], count: int) -> list[Answer] | None:
        """Return the answers of a batch, in order; None if one is missing, so that the whole batch is answered."""
        keys = [(decoding, model, i, j) for i in problems for j in range(count)]
        return [self._known[key] for key in keys] if all(key in self._known for key in keys) else None

    def add(self, answers: Sequence[Answer], problems: Sequence[Problem]) -> None:
        """Save the answers of a batch; they are on disk when this returns."""
        for answer in answers:
            self._known[answer.decoding, answer.model, answer.problem, answer.sample] = answer
        if self._path is not None:
            append_lines(self._path, [_line(answer, problems[answer.problem]) for answer in answers])

    def _check(self, saved: object, fingerprint: Mapping[str, object]) -> None:
        if not isinstance(saved, dict):
            raise ConfigError(f"{self._path} does not contain answers. Name another file with --save.")
        other = [name for name, value in fingerprint.items() if saved.get(name) != value]
        if other:
            what = "the prompts' text" if other[0] == "prompts_sha256" else other[0].replace("_", " ")
            raise ConfigError(
                f"{self._path} holds the answers of another evaluation: {what} differs. Name "
                "another file with --save, or remove this one."
            )


def _line(answer: Answer, problem: Problem) -> dict[str, object]:
    return {**asdict(answer), "question": problem.question, "answer": problem.answer, "labels": problem.labels}
