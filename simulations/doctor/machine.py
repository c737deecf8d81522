"""What of the machine matters: GPU, ports, disk, open files, threads."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...client.learner.models.precision import cores, processor_bfloat16
from ...common.cli.ports import listens
from .finding import BROKEN, NOTE, OK, Finding
from .gpu import Gpu

OLDEST_PYTHON = (3, 11)
PORTS = {
    8000: "gateway that the network sees (fedgrpo server init --port)",
    18000: "SuperLink on loopback (--superlink-port)",
}
"""Ports that are fixed unless another is given; all others are whatever is free."""
LEAST_DISK, USUAL_DISK = 200_000_000, 10_000_000_000
USUAL_FILES = 1024


def check_python() -> Finding:
    """The interpreter."""
    said = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", BROKEN, said, "use Python 3.11 or newer")
    return Finding("Python", OK, said)


def check_gpus(gpus: list[Gpu], packages: Mapping[str, str]) -> Iterator[Finding]:
    """The GPUs, and whether this PyTorch and the quantization can use them. PyTorch is not imported."""
    torch = packages.get("torch")
    for gpu in gpus:
        half = "bfloat16" if gpu.has_bfloat16 else "no bfloat16"
        free = (gpu.memory_bytes - gpu.used_bytes) / 1e9
        said = f"{gpu.name}, {gpu.memory_bytes / 1e9:.1f} GB ({free:.1f} free), driver {gpu.driver}, {half}"
        todo = "" if gpu.has_bfloat16 else "set model.dtype = float16 or float32 there"
        yield Finding("GPU", OK if gpu.has_bfloat16 else NOTE, said, todo)
    if not gpus:
        yield Finding("GPU", NOTE, "none found (nvidia-smi), so only small models train in reasonable time")
    if gpus and torch and torch.endswith("+cpu"):
        said = f"torch {torch} is built for processors only and leaves the GPU alone"
        yield Finding(
            "PyTorch", NOTE, said, "install a CUDA build to train on the GPU: https://pytorch.org/get-started"
        )
    for name, use in (("bitsandbytes", "4-bit and 8-bit weights, 8-bit AdamW"), ("vllm", "backend.sampler = vllm")):
        yield _engine(name, use, packages)
    yield _engine("unsloth", "backend.loader = unsloth", packages, needs_gpu=not gpus)


def _engine(name: str, use: str, packages: Mapping[str, str], *, needs_gpu: bool = False) -> Finding:
    if name not in packages:
        return Finding(name, OK, f"not installed; only {use} needs it")
    if needs_gpu:
        return Finding(name, NOTE, f"{packages[name]}, but it cannot even be imported without a GPU, and none is here")
    return Finding(name, OK, packages[name])


def check_ports() -> Iterator[Finding]:
    """The ports a server takes unless told otherwise."""
    for port, use in PORTS.items():
        if listens(port):
            said = f"somebody listens there; it is the default of the {use}"
            yield Finding(f"port {port}", NOTE, said, "fine if that is fedgrpo; else give another port")
        else:
            yield Finding(f"port {port}", OK, "free")


def check_disk() -> Iterator[Finding]:
    """Room for run folders, temporary files and models."""
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    for name, folder in (
        ("run folders", Path.cwd()),
        ("temporary files", Path(tempfile.gettempdir())),
        ("models", hub),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        said = f"{free / 1e9:.1f} GB free in {there}"
        if free < LEAST_DISK:
            yield Finding(f"disk for {name}", BROKEN, said, "make room: a checkpoint is written every round")
        elif free < USUAL_DISK:
            yield Finding(f"disk for {name}", NOTE, said, "enough for small runs; fedgrpo plan says what travels")
        else:
            yield Finding(f"disk for {name}", OK, said)


def check_files() -> Finding:
    """Files a process may have open: a server has some for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    said = "no limit" if unlimited else f"{soft} for a process"
    if unlimited or soft >= USUAL_FILES:
        return Finding("open files", OK, said)
    most = "unlimited" if hard == resource.RLIM_INFINITY else hard
    return Finding("open files", NOTE, said, f"raise it for a server of many clients: ulimit -n {most}")


def check_threads() -> Finding:
    """Threads of a worker's arithmetic on a CPU."""
    count = cores()
    said = os.environ.get("OMP_NUM_THREADS", "")
    if not said:
        return Finding(
            "threads",
            OK,
            f"{count} cores; on a CPU a small model takes one thread, a large one its process's share of the cores",
        )
    if not said.isdigit() or not 1 <= int(said) <= count:
        return Finding(
            "threads", NOTE, f"OMP_NUM_THREADS is {said}, and there are {count} cores", "unset it, or take 1"
        )
    return Finding("threads", OK, f"{count} cores, OMP_NUM_THREADS is {said}")


def check_bfloat16() -> Finding:
    """The type in which large models compute on this processor."""
    able = processor_bfloat16()
    if able:
        return Finding("bfloat16", OK, f"this processor multiplies it ({able}): model.dtype = auto uses it")
    said = "this processor does not multiply it (neither AMX nor AVX512-BF16): model.dtype = auto is float32"
    return Finding("bfloat16", OK, said)
