"""In which type a base model is loaded where `model.dtype` is `auto`, and with how many threads. No torch at the top.

Each organisation decides for its own machine. Small models stay float32 on one thread, whatever the machine: their
runs give the same adapter everywhere, and neither bfloat16 nor threads makes them faster.
"""

from __future__ import annotations

import os
from pathlib import Path

from ....common.settings.run_config import RunConfig

SMALL_BYTES = 100_000_000
"""Weights below this are a small model. The built-in policies have 0.6 MB, SmolLM2-135M has 269 MB."""
EXTENSIONS = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16"}
"""Flags in /proc/cpuinfo of processors that multiply bfloat16 matrices, the faster first, with their names."""
CPUINFO = Path("/proc/cpuinfo")


def processor_bfloat16() -> str:
    """Return by which extension this processor multiplies bfloat16; empty if it does not, or is not known to."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set[str]())
    return next((name for flag, name in EXTENSIONS.items() if flag in flags), "")


def automatic_dtype(config: RunConfig, weights_bytes: int, *, gpu_bfloat16: bool | None) -> str:
    """Return the type for `model.dtype = auto`: bfloat16 for a large model where the hardware multiplies it.

    Methods that add to the base's weights (`fedex`) need float32, since bfloat16 would round the sums away.

    Args:
        gpu_bfloat16: whether the GPU computes in bfloat16; None is a CPU.
    """
    if weights_bytes < SMALL_BYTES or "W" in config.method.holds:
        return "float32"
    able = bool(processor_bfloat16()) if gpu_bfloat16 is None else gpu_bfloat16
    return "bfloat16" if able else "float32"


def resolved_dtype(config: RunConfig, folder: Path, device: str = "auto") -> str:
    """Return the type in which a run's base model is loaded on this machine: `model.dtype`, with `auto` resolved."""
    if config.model.dtype != "auto":
        return config.model.dtype
    import torch

    on_gpu = torch.cuda.is_available() and device != "cpu"
    return automatic_dtype(
        config, weights_bytes(folder), gpu_bfloat16=torch.cuda.is_bf16_supported() if on_gpu else None
    )


def weights_bytes(folder: Path) -> int:
    """Return the bytes of a model folder's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_threads(folder: Path, processes: int = 1) -> int:
    """Return the threads of a process on a CPU, unless OMP_NUM_THREADS says otherwise: its share of the cores for a
    large model; one for a small one, which more threads make slower."""
    return 1 if weights_bytes(folder) < SMALL_BYTES else max(1, cores() // processes)
