"""Outcomes of the finished runs of a study, by arm, as arrays over seeds and problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from ...common.analysis.bootstrap import Outcomes
from ...common.analysis.scores import score
from ...common.errors import FedGRPOError, RunError
from ...server.run.reader import Run, accuracy
from .study_file import Arm, Study
from .study_runs import FINISHED, StudyRun


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmOutcomes:
    """The seeds of one arm whose runs have all finished."""

    arm: Arm
    seeds: tuple[int, ...]
    sampled: npt.NDArray[np.float64]
    """Shape (seeds, clients, problems): 1 for a correct answer; one client stands for a policy that all share."""
    greedy: float
    """Accuracy, mean over seeds, clients and problems."""
    bytes_up: float
    """Bytes of all rounds and clients; mean over the seeds."""
    bytes_down: float
    seconds: float
    """Seconds of training, all rounds and clients one after another; mean over the seeds."""
    sampled_tokens: float | None
    """Tokens sampled for training, all rounds and clients; mean over the seeds. None where a run does not say."""
    epsilon: float | None
    """Highest that a client of any run reported; None without differential privacy."""
    lenient: float
    """Sampled accuracy by the last number anywhere; mean over seeds and clients."""
    truncated: float
    """Share of sampled answers that were cut off; mean over seeds and clients."""
    curves: dict[int, list[float]]
    """Seed -> accuracy by evaluated round, mean over the clients."""
    rounds: list[int]
    """The rounds that were evaluated."""

    @property
    def mean(self) -> Outcomes:
        """Mean over the clients, shape (seeds, problems)."""
        return self.sampled.mean(axis=1)

    def of_seeds(self, seeds: Sequence[int]) -> npt.NDArray[np.intp]:
        """Return the rows of some seeds."""
        return np.array([self.seeds.index(seed) for seed in seeds], dtype=np.intp)


def gather(study: Study, states: Mapping[StudyRun, str]) -> tuple[dict[str, ArmOutcomes], dict[str, str]]:
    """Return (the arms with at least one complete seed, the reasons why other runs do not count)."""
    reasons = {study_run.name: state for study_run, state in states.items() if state != FINISHED}
    runs: dict[StudyRun, Run] = {}
    for study_run in (study_run for study_run, state in states.items() if state == FINISHED):
        try:
            runs[study_run] = _whole(Run.read(study_run.folder))
        except FedGRPOError as error:
            reasons[study_run.name] = str(error)
    found: dict[str, ArmOutcomes] = {}
    for arm in study.arms:
        of_seed = {s: [c for c in states if (c.arm, c.seed) == (arm.name, s)] for s in study.seeds}
        whole = {s: [runs[c] for c in mine] for s, mine in of_seed.items() if all(c in runs for c in mine)}
        if whole:
            found[arm.name] = _arm(arm, whole)
    return found, reasons


def _whole(run: Run) -> Run:
    """Check that every held-out problem was answered at the end, and return the run.

    Raises:
        RunError: some were not.
    """
    for decoding in ("sampled", "greedy"):
        answered = run.outcomes(decoding)
        most = max((e.total.problems for e in (*run.sampled, *run.greedy)), default=1)
        if len(answered) < most or sorted(answered) != list(range(len(answered))):
            raise RunError(
                f"{run.files.answers} has {decoding} answers to {len(answered)} of {most} held-out problems: a client "
                "could not answer, or an older fedgrpo played it. Remove the run folder to play it again."
            )
    return run


def _arm(arm: Arm, runs: Mapping[int, list[Run]]) -> ArmOutcomes:
    results = [[run.result() for run in of_seed] for of_seed in runs.values()]
    every = [run for of_seed in runs.values() for run in of_seed]
    scores, tokens = [score(run.after.total) for run in every], [run.sampled_tokens for run in every]

    def total(key: str) -> float:
        return fmean(sum(float(result[key]) for result in of_seed) for of_seed in results)

    return ArmOutcomes(
        arm=arm,
        seeds=tuple(runs),
        sampled=np.array([[_vector(run, "sampled") for run in of_seed] for of_seed in runs.values()]),
        greedy=float(np.mean([_vector(run, "greedy") for run in every])),
        bytes_up=total("bytes_up"),
        bytes_down=total("bytes_down"),
        seconds=total("seconds"),
        sampled_tokens=None if None in tokens else total("sampled_tokens"),
        epsilon=max((run.epsilon for run in every if run.epsilon is not None), default=None),
        lenient=fmean(of_run.lenient for of_run in scores),
        truncated=fmean(of_run.truncated for of_run in scores),
        curves={seed: _curve(of_seed) for seed, of_seed in runs.items()},
        rounds=[e.round for e in every[0].sampled],
    )


def _vector(run: Run, decoding: str) -> list[float]:
    answered = run.outcomes(decoding)
    return [float(answered[i]) for i in range(len(answered))]


def _curve(runs: list[Run]) -> list[float]:
    columns = zip(*([accuracy(e.total) or 0.0 for e in run.sampled] for run in runs), strict=True)
    return [fmean(column) for column in columns]
