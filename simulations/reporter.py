"""What a simulated client tells the person who runs the simulation: steps as they happen, and a few completions.

Goes out through `logging` and, from a worker process, through the pipe to the parent. A real client tells nobody.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ..client.learner.data import Problem
from ..client.learner.evaluate import Answered
from ..client.learner.watcher import Watcher
from ..common.jsonl import append_line, read_lines
from ..common.protocol import EvaluateTask

LOGGER = logging.getLogger("fedgrpo.client.progress")
SAMPLES_PER_CLIENT = 3


class Reporter(Watcher):
    """Logs the steps and some answers of one simulated organisation."""

    def __init__(self, organisation: str) -> None:
        self._organisation = organisation

    def step(self, number: int, reward: float) -> None:
        """A record with `organisation`, `step` and `reward`."""
        LOGGER.info("", extra={"organisation": self._organisation, "step": number, "reward": reward})

    def answers(
        self, task: EvaluateTask, problems: Sequence[Problem], base: Sequence[Answered], now: Sequence[Answered]
    ) -> None:
        """Records with `sample`: JSON of a problem and both completions. Always the first problems: none is chosen."""
        if task.temperature == 0:
            return
        for problem, before, after in list(zip(problems, base, now, strict=True))[:SAMPLES_PER_CLIENT]:
            sample = {
                "round": task.round,
                "client": self._organisation,
                "question": problem.question,
                "answer": problem.answer,
                "before": before.text,
                "after": after.text,
                "right_before": before.strict,
                "right_after": after.strict,
            }
            LOGGER.info("", extra={"sample": json.dumps(sample)})


class SampleFile(logging.Handler):
    """Collects the samples of the clients in a run folder's samples.jsonl."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._seen: set[tuple[object, ...]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record's sample, if it has one."""
        text = getattr(record, "sample", None)
        if not isinstance(text, str) or not self._folder.is_dir():
            return
        path, sample = self._folder / "samples.jsonl", json.loads(text)
        self._seen = self._seen or {_key(line) for line in read_lines(path)}  # a resumed run answers some again
        if _key(sample) not in self._seen:
            self._seen.add(_key(sample))
            append_line(path, sample)


def _key(sample: dict[str, object]) -> tuple[object, ...]:
    return sample["round"], sample["client"], sample["question"]
