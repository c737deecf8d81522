"""What differential privacy costs in a simulation, said before it begins."""

from __future__ import annotations

from ...client.learner.privacy.rounds import PrivateRounds
from ...client.learner.privacy.spent import Spent
from ...common.settings.run_config import RunConfig
from .simulated_clients import client_name, divide


def price_in_words(config: RunConfig) -> str:
    """Return the largest epsilon that the run's rounds charge a client, and whose it is.

    The client with the fewest prompts pays most: its steps take each of them most often. Prompts that turn out to be
    too long for the model are still counted here, so what is charged can be a little more.
    """
    spent, delta, rounds = Spent(None), config.dp.delta, config.federation.rounds
    epsilons = dict[str, float]()
    for number, shard in enumerate(divide(config)[0]):
        if number in config.simulation.taking_part:
            charge = PrivateRounds(config, spent, shard, "prompt").price(federation="", number=1)
            epsilons[client_name(number)] = spent.epsilon(delta, [charge] * rounds)
    name = max(epsilons, key=lambda client: epsilons[client])
    return (
        f"noise of {config.dp.noise_multiplier:g} clip norms on each step; epsilon {epsilons[name]:.2f} at delta "
        f"{delta:g} after {rounds} {'round' if rounds == 1 else 'rounds'} for {name}, which pays most "
        "(void attempts cost more)"
    )
