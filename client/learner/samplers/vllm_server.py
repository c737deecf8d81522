"""The sampler on a vLLM server, over HTTP. vLLM is not imported: it may be installed in another environment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any

import httpx

from ....common.errors import SamplerError
from ....common.seeds import derived_seed
from . import Sampled, Sampling
from .adapter_folder import HotAdapter, cache_salt
from .server_process import ServerProcess

ANSWER_S = 3600.0
AT_ONCE = 64
KEY = "VLLM_API_KEY"


class VllmServer:
    """A sampler over HTTP, on a server that runs already or on one that was started for it.

    The server gets the path of the adapter, so it must see this machine's files.
    """

    def __init__(
        self, ends: tuple[int, ...], adapter: HotAdapter, *, url: str = "", process: ServerProcess | None = None
    ) -> None:
        """Connect to a server.

        Args:
            ends: tokens that end a completion.
            url: address of an external server. Its key, if it has one, is in VLLM_API_KEY.
            process: the server, if it was started by this process.

        Raises:
            SamplerError: the server does not answer.
        """
        self._adapter, self._ends, self._process = adapter, ends, process
        self._url = url or "http://own-server"
        self._prefix, self._name = f"policy-{os.getpid()}-{secrets.token_hex(3)}", ""
        self._base = asyncio.run(self._base_model())

    def sample(
        self, prompts: Sequence[list[int]], sampling: Sampling, *, count: int = 1, base: bool = False
    ) -> list[list[Sampled]]:
        """See `Sampler.sample`. Each prompt is one request; the server batches them."""
        salt = "base" if base else self._loaded()
        shared = {
            "model": self._base if base else self._name,
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
        requests = [shared | {"prompt": ids, "seed": seed} for ids, seed in zip(prompts, seeds, strict=True)]
        replies = asyncio.run(self._all(requests))
        return [[_sampled(choice) for choice in sorted(one, key=lambda choice: choice["index"])] for one in replies]

    def close(self) -> None:
        """Unload the adapter from the server. A server started by this process ends with it."""
        asyncio.run(self._unload(self._name))
        self._adapter.close()

    def _loaded(self) -> str:
        """Make the server load the current adapter, and return the salt of its prefix cache.

        Each adapter gets a new name: a server remembers `load_inplace` with the name, and then reads the files again at
        every decoding step.
        """
        folder, changed = self._adapter.folder()
        if changed:
            name = f"{self._prefix}-{folder.name}"
            try:
                asyncio.run(self._load(name, str(folder), self._name))
                self._name = name
            except BaseException:  # also after Ctrl-C: the next completions must not come from another adapter
                self._adapter.forget()
                raise
        return cache_salt(folder)

    async def _base_model(self) -> str:
        async with self._http() as http:
            models = (await self._ask(http, "GET", "/v1/models"))["data"]
        return next(model["id"] for model in models if not model.get("parent"))

    async def _load(self, name: str, folder: str, last: str) -> None:
        async with self._http() as http:
            await self._ask(http, "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        await self._unload(last)

    async def _unload(self, name: str) -> None:
        if name:
            with contextlib.suppress(SamplerError):
                async with self._http() as http:
                    await self._ask(http, "POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def _all(self, requests: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        async with self._http() as http:

            async def choices(request: dict[str, Any]) -> list[dict[str, Any]]:
                return (await self._ask(http, "POST", "/v1/completions", request))["choices"]

            pending: list[Coroutine[Any, Any, list[dict[str, Any]]]] = [choices(request) for request in requests]
            return await asyncio.gather(*pending)

    def _http(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=AT_ONCE)
        key = "" if self._process else os.environ.get(KEY, "")
        socket = str(self._process.socket) if self._process else None
        return httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_S, connect=30.0),
            transport=httpx.AsyncHTTPTransport(uds=socket, limits=limits),
            trust_env=False,
        )

    async def _ask(self, http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            reply = await http.request(method, path, json=body)
        except httpx.HTTPError as error:
            cause = self._process.last_words() if self._process else f"backend.vllm-url is {self._url}. Is it running?"
            raise SamplerError(f"The vLLM server does not answer ({error!r}). {cause}") from error
        if reply.status_code != 200:
            hint = ""
            if reply.status_code in (404, 405) and "lora" in path:
                hint = " Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
            raise SamplerError(f"The vLLM server refused {path} ({reply.status_code}): {reply.text[:500]}{hint}")
        return reply.json() if reply.headers.get("content-type", "").startswith("application/json") else None


def _sampled(choice: dict[str, Any]) -> Sampled:
    tokens, logprobs = choice.get("token_ids"), choice["logprobs"]["token_logprobs"]
    if not tokens:
        raise SamplerError("The vLLM server does not return token ids. Update it to vLLM 0.10.2 or newer.")
    known = [float("nan") if one is None else float(one) for one in logprobs]
    return Sampled(tokens, ended=choice["finish_reason"] == "stop", logprobs=known)
