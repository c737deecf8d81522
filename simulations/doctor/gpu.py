"""The GPUs of this machine, as NVIDIA's own tool tells them: PyTorch takes seconds to ask."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

QUERY = ("name", "memory.total", "memory.used", "driver_version", "compute_cap")
TIMEOUT_S = 10.0
BFLOAT16_SINCE = 8.0
"""Compute capability whose tensor cores take bfloat16: Ampere's."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    memory_bytes: int
    used_bytes: int
    driver: str
    capability: float

    @property
    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16 at full speed."""
        return self.capability >= BFLOAT16_SINCE


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs here; none where there is no driver, or it does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse(done.stdout) if done.returncode == 0 else []


def parse(text: str) -> list[Gpu]:
    """What nvidia-smi prints for `QUERY`, a line per GPU, memory in MiB; lines that are none are left out.

    >>> parse("NVIDIA L4, 23034, 12, 550.54, 8.9")[0].memory_bytes
    24152899584
    """
    found: list[Gpu] = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        try:
            name, total, used, driver, capability = fields
            found.append(Gpu(name, int(total) << 20, int(used) << 20, driver, float(capability)))
        except ValueError:
            continue
    return found
