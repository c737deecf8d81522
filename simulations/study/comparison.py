"""The result of a study from its outcomes: per arm its accuracy, its cost, and the difference from the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from statistics import fmean
from typing import Any

from ...common.analysis.bootstrap import Difference, Outcomes, best_of, paired_difference, worst_of
from ...common.settings.run_config import RunConfig
from .arms import FEDERATED, is_local, rollouts
from .outcomes import ArmOutcomes
from .study_file import Arm, Study

LIBRARIES = ("fedgrpo", "trl", "torch")
DIGITS = 5
Json = dict[str, Any]


def compared(study: Study, found: Mapping[str, ArmOutcomes], reasons: Mapping[str, str]) -> Json:
    """Return the study as one JSON object with everything that table and figure need.

    Args:
        reasons: runs that do not count, and why.
    """
    problems = {outcomes.sampled.shape[2] for outcomes in found.values()}
    arms = {arm.name: _arm(study, arm, found) for arm in study.arms}
    return {
        "study": study.name,
        "quick": study.quick,
        "question": study.question,
        "scenario": study.scenario,
        "seeds": list(study.seeds),
        "baseline": study.baseline,
        "problems": max(problems, default=0),
        "arms": arms,
        "sentences": [against["sentence"] for arm in arms.values() for against in arm["against"]],
        "notes": _notes(study, found),
        "not_counted": dict(reasons),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def sentence(what: str, baseline: str, difference: Difference) -> str:
    """Describe a comparison in a sentence.

    >>> sentence("svd", "naive", Difference(mean=0.012, low=0.003, high=0.021, by_seed=(0.01, 0.014)))
    'svd is 1.2 points above naive (95 % interval +0.3 to +2.1)'
    >>> sentence("svd", "naive", Difference(mean=0.001, low=-0.008, high=0.01, by_seed=(0.0, 0.002)))
    'no difference was found between svd and naive (-0.8 to +1.0)'
    >>> sentence("svd", "naive", Difference(mean=0.012, low=0.003, high=0.021, by_seed=(0.012,)))
    'svd is 1.2 points above naive (one seed, 95 % interval +0.3 to +2.1)'
    """
    low, high = f"{100 * difference.low:+.1f}", f"{100 * difference.high:+.1f}"
    one = "one seed, " if len(difference.by_seed) == 1 else ""
    if not difference.found:
        return f"no difference was found between {what} and {baseline} ({one}{low} to {high})"
    where = "above" if difference.mean > 0 else "below"
    return f"{what} is {abs(100 * difference.mean):.1f} points {where} {baseline} ({one}95 % interval {low} to {high})"


def _arm(study: Study, arm: Arm, found: Mapping[str, ArmOutcomes]) -> Json:
    configs = [config for of_seed in arm.runs.values() for config in of_seed]
    entry: Json = {
        "kind": arm.kind,
        "settings": _settings(configs[0]),
        "config_sha256": {str(seed): [config.sha256 for config in of_seed] for seed, of_seed in arm.runs.items()},
        "rollouts": rollouts(configs[0]),
        "rows": [],
        "against": [],
    }
    outcomes = found.get(arm.name)
    if outcomes is None:
        return entry
    views = _views(outcomes)
    entry["rows"] = [_row(label, view, outcomes) for label, view in views.items()]
    entry |= {
        "greedy": round(outcomes.greedy, DIGITS),
        "bytes_up": round(outcomes.bytes_up) if arm.kind == FEDERATED else None,
        "bytes_down": round(outcomes.bytes_down) if arm.kind == FEDERATED else None,
        "seconds": round(outcomes.seconds, 1),
        "sampled_tokens": None if outcomes.sampled_tokens is None else round(outcomes.sampled_tokens),
        "epsilon": None if outcomes.epsilon is None else round(outcomes.epsilon, DIGITS),
        "lenient": round(outcomes.lenient, DIGITS),
        "truncated": round(outcomes.truncated, DIGITS),
        "curve": _curve(outcomes),
    }
    if arm.name != study.baseline and study.baseline in found and not study.quick:
        entry["against"] = _against(study.baseline, views, outcomes, found[study.baseline])
    return entry


def _views(outcomes: ArmOutcomes) -> dict[str, Outcomes]:
    """Return the lines of the table: the policy, or the mean, best and worst of policies trained separately."""
    name = outcomes.arm.name
    if not is_local(outcomes.arm.kind):
        return {name: outcomes.mean}
    return {
        f"{name} (mean of {outcomes.sampled.shape[1]} clients)": outcomes.mean,
        f"{name} (best client)": best_of(outcomes.sampled),
        f"{name} (worst client)": worst_of(outcomes.sampled),
    }


def _row(label: str, view: Outcomes, outcomes: ArmOutcomes) -> Json:
    by_seed = zip(outcomes.seeds, view.mean(axis=1).tolist(), strict=True)
    return {
        "label": label,
        "accuracy": round(float(view.mean()), DIGITS),
        "by_seed": {str(seed): round(share, DIGITS) for seed, share in by_seed},
    }


def _against(baseline: str, views: Mapping[str, Outcomes], mine: ArmOutcomes, theirs: ArmOutcomes) -> list[Json]:
    """Return the differences from the baseline, over the seeds that both have; without the worst client."""
    both = [seed for seed in mine.seeds if seed in theirs.seeds]
    if not both:
        return []
    comparisons: list[Json] = []
    for label, view in list(views.items())[:2]:
        paired = paired_difference(view[mine.of_seeds(both)], theirs.mean[theirs.of_seeds(both)])
        by_seed = zip(both, paired.by_seed, strict=True)
        comparisons.append(
            {
                "label": label,
                "difference": round(paired.mean, DIGITS),
                "interval": [round(paired.low, DIGITS), round(paired.high, DIGITS)],
                "by_seed": {str(seed): round(difference, DIGITS) for seed, difference in by_seed},
                "sentence": sentence(label, baseline, paired),
            }
        )
    return comparisons


def _curve(outcomes: ArmOutcomes) -> Json:
    columns = list(zip(*outcomes.curves.values(), strict=True))
    shares = {"mean": map(fmean, columns), "low": map(min, columns), "high": map(max, columns)}
    rounded = {name: [round(value, DIGITS) for value in values] for name, values in shares.items()}
    return {"rounds": outcomes.rounds, **rounded}


def _notes(study: Study, found: Mapping[str, ArmOutcomes]) -> list[str]:
    """Return the notes beside the table."""
    notes: list[str] = []
    seeds = {name: len(outcomes.seeds) for name, outcomes in found.items()}
    if seeds and max(seeds.values()) == 1 and not study.quick:  # a smoke run has no intervals
        notes.append("One seed: the intervals are over problems alone, and say nothing of other seeds.")
    short = [f"{arm.name} {seeds.get(arm.name, 0)}" for arm in study.arms if seeds.get(arm.name, 0) < len(study.seeds)]
    if short:
        notes.append(f"Not all of the {len(study.seeds)} seeds are there: {', '.join(short)}.")
    equal = {arm.name: rollouts(next(iter(arm.runs.values()))[0]) for arm in study.arms}
    other = [f"{name} {count}" for name, count in equal.items() if count != equal[study.baseline]]
    if other:
        notes.append(
            f"Rollouts that a policy learns from: {study.baseline} {equal[study.baseline]}, but {', '.join(other)}."
        )
    if any(is_local(outcomes.arm.kind) for outcomes in found.values()) and not study.quick:
        notes.append("The best client is chosen on the problems it is then compared on, which flatters it.")
    return notes


def _settings(config: RunConfig) -> Json:
    """Return the settings that differ from the defaults, without seed, client and folder."""
    default, left_out = RunConfig().flat(), ("output.", "federation.seed", "simulation.only", "simulation.workers")
    return {k: v for k, v in config.flat().items() if v != default[k] and not k.startswith(left_out)}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # a study can be tabulated in an environment that cannot run one
        return None
