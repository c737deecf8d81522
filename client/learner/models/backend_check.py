"""Checks of the backend settings against this machine, before a model is loaded. No torch, no vLLM."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

import httpx

from ....common.errors import ConfigError
from ....common.settings.backend import Backend

GPU = Path("/proc/driver/nvidia/version")
WITHOUT_UNSLOTH = "Or set backend.loader = transformers, which trains the same adapter."
LOOKS_FOR_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def check_backend(backend: Backend) -> None:
    """Refuse settings by which the model could not be loaded, or the sampler not started.

    Raises:
        ConfigError: a package is missing, Unsloth has no GPU, or the vLLM server does not answer.
    """
    _check_sampler(backend)
    if backend.quantization != "none" and not find_spec("bitsandbytes"):
        raise ConfigError(
            f"backend.quantization is {backend.quantization}, but bitsandbytes is not installed here. Install the "
            "extra: pip install 'fedgrpo[quantization]'; or set backend.quantization = none."
        )
    if backend.loader == "unsloth" and not find_spec("unsloth"):
        raise ConfigError(
            "backend.loader is unsloth, but Unsloth is not installed here. It needs an environment of its own: "
            f"`fedgrpo doctor` prints the versions that fit. {WITHOUT_UNSLOTH}"
        )
    if backend.loader == "unsloth" and not GPU.exists():
        raise ConfigError(f"backend.loader is unsloth, but this machine has no NVIDIA GPU. {WITHOUT_UNSLOTH}")


def _check_sampler(backend: Backend) -> None:
    other = backend.vllm_python if backend.sampler == "vllm-server" else ""
    if not backend.uses_vllm:
        return
    if backend.vllm_url:
        _check_server(backend.vllm_url)
    elif other and not _finds_vllm(other):
        raise ConfigError(f"backend.vllm-python is {other}, which is not the Python of an environment with vLLM.")
    elif not other and not find_spec("vllm"):
        raise ConfigError(
            f"backend.sampler is {backend.sampler}, but vLLM is not installed here. Install it, or install it into "
            "another environment and set backend.sampler = vllm-server and backend.vllm-python to its Python."
        )


def _finds_vllm(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", LOOKS_FOR_VLLM], timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _check_server(url: str) -> None:
    try:
        httpx.get(f"{url}/health", timeout=10, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise ConfigError(
            f"backend.vllm-url is {url}, but no vLLM server answers there ({error!r}). Start it, or correct the "
            "address."
        ) from error
