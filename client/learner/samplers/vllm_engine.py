"""The sampler on a vLLM engine in this process: the only file that imports vLLM."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....common.errors import ConfigError, SamplerError
from ....common.seeds import derived_seed
from . import Sampled, Sampling
from .adapter_folder import HotAdapter, cache_salt

NUMBERS = itertools.count(1)
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The requirements that an engine has to meet."""

    model: Path
    dtype: str
    quantization: str
    """`none`, or `bitsandbytes`."""
    max_tokens: int
    """Tokens of prompt and completion together. Held-out prompts may be longer than training prompts."""
    max_rank: int
    memory_share: float
    on_cpu: bool
    ends: tuple[int, ...]
    """Tokens that end a completion."""


class VllmEngine:
    """A sampler on the process's engine, which loads the base model once and replaces the adapter in place."""

    def __init__(self, serving: Serving, adapter: HotAdapter) -> None:
        self._llm, self._adapter, self._ends = _engine(serving), adapter, serving.ends
        self._number = next(NUMBERS)

    def sample(
        self, prompts: Sequence[list[int]], sampling: Sampling, *, count: int = 1, base: bool = False
    ) -> list[list[Sampled]]:
        """See `Sampler.sample`."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        lora, salt = (None, "base") if base else self._lora()
        parameters = [
            SamplingParams(
                n=count,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                seed=None if sampling.seed is None else derived_seed(sampling.seed, number),
                logprobs=0,
                stop_token_ids=list(self._ends),
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        inputs: list[Any] = [{"prompt_token_ids": ids, "cache_salt": salt} for ids in prompts]
        try:
            outputs = self._llm.generate(inputs, parameters, use_tqdm=False, lora_request=lora)
        except (RuntimeError, ValueError) as error:
            raise SamplerError(f"vLLM failed: {error}") from error
        return [[_sampled(output) for output in one.outputs] for one in outputs]

    def _lora(self) -> tuple[Any, str]:
        """Return (vLLM's request for the current adapter, the salt of its prefix cache).

        A changed adapter replaces the last one here, once. With `load_inplace` in the sampling request itself, vLLM
        would read the files again at every decoding step.
        """
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        folder, changed = self._adapter.folder()
        name = f"policy-{self._number}"
        if changed:
            self._load(LoRARequest(name, self._number, str(folder), load_inplace=True))
        return LoRARequest(name, self._number, str(folder)), cache_salt(folder)

    def _load(self, request: Any) -> None:
        loaded = False
        try:
            self._llm.llm_engine.add_lora(request)
            loaded = True
        except (RuntimeError, ValueError, OSError) as error:
            raise SamplerError(f"vLLM cannot load the adapter: {error}") from error
        finally:
            if not loaded:  # also after Ctrl-C: the next completions must not come from the last adapter
                self._adapter.forget()

    def close(self) -> None:
        """Remove the adapter's files. The engine stays with the process, for the next run."""
        self._adapter.close()


def _sampled(output: Any) -> Sampled:
    tokens = list(output.token_ids)
    logprobs = [of[token].logprob for token, of in zip(tokens, output.logprobs, strict=True)]
    return Sampled(tokens, ended=output.finish_reason == "stop", logprobs=logprobs)


@lru_cache(maxsize=1)
def _engine(serving: Serving) -> Any:
    """Return the process's engine. vLLM frees its memory only when the process ends, so there is never a second one."""
    if _engine.cache_info().currsize:
        raise ConfigError("This process already has a vLLM engine for other settings. Restart the learner.")
    os.environ.update({**QUIET, **(ON_CPU if serving.on_cpu else {})})
    try:
        from vllm import LLM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"backend.sampler is vllm, but vLLM cannot be imported here ({error}). Install it, or "
            "set backend.sampler = vllm-server and backend.vllm-python to the Python of another environment."
        ) from error
    quantized = {} if serving.quantization == "none" else {"quantization": serving.quantization}
    try:
        return LLM(
            model=str(serving.model),
            dtype=serving.dtype,
            max_model_len=serving.max_tokens,
            enable_lora=True,
            max_lora_rank=serving.max_rank,
            gpu_memory_utilization=serving.memory_share,
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            enforce_eager=serving.on_cpu,
            **quantized,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"vLLM cannot serve {serving.model}: {error}") from error
