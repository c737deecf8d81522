"""The Python API, as `import fedgrpo` exports it. Everything here wraps what the commands use; no logic of its own."""

from .evaluation import evaluate
from .run import Run
from .simulation import scenarios, settings, simulate

__all__ = ["Run", "evaluate", "scenarios", "settings", "simulate"]
