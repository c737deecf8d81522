"""Progress and sample logging for simulated clients: steps, a few completions, and which answers are correct.

Records go through `logging` and, from a worker process, through the pipe to the parent. A real client sends none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...client.learner.data.problems import Problem
from ...client.learner.training.watcher import Watcher
from ...common.messages.messages import EvaluateTask
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import Entry, append_line, as_line, read_lines
from ...server.run.layout import ANSWERS, SAMPLES, RunFolder
from ...server.run.metrics import EvaluationMetrics, read_metrics

if TYPE_CHECKING:
    from collections.abc import Generator

    from ...client.learner.training.evaluate import Answered

LOGGER = logging.getLogger("fedgrpo.client.progress")
SAMPLES_PER_CLIENT = 3
KEYS = {SAMPLES: ("round", "attempt", "client", "question"), ANSWERS: ("round", "attempt", "decoding", "client")}
"""File of a run folder -> fields that identify a line in it."""


class Reporter(Watcher):
    """A watcher that logs the steps and answers of one simulated organisation."""

    def __init__(self, organisation: str, held_out: Sequence[int]) -> None:
        """Report for an organisation.

        Args:
            held_out: positions of its problems among the scenario's held-out problems.
        """
        self._organisation = organisation
        self._held_out = held_out

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """Log a record with `organisation`, `step` and `reward`."""
        reward = figures.get("reward", 0.0)
        LOGGER.info("", extra={"organisation": self._organisation, "step": number, "reward": reward})

    def batch(self, number: int, batches: int) -> None:
        """A record with `organisation`, `batch` and `batches`, of all that one evaluation answers."""
        LOGGER.info("", extra={"organisation": self._organisation, "batch": number, "batches": batches})

    def answers(
        self, task: EvaluateTask, problems: Sequence[Problem], base: Sequence[Answered], current: Sequence[Answered]
    ) -> None:
        """Log records with `kept`, lines for files: which answers are correct, and some completions.

        The completions are always those of the first problems, without selection.
        """
        who = {"round": task.round, "attempt": task.attempt, "client": self._organisation}
        decoding = "sampled" if task.temperature else "greedy"
        right = "".join(str(int(answer.strict)) for answer in current)
        _keep(ANSWERS, {**who, "decoding": decoding, "right": right, "problems": list(self._held_out)})
        if task.temperature == 0:
            return
        for problem, before, after in list(zip(problems, base, current, strict=True))[:SAMPLES_PER_CLIENT]:
            sample = {
                **who,
                "question": problem.question,
                "answer": problem.answer,
                "before": before.text,
                "after": after.text,
                "right_before": before.strict,
                "right_after": after.strict,
            }
            _keep(SAMPLES, sample)


class KeptLines(logging.Handler):
    """A log handler that appends the clients' lines to a run folder's files, each line once."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._seen: dict[str, set[tuple[object, ...]]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record's line, if it has one."""
        name, text = getattr(record, "kept", None), getattr(record, "line", None)
        if name not in KEYS or not isinstance(text, str) or not self._folder.is_dir():
            return
        line: Entry = json.loads(text)
        if name not in self._seen:
            self._seen[name] = {_key(name, old) for old in self._complete_lines(name)}
        if _key(name, line) not in self._seen[name]:
            self._seen[name].add(_key(name, line))
            append_line(self._folder / name, line)

    def _complete_lines(self, name: str) -> list[Entry]:
        """Return the lines of an earlier process, without answers of an incomplete evaluation, and remove those from
        the file.

        Such an evaluation is repeated, and on a GPU its answers may differ from the earlier ones.
        """
        path = self._folder / name
        lines = read_lines(path)
        if name != ANSWERS:
            return lines
        metrics = read_metrics(RunFolder(self._folder).metrics)
        done = {(line.round, line.decoding) for line in metrics if isinstance(line, EvaluationMetrics)}
        standing = [line for line in lines if (line["round"], line["decoding"]) in done]
        if len(standing) < len(lines):
            write_atomic(path, b"".join(as_line(line) for line in standing))
        return standing


@contextmanager
def keeping(folder: Path) -> Generator[None]:
    """Write the lines of simulated clients to the run folder inside a `with` block."""
    handler = KeptLines(folder)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


def is_progress(record: logging.LogRecord) -> bool:
    """Return whether a record only says how far a client is: a picture shows it, a log leaves it out."""
    return hasattr(record, "step") or hasattr(record, "batch")


def is_kept(record: logging.LogRecord) -> bool:
    """Return whether a record is a line for a file, not for display."""
    return hasattr(record, "kept")


def _keep(name: str, line: Mapping[str, Any]) -> None:
    LOGGER.info("", extra={"kept": name, "line": json.dumps(line)})


def _key(name: str, line: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(line.get(part, 0) for part in KEYS[name])
