"""The choice of the sampler by the settings."""

from __future__ import annotations

import sys

from ....common.adapter.schema import AdapterSchema
from ....common.settings.run_config import RunConfig
from ..models.adapted_model import AdaptedModel
from ..models.base_model import Base
from . import Sampler
from .adapter_folder import HotAdapter, vllm_rank
from .own_model import OwnModelSampler
from .server_process import own_server
from .temp_folder import make_temp_folder
from .vllm_engine import Serving, VllmEngine
from .vllm_server import VllmServer

MULTIPLE = 256
MOST_TOKENS = 1 << 20


def make_sampler(config: RunConfig, base: Base, adapted: AdaptedModel) -> Sampler:
    """Create the sampler that `backend.sampler` names.

    Raises:
        ConfigError: vLLM is not installed, or cannot serve this model.
        SamplerError: its server did not start, or does not answer.
    """
    own, backend = OwnModelSampler(adapted, base.tokenizer), config.backend
    if not backend.uses_vllm:
        return own
    serving = _serving(config, base, adapted.schema, own.ends)
    adapter = HotAdapter(adapted, config.model.name, make_temp_folder())
    if backend.sampler == "vllm":
        return VllmEngine(serving, adapter)
    if backend.vllm_url:
        return VllmServer(serving.ends, adapter, url=backend.vllm_url)
    process = own_server(backend.vllm_python or sys.executable, serving)
    return VllmServer(serving.ends, adapter, process=process)


def _rounded_up(tokens: int) -> int:
    """Round up to a multiple, so that a run with slightly longer completions can reuse the last run's engine."""
    return -(-tokens // MULTIPLE) * MULTIPLE


def _serving(config: RunConfig, base: Base, schema: AdapterSchema, ends: tuple[int, ...]) -> Serving:
    longest = max(config.grpo.max_completion_length, config.evaluation.max_completion_length)
    positions = getattr(base.model.config, "max_position_embeddings", MOST_TOKENS)
    return Serving(
        model=base.folder,
        dtype=base.dtype,
        quantization="none" if config.backend.quantization == "none" else "bitsandbytes",
        max_tokens=min(positions, _rounded_up(2 * config.grpo.max_prompt_length + longest)),
        max_rank=vllm_rank(config.backend.max_lora_rank or max(config.adapter.rank, schema.rank)),
        memory_share=config.backend.gpu_memory_utilization,
        on_cpu=base.model.device.type == "cpu",
        ends=ends,
    )
