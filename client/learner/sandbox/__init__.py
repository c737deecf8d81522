"""Calls functions that a model wrote, where they can harm nobody (docs/rewards.md says what is promised and what not).

`level()` says what this machine can do; `call` refuses where it can do nothing. No torch.
"""

from .calls import Limits, Outcome, Raised, Returned, call, require
from .levels import level

__all__ = ["Limits", "Outcome", "Raised", "Returned", "call", "level", "require"]
