"""The private rounds of one client: what each costs, and which units its steps take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....common.messages.messages import TrainTask
from ....common.messages.metric_names import LARGEST_EPSILON
from ....common.settings.run_config import RunConfig
from ..data.problems import Problem
from ..data.tables import fingerprint
from .price import Price, price_of_run
from .sampling import poisson_batches, prompts_of, rate_of, units_of
from .spent import Charge, Spent


class PrivateRounds:
    """The units of a shard, the rate at which steps take them, and the budget that rounds are charged to."""

    def __init__(self, config: RunConfig, spent: Spent, shard: Sequence[Problem], unit: str) -> None:
        self._config, self._spent, self._shard, self._unit = config, spent, shard, unit
        self._units = units_of(shard)
        self._data = fingerprint(shard)
        self.rate = rate_of(len(self._units), config.grpo.prompts_per_step)

    @property
    def expected_units(self) -> float:
        """Return the number of units that a step takes on average."""
        return self.rate * len(self._units)

    def charge(self, task: TrainTask) -> float:
        """Charge a round, before its work begins, and return the epsilon that is spent with it, in all runs together.

        Raises:
            PolicyError: it would exceed the organisation's budget.
        """
        charged = self.price(federation=task.federation, number=task.round, attempt=task.attempt)
        return min(self._spent.charge(charged, self._config.dp.delta), LARGEST_EPSILON)

    def price(self, *, federation: str, number: int, attempt: int = 1) -> Charge:
        """Return what a round costs."""
        return Charge(
            federation=federation,
            round=number,
            attempt=attempt,
            noise_multiplier=self._config.dp.noise_multiplier,
            clip_norm=self._config.dp.clip_norm,
            rate=self.rate,
            steps=self._config.train.steps_per_round,
            units=len(self._units),
            unit=self._unit,
            data=self._data,
        )

    def run_price(self, spent: Spent, parameters: int) -> Price:
        """Return the price of the whole run, over what is spent already.

        Args:
            parameters: factors that train in one round.
        """
        config = self._config
        charge = self.price(federation="", number=1)
        return price_of_run(
            spent, charge, rounds=config.federation.rounds, delta=config.dp.delta, parameters=parameters
        )

    def batches(self, system_prompt: str) -> list[list[list[dict[str, Any]]]]:
        """Draw the units of each step of a round, and return the rows of their prompts."""
        settings = self._config.dp
        drawn = poisson_batches(len(self._units), self.rate, self._config.train.steps_per_round)
        chosen = [[prompts_of(self._units[u], settings.prompts_per_unit) for u in batch] for batch in drawn]
        return [[[self._shard[i].row(system_prompt) for i in unit] for unit in batch] for batch in chosen]
