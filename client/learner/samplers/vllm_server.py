"""The sampler that is a vLLM server, over HTTP. vLLM is not imported: it may live in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from ....common.errors import SamplerError
from ....common.seeds import derived_seed
from . import Sampled, Sampling
from .hot_adapter import HotAdapter, cache_salt
from .server_process import KEY, ServerProcess

ANSWER_S = 3600.0
AT_ONCE = 64


class VllmServer:
    """Samples over HTTP: from a server that runs already, or from one that was started for it.

    Adapters are handed over as a path, so the server must see this machine's files.
    """

    def __init__(
        self, ends: tuple[int, ...], adapter: HotAdapter, *, url: str, process: ServerProcess | None = None
    ) -> None:
        """Reach a server.

        Args:
            ends: tokens that end a completion.
            url: where it is. The key of a server that is not ours is in VLLM_API_KEY, if it has one.
            process: the server, where it is ours.

        Raises:
            SamplerError: it does not answer.
        """
        self._adapter, self._ends, self._process = adapter, ends, process
        self._name = f"policy-{os.getpid()}-{secrets.token_hex(3)}"
        key = process.key if process else os.environ.get(KEY, "")
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=ANSWER_S,
            limits=httpx.Limits(max_connections=AT_ONCE),
            trust_env=False,
        )
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
            "cache_salt": salt,
        }
        seeds = [None if sampling.seed is None else derived_seed(sampling.seed, i) for i in range(len(prompts))]
        requests = [asked | {"prompt": ids, "seed": seed} for ids, seed in zip(prompts, seeds, strict=True)]
        return list(self._threads.map(self._complete, requests))

    def close(self) -> None:
        """Take the adapter off the server. One that is ours ends with this process."""
        with contextlib.suppress(SamplerError):
            self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": self._name})
        self._threads.shutdown(cancel_futures=True)
        self._http.close()
        self._adapter.close()

    def _base_model(self) -> str:
        models = self._ask("GET", "/v1/models")["data"]
        return next(model["id"] for model in models if not model.get("parent"))

    def _loaded(self) -> str:
        """Have the server load the adapter as it stands now; returns the salt of its prefix cache."""
        folder, changed = self._adapter.folder()
        if changed:
            adapter = {"lora_name": self._name, "lora_path": str(folder), "load_inplace": True}
            try:
                self._ask("POST", "/v1/load_lora_adapter", adapter)
            except BaseException:  # Ctrl-C among them: else the next completions would be the last adapter's
                self._adapter.forget()
                raise
        return cache_salt(folder)

    def _complete(self, request: dict[str, Any]) -> list[Sampled]:
        choices = self._ask("POST", "/v1/completions", request)["choices"]
        return [_sampled(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            reply = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            said = self._process.last_words() if self._process else "Is it running? backend.vllm-url names it."
            raise SamplerError(
                f"The vLLM server at {self._http.base_url} does not answer ({error!r}). {said}"
            ) from error
        if reply.status_code != 200:
            hint = ""
            if reply.status_code in (404, 405) and "lora" in path:
                hint = " Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
            raise SamplerError(f"The vLLM server refused {path} ({reply.status_code}): {reply.text[:500]}{hint}")
        return reply.json() if reply.headers.get("content-type", "").startswith("application/json") else None


def _sampled(choice: dict[str, Any]) -> Sampled:
    tokens, logprobs = choice.get("token_ids"), choice["logprobs"]["token_logprobs"]
    if not tokens:
        raise SamplerError("The vLLM server returns no token ids. It needs vLLM 0.10.2 or newer.")
    known = [float("nan") if one is None else float(one) for one in logprobs]
    return Sampled(tokens, ended=choice["finish_reason"] == "stop", logprobs=known)
