"""The sampler that is a vLLM server, over HTTP. vLLM is not imported: it may live in an environment of its own."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx

from ....common.errors import ConfigError, SamplerError
from ....common.seeds import derived_seed
from . import Sampled, Sampling, keeper
from .hot_adapter import HotAdapter
from .vllm_engine import ON_CPU, Serving

START_S = 900.0
ANSWER_S = 3600.0
AT_ONCE = 64
LAST_WORDS = 2000
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
KEY = "VLLM_API_KEY"


class VllmServer:
    """Samples over HTTP: from a server that runs already, or from one that is started here and ended with this process.

    Adapters are handed over as a path, so the server must see this machine's files.
    """

    def __init__(self, serving: Serving, adapter: HotAdapter, *, url: str, command: str) -> None:
        """Reach the server, or start one.

        Args:
            url: of a running server; empty starts `command`. Its key, if it has one, is in VLLM_API_KEY.

        Raises:
            ConfigError: the command is not there.
            SamplerError: the server does not answer.
        """
        self._adapter, self._ends, self._own = adapter, serving.ends, None
        key = os.environ.get(KEY, "")
        if not url:
            key = secrets.token_urlsafe(16)
            self._own = _Process.start(command, serving, key)
            url = self._own.url
        self._name = f"policy-{os.getpid()}-{secrets.token_hex(3)}"
        limits = httpx.Limits(max_connections=AT_ONCE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=ANSWER_S, limits=limits, trust_env=False)
        self._threads = ThreadPoolExecutor(AT_ONCE)
        try:
            self._base = self._base_model()
        except BaseException:
            self.close()
            raise

    def sample(
        self, prompts: Sequence[list[int]], sampling: Sampling, *, count: int = 1, base: bool = False
    ) -> list[list[Sampled]]:
        """See `Sampler.sample`. One request a prompt; the server batches them."""
        model, salt = (self._base, "base") if base else (self._name, self._loaded())
        asked = {
            "model": model,
            "n": count,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": list(self._ends),
            "cache_salt": salt,  # what was computed with another adapter is not used again
        }
        seeds = [None if sampling.seed is None else derived_seed(sampling.seed, i) for i in range(len(prompts))]
        requests = [asked | {"prompt": ids, "seed": seed} for ids, seed in zip(prompts, seeds, strict=True)]
        return list(self._threads.map(self._complete, requests))

    def close(self) -> None:
        """End the server if it is ours, else take the adapter off it."""
        if self._own is None:
            self._quietly("/v1/unload_lora_adapter", {"lora_name": self._name})
        self._threads.shutdown(cancel_futures=True)
        self._http.close()
        self._adapter.close()
        if self._own is not None:
            self._own.end()

    def _base_model(self) -> str:
        models = self._ask("GET", "/v1/models")["data"]
        return next(model["id"] for model in models if not model.get("parent"))

    def _loaded(self) -> str:
        """The folder of the adapter as it stands now, which the server has loaded."""
        folder, changed = self._adapter.folder()
        if changed:
            adapter = {"lora_name": self._name, "lora_path": str(folder), "load_inplace": True}
            self._ask("POST", "/v1/load_lora_adapter", adapter)
        return str(folder)

    def _complete(self, request: dict[str, Any]) -> list[Sampled]:
        choices = self._ask("POST", "/v1/completions", request)["choices"]
        return [_sampled(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            reply = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            said = self._own.last_words() if self._own else "Is it running? backend.vllm-url names it."
            raise SamplerError(
                f"The vLLM server at {self._http.base_url} does not answer ({error!r}). {said}"
            ) from error
        if reply.status_code != 200:
            hint = ""
            if reply.status_code in (404, 405) and "lora" in path:
                hint = " Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
            raise SamplerError(f"The vLLM server refused {path} ({reply.status_code}): {reply.text[:500]}{hint}")
        return reply.json() if reply.headers.get("content-type", "").startswith("application/json") else None

    def _quietly(self, path: str, body: dict[str, Any]) -> None:
        try:
            self._ask("POST", path, body)
        except SamplerError:
            return


def _sampled(choice: dict[str, Any]) -> Sampled:
    tokens, logprobs = choice.get("token_ids"), choice["logprobs"]["token_logprobs"]
    if not tokens:
        raise SamplerError("The vLLM server returns no token ids. It needs vLLM 0.10.2 or newer.")
    known = [float("nan") if one is None else float(one) for one in logprobs]
    return Sampled(tokens, ended=choice["finish_reason"] == "stop", logprobs=known)


@dataclass
class _Process:
    """A server of our own on loopback, with a key that nobody else has."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: str, serving: Serving, key: str) -> _Process:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = Path(mkdtemp(prefix="fedgrpo-vllm-")) / "server.log"
        environment = {**os.environ, **ENVIRONMENT, **(ON_CPU if serving.on_cpu else {}), KEY: key}
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, keeper.__file__, command, "serve", *_options(serving, port)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        server = cls(f"http://127.0.0.1:{port}", process, log)
        server._wait(command)
        return server

    def _wait(self, command: str) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                if "FileNotFoundError" in self.last_words():
                    raise ConfigError(
                        f"There is no command {command!r}. Set backend.vllm-command to vLLM's executable."
                    )
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
        """The end of the server's log, and where all of it is."""
        text = self.log.read_bytes()[-LAST_WORDS:].decode(errors="replace")
        return f"All it said is in {self.log}; its last words:\n{text}"

    def end(self) -> None:
        """End it and all it has started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _options(serving: Serving, port: int) -> list[str]:
    options = {
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
    return [str(serving.model), "--enable-lora", *words, *(["--enforce-eager"] if serving.on_cpu else [])]
