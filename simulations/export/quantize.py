"""Quantized GGUF types, made by llama.cpp's own program, so that its arithmetic is exactly the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ...common.errors import ConfigError, RunError

PROGRAM = "llama-quantize"
QUANTISED = ("q4_k_m", "q5_k_m", "q8_0")


def quantizer() -> str:
    """Return the path of llama-quantize.

    Raises:
        ConfigError: it is not on PATH.
    """
    path = shutil.which(PROGRAM)
    if path is None:
        raise ConfigError(
            f"{PROGRAM} is not on PATH. It is part of llama.cpp and makes the types {', '.join(QUANTISED)}; --type "
            "f16 and f32 do not need it."
        )
    return path


def quantize(program: str, source: Path, target: Path, kind: str) -> None:
    """Quantize a GGUF file.

    Raises:
        RunError: the program failed, or did not write a file; quotes its last lines.
    """
    process = subprocess.run(
        [program, str(source), str(target), kind.upper()], capture_output=True, text=True, errors="replace", check=False
    )
    if process.returncode != 0 or not target.is_file() or not target.stat().st_size:
        output = " / ".join((process.stderr or process.stdout).strip().splitlines()[-3:]) or "nothing"
        raise RunError(
            f"{PROGRAM} ended with status {process.returncode} and did not write {kind}. Its output: {output}"
        )
