"""What a simulated client tells the person who runs the simulation: steps, a few completions, and what was right.

Goes out through `logging` and, from a worker process, through the pipe to the parent. A real client tells nobody.
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
"""File of a run folder -> what makes a line of it another one."""


class Reporter(Watcher):
    """Logs the steps and the answers of one simulated organisation."""

    def __init__(self, organisation: str, held_out: Sequence[int]) -> None:
        """`held_out`: where its problems stand among the scenario's held-out ones."""
        self._organisation = organisation
        self._held_out = held_out

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """A record with `organisation`, `step` and `reward`."""
        reward = figures.get("reward", 0.0)
        LOGGER.info("", extra={"organisation": self._organisation, "step": number, "reward": reward})

    def batch(self, number: int, batches: int) -> None:
        """A record with `organisation`, `batch` and `batches`, of all that one evaluation answers."""
        LOGGER.info("", extra={"organisation": self._organisation, "batch": number, "batches": batches})

    def answers(
        self, task: EvaluateTask, problems: Sequence[Problem], base: Sequence[Answered], now: Sequence[Answered]
    ) -> None:
        """Records with `kept`, lines for files: which answers are right, and some completions.

        The completions are always those of the first problems: none is chosen.
        """
        who = {"round": task.round, "attempt": task.attempt, "client": self._organisation}
        decoding = "sampled" if task.temperature else "greedy"
        right = "".join(str(int(answer.strict)) for answer in now)
        _keep(ANSWERS, {**who, "decoding": decoding, "right": right, "problems": list(self._held_out)})
        if task.temperature == 0:
            return
        for problem, before, after in list(zip(problems, base, now, strict=True))[:SAMPLES_PER_CLIENT]:
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
    """Collects in a run folder's files what the clients tell, each line once."""

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
            self._seen[name] = {_key(name, old) for old in self._those_that_stand(name)}
        if _key(name, line) not in self._seen[name]:
            self._seen[name].add(_key(name, line))
            append_line(self._folder / name, line)

    def _those_that_stand(self, name: str) -> list[Entry]:
        """The lines an earlier process left, without answers whose evaluation did not come to its end.

        Such an evaluation is done again, and on a GPU may have other answers than the ones that stand here.
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
    """Write down what simulated clients tell while the block runs."""
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
    """Whether a record is a line for a file, and nothing to show."""
    return hasattr(record, "kept")


def _keep(name: str, line: Mapping[str, Any]) -> None:
    LOGGER.info("", extra={"kept": name, "line": json.dumps(line)})


def _key(name: str, line: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(line.get(part, 0) for part in KEYS[name])
