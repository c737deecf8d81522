"""Federated GRPO: organisations improve one reasoning model together, and no prompt leaves any of them.

    import fedgrpo

    run = fedgrpo.simulate("builtin", clients=4, rounds=3, rewards=[my_reward])
    run.accuracy                       # held-out accuracy before and after, with its 95 % interval
    run.metrics                        # rows: pandas.DataFrame(run.metrics)
    run.adapter.to_peft("my-adapter")
    run.report()

The names below are loaded when they are first used, so `import fedgrpo` is instant and needs none of the heavy
libraries. The code is in `fedgrpo.common`, `.server`, `.client` and `.simulations`; docs/architecture.md is the map.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .common import __version__

if TYPE_CHECKING:
    from .simulations.api import Run as Run
    from .simulations.api import evaluate as evaluate
    from .simulations.api import scenarios as scenarios
    from .simulations.api import settings as settings
    from .simulations.api import simulate as simulate

_API = ("Run", "evaluate", "scenarios", "settings", "simulate")
__all__ = ["Run", "__version__", "evaluate", "scenarios", "settings", "simulate"]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module("fedgrpo.simulations.api"), name)
    raise AttributeError(f"module 'fedgrpo' has no attribute {name!r}. It has {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
