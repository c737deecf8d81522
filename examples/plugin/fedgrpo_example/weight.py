"""A weight: the square root of the number of prompts, between `examples` and `uniform`."""

import math

from fedgrpo.common.aggregation.weights import Weight


def root_examples(report):
    """Return sqrt(prompts trained on); `report.metrics` and `report.past_rewards` hold what else is known."""
    return math.sqrt(report.num_examples)


ROOT_EXAMPLES = Weight(
    of=root_examples,
    metrics=(),  # training metrics that each client must report
    summary="square root of the prompts trained on",
)
