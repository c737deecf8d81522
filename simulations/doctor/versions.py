"""The versions that go together: what pyproject.toml allows, and the sets that were resolved and tested. One place.

pip keeps the bounds when it installs; this finds what was installed past it.
`tests/simulations/test_doctor.py` holds `BOUNDS` and pyproject.toml in step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

from .finding import BROKEN, NOTE, OK, Finding

BASE = ("flwr", "numpy", "safetensors", "cryptography", "httpx", "rich", "starlette", "typer", "uvicorn")
TRAIN = ("torch", "transformers", "trl", "peft", "datasets")
BOUNDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "flwr": ("1.41", "1.42"),
        "numpy": ("1.26", ""),
        "safetensors": ("0.4", ""),
        "cryptography": ("44", ""),
        "httpx": ("0.28", ""),
        "rich": ("14", ""),
        "starlette": ("1", ""),
        "typer": ("0.13", ""),
        "uvicorn": ("0.30", ""),
        "torch": ("2.9", ""),
        "transformers": ("5.17", "5.24"),
        "trl": ("1.14.2", "1.17"),
        "peft": ("0.21", "0.22"),
        "datasets": ("4.8", ""),
    }
)
"""From this version, and below that one; empty has no end."""
REFUSED = {("trl", "1.15.0"): "it cannot train on a CPU"}
BESIDE_UNSLOTH: Mapping[str, str] = MappingProxyType({"trl": "1.15.1", "transformers": "5.17.1", "datasets": "5"})
"""Unsloth 2026.10 needs versions below these."""
SETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "base": {"trl": "1.16.0", "transformers": "5.23.0", "datasets": "5.2.0", "flwr": "1.41.0"},
        "vllm": {
            "trl": "1.16.0",
            "transformers": "5.23.0",
            "torch": "2.11.0",
            "datasets": "5.2.0",
            "flwr": "1.41.0",
            "vllm": "0.22.1",
        },
        "vllm, fastapi overridden": {
            "trl": "1.16.0",
            "transformers": "5.17.0",
            "torch": "2.13.0",
            "datasets": "5.2.0",
            "flwr": "1.41.0",
            "vllm": "0.31.0",
        },
        "unsloth": {
            "trl": "1.14.2",
            "transformers": "5.17.0",
            "torch": "2.14.1",
            "datasets": "4.8.5",
            "flwr": "1.41.0",
            "unsloth": "2026.10.7",
        },
        "vllm and unsloth, fastapi overridden": {
            "trl": "1.14.2",
            "transformers": "5.17.0",
            "torch": "2.13.0",
            "datasets": "4.8.5",
            "flwr": "1.41.0",
            "vllm": "0.30.0",
            "unsloth": "2026.10.7",
        },
    }
)
"""Sets that resolve together. The first is what constraints.txt pins and the tests run on; torch may be any there."""
FASTAPI_OF_FLWR = "0.138"
ENGINES = ("bitsandbytes", "vllm", "unsloth", "fastapi")


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Name -> version of those that are installed; nothing is imported."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def check_versions(found: Mapping[str, str]) -> list[Finding]:
    """What is installed, against the bounds, and against the tested sets.

    Args:
        found: name -> version of what is installed, of `BOUNDS` and `ENGINES`.
    """
    findings = [_package(name, found[name]) for name in BOUNDS if name in found]
    return [*findings, *_missing(found), *_beside_unsloth(found), *_beside_vllm(found), _set(found)]


def as_numbers(text: str) -> tuple[int, ...]:
    """A release as numbers, without what follows it.

    >>> as_numbers("2.13.0+cpu") < as_numbers("2.14"), as_numbers("1.17.0rc1")
    (True, (1, 17, 0))
    """
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _package(name: str, has: str) -> Finding:
    low, high = BOUNDS[name]
    wanted = f"{low} or newer" + (f", below {high}" if high else "")
    if (name, has) in REFUSED:
        return Finding(name, BROKEN, f"{has}: {REFUSED[name, has]}", f"pip install '{name}!={has},<{high}'")
    if as_numbers(has) < as_numbers(low) or (high and as_numbers(has) >= as_numbers(high)):
        pin = f"{name}>={low}" + (f",<{high}" if high else "")
        return Finding(name, BROKEN, f"{has}, but supported is {wanted}", f"pip install '{pin}'")
    return Finding(name, OK, has)


def _missing(found: Mapping[str, str]) -> list[Finding]:
    absent = [name for name in TRAIN if name not in found]
    findings = [
        Finding(n, BROKEN, "not installed", "pip install fedgrpo") for n in BASE if n not in found and n != "flwr"
    ]
    if "flwr" not in found and len(absent) == 0:
        said = "not installed: this environment can run `fedgrpo learner`, and nothing else"
        findings.append(Finding("flwr", NOTE, said, "pip install 'flwr>=1.41,<1.42' for all other commands"))
    elif "flwr" not in found:
        findings.append(Finding("flwr", BROKEN, "not installed", "pip install 'flwr>=1.41,<1.42'"))
    if len(absent) == len(TRAIN):
        said = "not installed: a server, a relay and a plan need none of it"
        findings.append(Finding("training", NOTE, said, "pip install 'fedgrpo[train]' to train or simulate"))
    elif absent:
        said = f"{', '.join(absent)} not installed, so nothing can be trained here"
        findings.append(Finding("training", BROKEN, said, "pip install 'fedgrpo[train]'"))
    return findings


def _beside_unsloth(found: Mapping[str, str]) -> list[Finding]:
    if "unsloth" not in found:
        return []
    wrong = [n for n, below in BESIDE_UNSLOTH.items() if n in found and as_numbers(found[n]) >= as_numbers(below)]
    if not wrong:
        return []
    said = "with unsloth, " + ", ".join(f"{name} must be below {BESIDE_UNSLOTH[name]}" for name in wrong)
    pins = " ".join(f"{name}=={SETS['unsloth'][name]}" for name in wrong)
    return [Finding("unsloth's set", BROKEN, said, f"pip install {pins}, or unsloth in an environment of its own")]


def _beside_vllm(found: Mapping[str, str]) -> list[Finding]:
    if not {"vllm", "flwr", "fastapi"} <= found.keys() or as_numbers(found["fastapi"]) >= as_numbers(FASTAPI_OF_FLWR):
        return []
    said = f"fastapi {found['fastapi']}, as vLLM wants it; flwr 1.41 needs {FASTAPI_OF_FLWR} or newer"
    todo = f"pip install 'fastapi>={FASTAPI_OF_FLWR}' over vLLM's wish (it runs), or vLLM in an environment of its own"
    return [Finding("vllm beside flwr", BROKEN, said, f"{todo} (backend.vllm-python)")]


def _set(found: Mapping[str, str]) -> Finding:
    """Which tested set this environment is, or from which it differs least."""
    engines = {name for name in ("vllm", "unsloth") if name in found}
    candidates = {name: pins for name, pins in SETS.items() if engines == {"vllm", "unsloth"} & pins.keys()}

    def differing(name: str) -> list[str]:
        have = ((package, pin, found.get(package)) for package, pin in candidates[name].items())
        return [f"{p} {h or 'absent'} and not {pin}" for p, pin, h in have if as_numbers(h or "") != as_numbers(pin)]

    nearest = min(candidates, key=lambda name: len(differing(name)))
    if not differing(nearest):
        return Finding("version set", OK, f"the tested set '{nearest}'")
    if all(name not in found for name in TRAIN):
        return Finding("version set", OK, "without training; see flwr above")
    said = f"none of the tested sets; nearest is '{nearest}', but for {', '.join(differing(nearest))}"
    return Finding("version set", NOTE, said, "pip install -c constraints.txt for the one the tests run on")
