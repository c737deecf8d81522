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

BASE = ("numpy", "safetensors", "cryptography", "httpx", "rich", "starlette", "typer", "uvicorn")
ROLES = ("server", "learner", "vllm", "unsloth")
"""Extras whose versions `BOUNDS` states, beside those of the base; `node` has what `server` has."""
LEARNER = ("torch", "transformers", "trl", "peft", "datasets")
BOUNDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "numpy": ("1.26", ""),
        "safetensors": ("0.4", ""),
        "cryptography": ("44", ""),
        "httpx": ("0.28", ""),
        "rich": ("14", ""),
        "starlette": ("1", ""),
        "typer": ("0.13", ""),
        "uvicorn": ("0.30", ""),
        "flwr": ("1.41", "1.43"),
        "torch": ("2.9", ""),
        "transformers": ("5.17", "5.24"),
        "trl": ("1.14.2", "1.17"),
        "peft": ("0.21", "0.22"),
        "datasets": ("4.8", ""),
        "vllm": ("0.31", "0.34"),
        "unsloth": ("2026.10.7", "2026.11"),
    }
)
"""From this version, and below that one; empty has no end."""
REFUSED = {("trl", "1.15.0"): "it cannot train on a CPU"}
BESIDE_UNSLOTH: Mapping[str, str] = MappingProxyType({"trl": "1.15.1", "transformers": "5.17.1", "datasets": "5"})
"""Unsloth 2026.10 needs versions below these."""
_TRL = {"trl": "1.16.0", "transformers": "5.23.0", "datasets": "5.2.0"}
_UNSLOTH = {"trl": "1.14.2", "transformers": "5.17.0", "datasets": "4.8.5", "unsloth": "2026.10.9"}
_VLLM = {"vllm": "0.33.0", "torch": "2.14.0"}
SETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "simulation": {"flwr": "1.42.0", **_TRL},
        "node,learner": {"flwr": "1.42.0", **_TRL},
        "server": {"flwr": "1.42.0"},
        "node": {"flwr": "1.42.0"},
        "simulation,unsloth": {"flwr": "1.42.0", **_UNSLOTH},
        "learner": _TRL,
        "learner,vllm": {**_TRL, "transformers": "5.20.2", **_VLLM},
        "learner,unsloth": _UNSLOTH,
        "learner,vllm,unsloth": {**_UNSLOTH, **_VLLM},
        "vllm": _VLLM,
    }
)
"""Extras -> versions that resolve together (`.ci/resolve`). What the first needs is in constraints.txt, and the tests
run on it; where torch is not named it may be any."""
MARKS = ("flwr", "trl", "vllm", "unsloth")
"""An environment is compared with the sets that have the same of these."""
FASTAPI_OF_FLWR = "0.138"
ENGINES = ("bitsandbytes", "fastapi")


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
    absent = [name for name in LEARNER if name not in found]
    findings = [Finding(n, BROKEN, "not installed", "pip install fedgrpo") for n in BASE if n not in found]
    if "flwr" not in found:
        roles = "server, node and simulation need it, a learner does not"
        remedy = "pip install 'fedgrpo[server]', 'fedgrpo[node]' or 'fedgrpo[simulation]'"
        findings.append(Finding("flwr", NOTE, f"not installed: {roles}", remedy))
    if len(absent) == len(LEARNER):
        said = "not installed: server, node and plan need none of it"
        remedy = "pip install 'fedgrpo[learner]' to train, 'fedgrpo[simulation]' to simulate"
        findings.append(Finding("training", NOTE, said, remedy))
    elif "vllm" in found and "trl" not in found:  # vLLM brings torch and transformers, and its server needs no more
        said = f"{', '.join(absent)} not installed: a vLLM server needs none of it"
        findings.append(Finding("training", NOTE, said, "pip install 'fedgrpo[learner,vllm]' to train here"))
    elif absent:
        said = f"{', '.join(absent)} not installed, so nothing can be trained here"
        findings.append(Finding("training", BROKEN, said, "pip install 'fedgrpo[learner]'"))
    return findings


def _beside_unsloth(found: Mapping[str, str]) -> list[Finding]:
    if "unsloth" not in found:
        return []
    wrong = [n for n, below in BESIDE_UNSLOTH.items() if n in found and as_numbers(found[n]) >= as_numbers(below)]
    if not wrong:
        return []
    said = "with unsloth, " + ", ".join(f"{name} must be below {BESIDE_UNSLOTH[name]}" for name in wrong)
    pins = " ".join(f"{name}=={_UNSLOTH[name]}" for name in wrong)
    return [Finding("unsloth's set", BROKEN, said, f"pip install {pins}, or unsloth in an environment of its own")]


def _beside_vllm(found: Mapping[str, str]) -> list[Finding]:
    if not {"vllm", "flwr", "fastapi"} <= found.keys() or as_numbers(found["fastapi"]) >= as_numbers(FASTAPI_OF_FLWR):
        return []
    said = f"fastapi {found['fastapi']}, as vLLM needs it; flwr needs {FASTAPI_OF_FLWR} or newer"
    todo = "vLLM in an environment of its own: pip install 'fedgrpo[learner,vllm]' there (learner.python), or "
    return [Finding("vllm beside flwr", BROKEN, said, f"{todo}'fedgrpo[vllm]' (backend.vllm-python)")]


def _set(found: Mapping[str, str]) -> Finding:
    """Return which tested set this environment is, or from which it differs least."""
    here = {mark for mark in MARKS if mark in found}
    candidates = {name: pins for name, pins in SETS.items() if here == set(MARKS) & pins.keys()}
    if not here:
        return Finding("version set", OK, "the base installation")
    if not candidates:
        said = f"no tested set has {', '.join(sorted(here))} in one environment"
        return Finding("version set", NOTE, said, "an environment for each role: docs/install.md")

    def differing(name: str) -> list[str]:
        have = ((package, pin, found.get(package)) for package, pin in candidates[name].items())
        return [f"{p} {h or 'absent'} and not {pin}" for p, pin, h in have if as_numbers(h or "") != as_numbers(pin)]

    nearest = min(candidates, key=lambda name: len(differing(name)))
    if not differing(nearest):
        return Finding("version set", OK, f"the tested set '{nearest}'")
    said = f"not a tested set; nearest is '{nearest}', but for {', '.join(differing(nearest))}"
    pins = " ".join(f"{name}=={version}" for name, version in candidates[nearest].items())
    return Finding("version set", NOTE, said, f"pip install {pins}")
