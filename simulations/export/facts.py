"""Facts of a run for the model card, without anything that identifies an organisation, and without local paths.

Left out on purpose: names of clients, of their reward functions and of their classes, figures that one client alone
reported, and the run's name.
"""

from __future__ import annotations

from typing import Any

from ...common.analysis.privacy import highest_epsilon, privacy_in_words
from ...common.analysis.scores import points, score
from ...common.settings.run_config import RunConfig
from ...server.run.journal import Void
from ...server.run.metrics import EvaluationMetrics, RoundMetrics
from ...server.run.reader import Run
from ..report.summary import notes
from .source import Source

SETTINGS = (
    "federation.seed",
    "model.dtype",
    "adapter.rank",
    "adapter.alpha",
    "adapter.target-modules",
    "train.steps-per-round",
    "train.seconds-per-round",
    "train.prox",
    "train.optimizer-state",
    "train.replay",
    "train.replay-rounds",
    "train.prompt-selection",
    "train.min-signal",
    "grpo.num-generations",
    "grpo.per-device-train-batch-size",
    "grpo.gradient-accumulation-steps",
    "grpo.max-completion-length",
    "grpo.learning-rate",
    "grpo.lr-scheduler-type",
    "grpo.beta",
    "grpo.kl-reference",
    "grpo.epsilon",
    "grpo.epsilon-high",
    "grpo.loss-type",
    "grpo.scale-rewards",
    "grpo.num-iterations",
    "grpo.temperature",
    "grpo.mask-truncated-completions",
    "aggregation.rule",
    "aggregation.server-optimizer",
    "aggregation.server-learning-rate",
    "aggregation.server-momentum",
    "aggregation.server-accumulate",
    "compression.up",
    "compression.down",
    "intake.max-delta-norm",
    "gate.enabled",
    "dp.noise-multiplier",
    "dp.clip-norm",
    "dp.delta",
)
FEWEST = 2
"""A mean over fewer organisations would be one organisation's own figure."""


def run_facts(source: Source) -> dict[str, Any] | None:
    """Return the facts of the run up to the exported round; None without a run."""
    run, config, number = source.run, source.config, source.round
    if run is None or config is None or number is None:
        return None
    rounds = [line for line in run.rounds if line.round <= number]
    simulated = run.files.answers.is_file()
    evaluated = next((e for e in reversed(run.sampled) if e.round == number), None)
    open_to_all = evaluated is not None and (simulated or len(evaluated.clients) >= FEWEST)
    return {
        "simulated": simulated,
        "round": number,
        "rounds": config.federation.rounds,
        "void": sum(line.round <= number for line in run.journal.of(Void)),
        "clients": _clients(rounds),
        "bytes_up": sum(line.bytes_up for line in rounds),
        "bytes_down": sum(line.bytes_down for line in rounds),
        "scores": _scores(run, evaluated) if evaluated and open_to_all else [],
        "problems": evaluated.total.problems if evaluated else 0,
        "evaluated_by": len(evaluated.clients) if evaluated else 0,
        "unscored": _unscored(evaluated),
        "notes": notes(config) if simulated else [],
        "reward": _rewards(rounds, 1 if simulated else FEWEST),
        "rewards": _reward_names(config.simulation.rewards),
        "data": _data(config),
        "method": config.method_name,
        "paper": config.method.source,
        "weights": config.aggregation.weights,
        "privacy": privacy_in_words(config, highest_epsilon(c.reported for r in rounds for c in r.clients.values())),
        "settings": [(name, config.flat()[name]) for name in SETTINGS],
    }


def _clients(rounds: list[RoundMetrics]) -> str:
    counts = [len(line.clients) for line in rounds]
    fewest, most = min(counts, default=0), max(counts, default=0)
    return f"{most}" if fewest == most else f"{fewest} to {most} in a round"


def _scores(run: Run, evaluated: EvaluationMetrics) -> list[dict[str, str]]:
    temperature = run.config.evaluation.temperature
    rows = [_row(f"sampled at temperature {temperature:g}, strict", evaluated)]
    before = next((e for e in run.sampled if e.round == 0), None)
    if before is not None:
        old, new = score(before.total), score(evaluated.total)
        rows.append(
            {"name": "the same, lenient", "before": f"{old.lenient:.1%}", "after": f"{new.lenient:.1%}", "gain": ""}
        )
        cut = {"before": f"{old.truncated:.1%}", "after": f"{new.truncated:.1%}", "gain": ""}
        rows.append({"name": "completions cut off at the limit of length", **cut})
    greedy = next((e for e in run.greedy if e.round == evaluated.round), None)
    return [*rows, _row("greedy, strict", greedy)] if greedy else rows


def _row(name: str, evaluated: EvaluationMetrics) -> dict[str, str]:
    result = score(evaluated.total)
    gain = f"{points(result.gain)} ({result.interval})"
    return {"name": name, "before": f"{result.base:.1%}", "after": f"{result.strict:.1%}", "gain": gain}


def _unscored(evaluated: EvaluationMetrics | None) -> str:
    if evaluated is None:
        return "There was no held-out evaluation after this round."
    return "One organisation alone answered held-out problems; what it found is its own, and is left out here."


def _rewards(rounds: list[RoundMetrics], fewest: int) -> tuple[float, float] | None:
    """Return the mean rewards of the first and of the last round; None if fewer clients report theirs."""
    rewards = [line.rewards for line in rounds]
    if not rewards or min(len(rewards[0]), len(rewards[-1])) < fewest:
        return None
    return sum(rewards[0]) / len(rewards[0]), sum(rewards[-1]) / len(rewards[-1])


def _reward_names(spec: str) -> str:
    """Return the reward sets of a simulation; a user's own file is mentioned without its name."""
    sets = [
        ", ".join(
            "functions of an own file" if "/" in part or ".py" in part else f"`{part.strip()}`"
            for part in one.split(",")
        )
        for one in spec.split(";")
    ]
    return "; ".join(dict.fromkeys(sets))


def _data(config: RunConfig) -> str:
    simulation = config.simulation
    divided = simulation.partition
    if divided in ("dirichlet", "size"):
        divided += f", concentration {simulation.partition_alpha:g}"
    taking_part = f"{len(simulation.taking_part)} of {simulation.clients} clients"
    return f"`{simulation.dataset}`, divided over {taking_part} ({divided})"
