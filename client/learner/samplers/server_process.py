"""A vLLM server of our own: started on loopback, with a key nobody else has, and ended with this process."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from ....common.errors import SamplerError
from . import keeper
from .scratch import scratch_folder
from .vllm_engine import ON_CPU, Serving

START_S = 900.0
LAST_WORDS = 2000
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
KEY = "VLLM_API_KEY"
MODULE = "vllm.entrypoints.openai.api_server"
_RUNNING: dict[tuple[str, Serving], ServerProcess] = {}
"""At most one: there is one to a process, as there is one model."""


def own_server(python: str, serving: Serving) -> ServerProcess:
    """This process's server: the one that runs, if it serves what is asked for, else a new one in its place.

    Raises:
        SamplerError: it does not start.
    """
    running = _RUNNING.get((python, serving))
    if running is None or running.process.poll() is not None:
        for last in _RUNNING.values():
            last.end()
        _RUNNING.clear()
        _RUNNING[python, serving] = running = ServerProcess.start(python, serving)
    return running


@dataclass
class ServerProcess:
    """A server that runs."""

    url: str
    key: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, python: str, serving: Serving) -> ServerProcess:
        """Start a server, and wait until it is ready."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        key, log = secrets.token_urlsafe(16), scratch_folder() / "server.log"
        environment = {**os.environ, **ENVIRONMENT, **(ON_CPU if serving.on_cpu else {}), KEY: key}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, keeper.__file__, python, "-m", MODULE, *_options(serving, port)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        server = cls(f"http://127.0.0.1:{port}", key, process, log)
        atexit.register(server.end)
        server._wait()
        return server

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SamplerError(f"The vLLM server ended at its start. {self.last_words()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        self.end()
        raise SamplerError(f"The vLLM server was not ready after {START_S:.0f} s. {self.last_words()}")

    def last_words(self) -> str:
        """The end of what the server said."""
        return f"Its last words:\n{self.log.read_bytes()[-LAST_WORDS:].decode(errors='replace')}"

    def end(self) -> None:
        """End it and all it has started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _options(serving: Serving, port: int) -> list[str]:
    options = {
        "model": serving.model,
        "host": "127.0.0.1",
        "port": port,
        "dtype": serving.dtype,
        "max-model-len": serving.max_tokens,
        "max-lora-rank": serving.max_rank,
        "gpu-memory-utilization": serving.memory_share,
        "logprobs-mode": "processed_logprobs",
        "served-model-name": "base",
        "seed": serving.seed,
        **({} if serving.quantization == "none" else {"quantization": serving.quantization}),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["--enable-lora", *words, *(["--enforce-eager"] if serving.on_cpu else [])]
