"""Charges to a privacy budget."""

from fedgrpo.client.learner.privacy.spent import Charge


def charge(**changes):
    """The cost of a training of 10 steps on 80 prompts."""
    values = {
        "federation": "fed-1",
        "round": 1,
        "attempt": 1,
        "noise_multiplier": 1.5,
        "clip_norm": 0.1,
        "rate": 0.1,
        "steps": 10,
        "units": 80,
        "unit": "prompt",
        "data": "0" * 64,
    }
    return Charge(**{**values, **changes})
