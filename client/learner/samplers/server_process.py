"""A vLLM server as a child process: on a socket that only this account can reach, and ended with this process."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from ....common.errors import SamplerError
from . import child_guard
from .temp_folder import make_temp_folder
from .vllm_engine import ON_CPU, Serving

START_S = 900.0
LAST_WORDS = 2000
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
MODULE = "vllm.entrypoints.launchers.api_server.entry"  # the command `vllm` is not on every PATH
_RUNNING: dict[tuple[str, Serving], ServerProcess] = {}
"""At most one server per process, as there is one model."""


def own_server(python: str, serving: Serving) -> ServerProcess:
    """Return this process's server: the running one if it serves these settings, else a new one in its place.

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
    """A running server."""

    socket: Path
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, python: str, serving: Serving) -> ServerProcess:
        """Start a server, and wait until it is ready."""
        folder = make_temp_folder()
        log, socket = folder / "server.log", folder / "server.sock"
        environment = {**os.environ, **ENVIRONMENT, **(ON_CPU if serving.on_cpu else {})}
        environment.pop("VLLM_API_KEY", None)  # only this account can reach the socket
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, child_guard.__file__, python, "-m", MODULE, *_options(serving, socket)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        server = cls(socket, process, log)
        atexit.register(server.end)
        server._wait()
        return server

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SamplerError(f"The vLLM server ended while starting. {self.last_words()}")
            if self._healthy():
                return
            time.sleep(0.3)
        self.end()
        raise SamplerError(f"The vLLM server was not ready after {START_S:.0f} s. {self.last_words()}")

    def _healthy(self) -> bool:
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=5) as http:
                return http.get("http://own-server/health").status_code == 200
        except httpx.HTTPError:
            return False

    def last_words(self) -> str:
        """Return the end of the server's log, for a message."""
        return f"The end of its log:\n{self.log.read_bytes()[-LAST_WORDS:].decode(errors='replace')}"

    def end(self) -> None:
        """End the server and all its child processes."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _options(serving: Serving, socket: Path) -> list[str]:
    options = {
        "model": serving.model,
        "uds": socket,
        "dtype": serving.dtype,
        "max-model-len": serving.max_tokens,
        "max-lora-rank": serving.max_rank,
        "gpu-memory-utilization": serving.memory_share,
        "logprobs-mode": "processed_logprobs",
        "served-model-name": "base",
        **({} if serving.quantization == "none" else {"quantization": serving.quantization}),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["--enable-lora", *words, *(["--enforce-eager"] if serving.on_cpu else [])]
