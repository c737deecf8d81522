"""Quantised GGUF types, by llama.cpp's own program: nobody else's arithmetic would be its."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ...common.errors import ConfigError, RunError

PROGRAM = "llama-quantize"
QUANTISED = ("q4_k_m", "q5_k_m", "q8_0")


def quantizer() -> str:
    """Path of llama-quantize.

    Raises:
        ConfigError: it is not on PATH.
    """
    found = shutil.which(PROGRAM)
    if found is None:
        raise ConfigError(
            f"{PROGRAM} is not on PATH. It comes with llama.cpp and makes the types {', '.join(QUANTISED)}; --type "
            "f16 and f32 need nothing."
        )
    return found


def quantize(program: str, source: Path, target: Path, kind: str) -> None:
    """Quantise a GGUF file.

    Raises:
        RunError: the program failed, or left no file; its last lines are told.
    """
    done = subprocess.run(
        [program, str(source), str(target), kind.upper()], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0 or not target.is_file() or not target.stat().st_size:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:]) or "nothing"
        raise RunError(f"{PROGRAM} ended with status {done.returncode} and made no {kind}. It said: {said}")
