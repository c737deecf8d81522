"""Rewards: built-in functions and sets, and an organisation's own functions. No torch."""

from .catalogue import BUILT_IN, FUNCTIONS, PENALTIES, SETS
from .loading import Reward, RewardFunction, absolute_paths, load_rewards, try_rewards

__all__ = [
    "BUILT_IN",
    "FUNCTIONS",
    "PENALTIES",
    "SETS",
    "Reward",
    "RewardFunction",
    "absolute_paths",
    "load_rewards",
    "try_rewards",
]
