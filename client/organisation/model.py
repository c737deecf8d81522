"""The [model] section of an organisation's file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...common.bounds import at_least
from ...common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The base model, as it lies on this machine."""

    name: str = ""
    """What the federation's settings call it: the server's `model.name` must be this."""
    folder: str = ""
    """Where it lies; empty takes `builtin`, or the Hub's cache."""
    revision: str = ""
    """Hub revision; empty is the default branch."""
    sha256: str = ""
    """Pins weights, tokenizer and chat template. `fedgrpo client check` prints it."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; `cpu`; `cuda`, or `cuda:1`."""
    rank: int = 0
    """Rank of this organisation's own adapter, where it is to be smaller than the federation's; 0 takes that one."""

    def __post_init__(self) -> None:
        at_least("model.rank", self.rank, 0, "0 takes the federation's")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"model.device is {self.device!r}. Use auto, cpu, cuda or cuda:1.")
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigError("model.sha256 is not 64 hexadecimal digits. `fedgrpo client check` prints the right one.")
