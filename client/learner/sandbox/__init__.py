"""A sandbox for functions that a model wrote (docs/rewards.md says what it guarantees and what it does not).

`level()` returns what this machine supports; `call` refuses to run without a sandbox. No torch.
"""

from .calls import Limits, Outcome, Raised, Returned, call, require
from .levels import level

__all__ = ["Limits", "Outcome", "Raised", "Returned", "call", "level", "require"]
