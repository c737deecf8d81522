"""A run folder read back: everything that terminal, JSON and report say comes from here, and so from the files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

from ...common.analysis.contributions import Contribution, contributions
from ...common.analysis.privacy import highest_epsilon
from ...common.analysis.reward_hacking import HackingWarning, RewardHackingMonitor
from ...common.analysis.scores import Climb, Score, climb_by_style, score
from ...common.errors import ConfigError
from ...common.messages.messages import Tally
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.storage.jsonl import read_lines
from .alarms import replayed
from .journal import Committed, Created, Journal, Void, Withheld
from .layout import RunFolder
from .metrics import EvaluationMetrics, MetricsLine, RoundMetrics, read_metrics


@dataclass(frozen=True, slots=True)
class Run:
    """A finished or unfinished run."""

    folder: Path
    config: RunConfig
    journal: Journal
    rounds: list[RoundMetrics]
    """One per committed round."""
    sampled: list[EvaluationMetrics]
    greedy: list[EvaluationMetrics]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run folder. Changes nothing in it.

        Raises:
            ConfigError: the folder holds no run.
            RunError: a line of its journal or its metrics is damaged.
        """
        files = RunFolder(folder)
        journal = Journal.read(files.journal)
        if not journal.lines:
            raise ConfigError(f"{folder} is not a run folder: {files.journal.name} is missing or empty.")
        lines = read_metrics(files.metrics)
        return cls(
            folder=folder,
            config=load_scenario(files.settings),
            journal=journal,
            rounds=[line for line in lines if isinstance(line, RoundMetrics)],
            sampled=_evaluations(lines, "sampled"),
            greedy=_evaluations(lines, "greedy"),
        )

    @property
    def files(self) -> RunFolder:
        """Return the paths of its files."""
        return RunFolder(self.folder)

    @property
    def before(self) -> EvaluationMetrics:
        """Return the first sampled evaluation."""
        return self.sampled[0]

    @property
    def after(self) -> EvaluationMetrics:
        """Return the last sampled evaluation."""
        return self.sampled[-1]

    @property
    def outdated(self) -> str:
        """Say in words that the run's last adapter was not evaluated, as where a policy kept the counts; else empty."""
        last = max((line.round for line in self.rounds), default=0)
        if not self.journal.finished or not self.sampled or self.after.round == last:
            return ""
        kept = [str(line) for line in self.journal.of(Withheld) if (line.round, line.decoding) == (last, "sampled")]
        why = f": {kept[-1]}" if kept else ""
        return f"The accuracy is that after round {self.after.round}. After round {last} there is none{why}."

    @property
    def class_columns(self) -> list[str]:
        """Columns that accuracy is split by; `style` comes last."""
        found = {name.partition("=")[0] for name in self.after.classes}
        return [*sorted(found - {"style"}), "style"]

    @property
    def climb(self) -> Climb:
        """Decompose the change of sampled accuracy by answer style."""
        return climb_by_style(self.before.of("style"), self.after.of("style"))

    def outcomes(self, decoding: str) -> dict[int, bool]:
        """Return which held-out problems were correct in the last evaluation (strict), by index.

        Empty where the clients were real ones: they give out counts alone. Where the reward gate had a round tried
        again, the answers of the last attempt stand, which is the one that was committed.
        """
        last = self.config.federation.rounds
        lines: list[dict[str, Any]] = read_lines(self.files.answers)
        mine = [line for line in lines if (line["round"], line["decoding"]) == (last, decoding)]
        return {i: mark == "1" for line in mine for i, mark in zip(line["problems"], line["right"], strict=True)}

    @property
    def sampled_tokens(self) -> int | None:
        """Return the tokens that all clients sampled in the committed rounds; None where one did not report them.

        The one line of a sum holds the mean over its members.
        """
        parts = [
            (client.reported, max(1, len(line.members))) for line in self.rounds for client in line.clients.values()
        ]
        if not parts or any("tokens/sampled" not in reported for reported, _ in parts):
            return None
        return round(sum(reported["tokens/sampled"] * clients for reported, clients in parts))

    @property
    def epsilon(self) -> float | None:
        """Return the highest epsilon that a client reported; None without differential privacy."""
        return highest_epsilon(client.reported for line in self.rounds for client in line.clients.values())

    def warnings(self) -> list[HackingWarning]:
        """Return the reward-hacking warnings that the run's metrics give rise to."""
        return replayed(read_metrics(self.files.metrics), RewardHackingMonitor())

    def contributions(self) -> list[Contribution]:
        """Return each client's contribution over the rounds: learning signal, weight, bytes."""
        return contributions([line.clients for line in self.rounds])

    def rewards(self) -> list[float]:
        """Mean reward over the clients, by round: each client's in its own units."""
        return [sum(line.rewards) / len(line.rewards) if line.rewards else nan for line in self.rounds]

    def result(self) -> dict[str, Any]:
        """Return the run as the JSON object that `simulate --format json` prints last."""
        if not self.sampled:
            raise ConfigError(f"{self.folder} has no evaluation yet.")
        adapters = [line.adapter for line in self.journal.lines if isinstance(line, (Created, Committed))]
        after, rewards = score(self.after.total), self.rewards()
        return {
            "run_dir": str(self.folder),
            "rounds": len(self.rounds),
            "clients": max((len(line.clients) for line in self.rounds), default=0),
            "adapter_sha256": adapters[-1],
            "accuracy": self._accuracy(after),
            "truncated": {"before": score(self.before.total).truncated, "after": after.truncated},
            "completion_length": {"before": score(self.before.total).mean_length, "after": after.mean_length},
            "climb": asdict(self.climb),
            "reward": {"first": _known(rewards[:1]), "last": _known(rewards[-1:])},
            "seconds": round(sum(line.seconds for line in self.rounds), 3),
            "sampled_tokens": self.sampled_tokens,
            "bytes_up": sum(line.bytes_up for line in self.rounds),
            "bytes_down": sum(line.bytes_down for line in self.rounds),
            "aggregation_error": [line.aggregation_error for line in self.rounds],
            "ledger": [contribution.as_json() for contribution in self.contributions()],
            "warnings": [asdict(tripped) for tripped in self.warnings()],
            "void_rounds": len(self.journal.of(Void)),
            "finished": self.journal.finished,
        }

    def _accuracy(self, after: Score) -> dict[str, Any]:
        classes = {
            f"{row.column}={row.value}": {
                "before": row.before,
                "after": row.after,
                "problems_before": row.problems_before,
                "problems_after": row.problems_after,
            }
            for row in self.class_rows()
        }
        return {
            "before": after.base,
            "after": after.strict,
            "gain": after.gain,
            "interval": [after.gain_low, after.gain_high],
            "decoding": "sampled",
            "round": self.after.round,
            "problems": after.problems,
            "clients": list(self.after.clients),
            "lenient": {"before": score(self.before.total).lenient, "after": after.lenient},
            "greedy": {"before": _strict(self.greedy[:1]), "after": _strict(self.greedy[1:][-1:])},
            "by_class": classes,
        }

    def class_rows(self) -> list[ClassRow]:
        """Share and accuracy of every class, before and after."""
        names = [f"{c}={v}" for c in self.class_columns for v in sorted({*self.before.of(c), *self.after.of(c)})]
        return [ClassRow.of(name, self.before, self.after) for name in names]


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class before and after: its share of the answers, and strict accuracy within it (None where it is empty)."""

    column: str
    value: str
    problems_before: int
    problems_after: int
    share_before: float
    share_after: float
    before: float | None
    after: float | None

    @classmethod
    def of(cls, name: str, before: EvaluationMetrics, after: EvaluationMetrics) -> ClassRow:
        """Return the row of the class `column=value`."""
        column, _, value = name.partition("=")
        old, new = before.classes.get(name, Tally()), after.classes.get(name, Tally())
        shares = old.problems / before.total.problems, new.problems / after.total.problems
        return cls(column, value, old.problems, new.problems, *shares, accuracy(old), accuracy(new))


def accuracy(tally: Tally) -> float | None:
    """Strict accuracy; None of nothing."""
    return tally.correct / tally.problems if tally.problems else None


def _evaluations(lines: list[MetricsLine], decoding: str) -> list[EvaluationMetrics]:
    chosen = [line for line in lines if isinstance(line, EvaluationMetrics) and line.decoding == decoding]
    return sorted(chosen, key=lambda line: line.round)


def _known(values: list[float]) -> float | None:
    """Return the only value; None where there is none, or it did not leave the clients: JSON has no NaN."""
    return values[0] if values and not isnan(values[0]) else None


def _strict(evaluations: list[EvaluationMetrics]) -> float | None:
    return evaluations[0].accuracy if evaluations else None
