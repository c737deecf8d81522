"""The organisation's ledger: which tasks it has answered, on the disk, across restarts and across runs of an operator.

Without it an operator could ask the same question many times with small changes, and solve for what a single prompt
contributes to each mean. So each (federation, round, attempt) is answered once, a shard is only read forwards, and the
policy limits how many answers there will ever be. A line is on the disk before the work begins; a task that was begun
and not answered, because the learner was killed, may be done again if it is the same one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from ....common.errors import PolicyError
from ....common.messages import frames
from ....common.messages.messages import EvaluateTask, TrainTask
from ....common.secagg.statements import Context
from ....common.settings.run_config import RunConfig
from ....common.storage.jsonl import append_line
from ...organisation.policy_settings import Policy
from ..privacy.spent import FILE as SPENT_FILE
from ..privacy.spent import Spent
from .ledger_lines import Line, added_up, in_words, read_ledger, signing

FILE = "ledger.jsonl"


class Ledger:
    """What has been answered, and whether a task may still be."""

    def __init__(self, path: Path | None, policy: Policy) -> None:
        """Read a ledger, or begin one. Without a path it is kept in memory, for a rehearsal.

        Raises:
            ConfigError: the file cannot be read, or is damaged.
        """
        self._path, self._policy = path, policy
        self._lines: dict[tuple[str, str, int, int, str], Line] = {}
        self._last: dict[tuple[str, str], Line] = {}
        """The line of each federation's last training and evaluation."""
        self._open: Line | None = None
        self.spent = Spent(path.with_name(SPENT_FILE) if path else None, policy.max_epsilon)
        """The privacy budget."""
        self._size = 0
        self._read()

    def _read(self) -> None:
        """Read the file if its size has changed: on Ray several workers serve one client in turn."""
        if self._path is None or not self._path.exists() or self._path.stat().st_size == self._size:
            return
        self._size, self._lines, self._last = self._path.stat().st_size, {}, {}
        for line in read_ledger(self._path):
            self._note(line)

    def counts(self) -> Counter[str]:
        """Return how many trainings (`train`) and evaluations (`evaluate`) there have been, in all runs."""
        self._read()
        return Counter(kind for kind, *_ in self._lines)

    def begin_training(self, task: TrainTask, config: RunConfig) -> None:
        """Write down that a round is trained.

        Raises:
            PolicyError: it may not be; the key says why.
            OSError: it cannot be written down.
        """
        self._read()
        line = Line(
            kind="train",
            federation=task.federation,
            round=task.round,
            attempt=task.attempt,
            settings=config.sha256,
            request=_request(task, config),
            position=task.position,
            prompts=config.prompts_per_round,
        )
        if config.dp.on:
            self._check_noise()
        last = self._last.get(("train", task.federation))
        if line.key not in self._lines and last is not None:
            end = last.position + (last.prompts if last.answered else 0)
            if task.position != last.position and task.position < end:
                raise PolicyError(
                    "ledger.position",
                    f"The server wants prompts from position {task.position} of the shard, but round {last.round} read "
                    f"from {last.position} to {end}: a shard is read forwards, by whole rounds.",
                )
        self._begin(line, "max-trainings", self._policy.max_trainings)

    def _check_noise(self) -> None:
        """Refuse a private training after some without noise, of which no epsilon can be said."""
        private = {(charge.federation, charge.round, charge.attempt) for charge in self.spent.charges}
        answered = [line for line in self._lines.values() if line.kind == "train" and line.answered]
        open_ones = [line for line in answered if (line.federation, line.round, line.attempt) not in private]
        if open_ones:
            raise PolicyError(
                "policy.dp.max-epsilon",
                f"{len(open_ones)} trainings have been answered without noise, the last of {open_ones[-1].federation}: "
                "what they told has no epsilon. For other people's data give the learner another learner.folder.",
            )

    def begin_evaluation(self, task: EvaluateTask, config: RunConfig) -> None:
        """Write down that the held-out problems are answered.

        Raises:
            PolicyError, OSError: as of `begin_training`.
        """
        self._read()
        decoding = "greedy" if task.temperature == 0 else "sampled"
        line = Line(
            kind="evaluate",
            federation=task.federation,
            round=task.round,
            attempt=task.attempt,
            asked=f"{decoding}, {'compared' if task.against else 'alone'}",
            settings=config.sha256,
            request=_request(task, config),
        )
        last = self._last.get(("evaluate", task.federation))
        if line.key not in self._lines and last is not None and task.round < last.round - 1:
            raise PolicyError(
                "ledger.round",
                f"The server wants round {task.round} evaluated, but round {last.round} has been: rounds go forwards.",
            )
        self._begin(line, "max-evaluations", self._policy.max_evaluations)

    def agree(self, context: Context, statement: bytes) -> None:
        """Write down that a set of survivors is signed.

        One set per attempt. A later attempt at a round may be signed as long as this organisation has not helped to
        open an earlier one, and it then never will: of a round's sums, at most one is ever opened (decision 017).

        Raises:
            PolicyError: it may not be.
            OSError: it cannot be written down.
        """
        self._read()
        line, earlier = signing("agree", context, statement), self._of_round(context)
        known = self._lines.get(line.key)
        if known is not None and known.request != line.request:
            raise PolicyError("ledger.survivors", f"{in_words(context)}: another set of survivors was signed.")
        if any(other.kind == "open" and other.attempt != line.attempt for other in earlier):
            raise PolicyError("ledger.opened", f"{in_words(context)}: another attempt at this round was opened.")
        if any(other.attempt > line.attempt for other in earlier):
            raise PolicyError("ledger.attempt", f"{in_words(context)}: a later attempt was signed.")
        if known is None:
            self._write(line)

    def open(self, context: Context, statement: bytes) -> None:
        """Write down that shares are given away, for the set of survivors that was signed last.

        Raises:
            PolicyError, OSError: as of `agree`.
        """
        self._read()
        line, earlier = signing("open", context, statement), self._of_round(context)
        agreed = self._lines.get(signing("agree", context, statement).key)
        if agreed is None or agreed.request != line.request or any(o.attempt > line.attempt for o in earlier):
            raise PolicyError("ledger.survivors", f"{in_words(context)}: this set was not the last one signed.")
        if any(other.kind == "open" and other.attempt != line.attempt for other in earlier):
            raise PolicyError("ledger.opened", f"{in_words(context)}: another attempt at this round was opened.")
        if line.key not in self._lines:
            self._write(line)

    def _of_round(self, context: Context) -> list[Line]:
        """Return what was signed and opened of a round, in all its attempts."""
        place = (context.federation, context.round, added_up(context))
        lines = (line for line in self._lines.values() if line.kind in ("agree", "open"))
        return [line for line in lines if (line.federation, line.round, line.asked) == place]

    def used(self, prompts: int) -> None:
        """Note how many prompts the open training used; a time limit may have ended it early."""
        assert self._open is not None
        self._open = replace(self._open, prompts=prompts)

    def close(self) -> None:
        """Write down that the open task, if there is one, has an answer, which is on the disk by now.

        Raises:
            OSError: it cannot be written down.
        """
        if self._open is not None:
            line, self._open = replace(self._open, answered=True), None
            self._write(line)

    def _begin(self, line: Line, limit_name: str, limit: int) -> None:
        """Open a task."""
        self._open = None
        tasks = (other for other in self._lines.values() if other.kind in ("train", "evaluate"))
        same = next((other for other in tasks if other.federation == line.federation), None)
        if same is not None and same.settings != line.settings:
            raise PolicyError(
                "ledger.settings",
                f"{line.federation} has been run with other settings. A run keeps those it began with.",
            )
        known = self._lines.get(line.key)
        what = f"The {line.asked or 'training'} of {line.federation}'s round {line.round}, attempt {line.attempt}"
        if known is not None and known.request != line.request:
            raise PolicyError("ledger.attempt", f"{what}, was asked for before with another adapter or position.")
        if known is not None and known.answered:
            raise PolicyError("ledger.answered", f"{what}, has been answered, and the answer is not kept any more.")
        if known is None and self.counts()[line.kind] >= limit:
            raise PolicyError(
                f"ledger.{limit_name}",
                f"{limit} tasks of this kind have been done, in all runs together, as many as policy.{limit_name} "
                "allows. Raise it if you still want to take part.",
            )
        if known is None:
            self._write(line)
        self._open = line

    def _write(self, line: Line) -> None:
        if self._path is not None:
            append_line(self._path, asdict(line))
            self._size = self._path.stat().st_size
        self._note(line)

    def _note(self, line: Line) -> None:
        self._lines[line.key] = line
        self._last[line.kind, line.federation] = line


def _request(task: TrainTask | EvaluateTask, config: RunConfig) -> str:
    return hashlib.sha256(config.sha256.encode() + frames.frame_of(task).pack()).hexdigest()
