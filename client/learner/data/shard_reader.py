"""Which prompts of its shard a client trains on in a round: the next ones in order, or those drawn by expected signal.

GRPO learns nothing from a group whose rewards are all alike: at a pass rate of p the variance is p (1 - p), and it is 0
for prompts that the policy always or never solves. DAPO (Yu et al. 2025, arXiv:2503.14476, section 3.2) samples more
prompts until a batch is full of others, GRESO (Zheng et al. 2025, arXiv:2506.02177) skips prompts in proportion to how
often they were silent, SPEED-RL (Zhang et al. 2025, arXiv:2506.09016) screens each prompt with a few completions. Here
a prompt is drawn by what its own earlier groups have shown, so no completion is sampled to be thrown away.

A group's signal is the share of its pairs of completions whose rewards differ (`round_stats.differing_pairs`): with
right and wrong alone an unbiased estimate of 2 p (1 - p), and defined for any reward functions, whatever their scale. A
mean reward scaled to [0, 1] is not: a graded reward that is always .5 would look best, and has no variance at all.
Whether a group had any variance, which is what the round's metrics count, says less of the prompt: 1 right of 8 is as
much as 4.

The record stays at the organisation, and so does what is drawn. A unit is a block of prompts where the policy has
blocks, since what leaves may only depend on whole blocks (docs/decisions/016): its signal is the mean over the block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ....common.errors import ConfigError
from ....common.foreign import safe_logger
from ....common.messages.messages import TrainTask
from ....common.seeds import derived_seed
from ....common.settings.run_config import RunConfig
from .problems import Problem, reading_order
from .signal_record import FOLDER, Played, SignalRecord

LOGGER = safe_logger("fedgrpo.learner")
FLOOR = 0.1
"""Share of the draws in which every unit has the same chance, whatever is known of it: the policy changes, and what it
never solved it may solve now."""
EXPONENT = 2
"""Of the expected signal, as in prioritized replay (Schaul et al. 2016, arXiv:1511.05952): with 1, most draws would
still go to the many prompts of which little is expected."""
DISCOUNT = 0.75
"""Weight of an observation for each round of its age: half after two or three rounds. Of 0.4 to 0.95 it predicted best
which groups of the built-in policy would have signal (docs/log.md)."""
PRIOR_WEIGHT = 0.5
"""The prior counts as much as half a group. Where most prompts are solved always or never, p ~ Beta(0.3, 0.3), a group
of 8 that all pass brings the mean of p (1 - p) to 0.32 of what it was; half a pseudo-group, to 1/3."""
PRIOR_SIGNAL = 1 / 3
"""Mean of 2 p (1 - p) for a uniform p: what a client expects of a prompt before its first round."""

Chances = npt.NDArray[np.float64]


class ShardReader:
    """The prompts of each round of one client."""

    def __init__(
        self, config: RunConfig, shard: Sequence[Problem], reader: str, block: int, record: SignalRecord
    ) -> None:
        """Prepare to read a shard.

        Args:
            shard: whole blocks, one after another (`in_blocks`).
            reader: name of the client.
            block: prompts that are read together.
        """
        self._config, self._shard, self._reader, self._block, self._record = config, shard, reader, block, record
        self._by_signal = config.train.prompt_selection == "signal"
        starts = range(0, len(shard) - block + 1, block) if self._by_signal else ()
        self._units = [unit_of(shard[start : start + block]) for start in starts]

    def next(self, task: TrainTask) -> list[Problem]:
        """Return the prompts of a round: a function of the settings, the client, its position, and its rounds that
        counted, so a round that is asked for again has the same ones."""
        count, block, seed = self._config.prompts_per_round, self._block, self._config.federation.seed
        if not self._by_signal:
            order = reading_order(len(self._shard), task.position, count, seed=seed, reader=self._reader, block=block)
            return [self._shard[i] for i in order]
        past, lost = self._record.counted(task.federation, task.position, (task.round, task.attempt))
        if lost:
            LOGGER.warning("the record of what the first %d prompts have shown is lost: they count as new", lost)
        chosen = draw(
            chances(expected_signal(self._units, past, task.round)),
            -(-count // block),
            seed=derived_seed(seed, "signal", self._reader, task.position),
        )
        return [self._shard[unit * block + offset] for unit in chosen for offset in range(block)][:count]

    def read_until(self, federation: str, position: int, number: int) -> set[int]:
        """Return the indices of the prompts that were used in the rounds up to `number`, which ended at a position.

        Raises:
            ConfigError: prompts are drawn by their signal, and the record of what was drawn is lost.
        """
        if not self._by_signal:
            seed, block = self._config.federation.seed, self._block
            return set(reading_order(len(self._shard), 0, position, seed=seed, reader=self._reader, block=block))
        past, lost = self._record.counted(federation, position, (number + 1, 0))
        if lost:
            raise ConfigError(
                f"train.prompt-selection is signal, and the record of which prompts {self._reader} drew is lost up to "
                f"prompt {lost} of {position}, so it is not known which it was trained on. Restore its folder {FOLDER}."
            )
        drawn = {unit for played in past for unit in played.units}
        starts = [k * self._block for k, unit in enumerate(self._units) if unit in drawn]
        return {start + offset for start in starts for offset in range(self._block)}

    def note(self, task: TrainTask, problems: Sequence[Problem], signals: Sequence[float]) -> None:
        """Write down what a round's prompts have shown, if prompts are drawn by it.

        Args:
            problems: the round's, in the order of training.
            signals: of as many of them as were trained on.
        """
        if not self._by_signal:
            return
        units: dict[str, list[float]] = {}
        for start in range(0, len(signals), self._block):
            stop = min(start + self._block, len(signals))
            mean = float(np.mean(signals[start:stop]))
            units.setdefault(unit_of(problems[start : start + self._block]), []).append(mean)
        end = task.position + len(signals)
        place = {"round": task.round, "attempt": task.attempt, "position": task.position, "end": end}
        self._record.add(task.federation, Played(units=units, **place))


def unit_of(problems: Iterable[Problem]) -> str:
    """Return the name of a unit, by its questions: it stays the same if the shard grows."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(hashlib.sha256(problem.question.encode()).digest())
    return digest.hexdigest()[:16]


def expected_signal(units: Sequence[str], past: Iterable[Played], number: int) -> Chances:
    """Return the expected signal of each unit in a round, from 0 to 1.

    The mean of a Beta distribution. With weights w = DISCOUNT^age, n = sum w and s = sum w * signal of a unit, and m
    the same mean over everything read so far, begun at PRIOR_SIGNAL:

        expected = (PRIOR_WEIGHT * m + s) / (PRIOR_WEIGHT + n)

    A unit that was not read yet is expected to be like those that were.
    """
    weights: dict[str, float] = {}
    sums: dict[str, float] = {}
    for played in past:
        weight = DISCOUNT ** (number - played.round)
        for unit, signals in played.units.items():
            weights[unit] = weights.get(unit, 0.0) + weight * len(signals)
            sums[unit] = sums.get(unit, 0.0) + weight * sum(signals)
    usual = (PRIOR_WEIGHT * PRIOR_SIGNAL + sum(sums.values())) / (PRIOR_WEIGHT + sum(weights.values()))
    total = np.array([sums.get(unit, 0.0) for unit in units])
    return (PRIOR_WEIGHT * usual + total) / (PRIOR_WEIGHT + np.array([weights.get(unit, 0.0) for unit in units]))


def chances(expected: Chances) -> Chances:
    """Return the probability of each unit to be drawn first.

    (1 - FLOOR) * expected^EXPONENT / sum(expected^EXPONENT) + FLOOR / units
    """
    favour = expected**EXPONENT
    return (1 - FLOOR) * favour / favour.sum() + FLOOR / len(expected)


def draw(probabilities: Chances, count: int, *, seed: int) -> list[int]:
    """Draw units one after another, each once before any is drawn again, by the probabilities of those that are left.

    The largest of log p + Gumbel noise (Kool et al. 2019, arXiv:1903.06059).
    """
    generator, drawn = np.random.default_rng(seed), list[int]()
    while len(drawn) < count:
        keys = np.log(probabilities) + generator.gumbel(size=len(probabilities))
        drawn += np.argsort(-keys, kind="stable")[: count - len(drawn)].tolist()
    return drawn
