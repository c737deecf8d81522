"""How a party loads its model and samples from it: each party's own choice, on its own machine."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, between, one_of
from ..errors import ConfigError

SAMPLERS = ("transformers", "vllm", "vllm-server")
LOADERS = ("transformers", "unsloth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """How the model is loaded and completions are sampled. In a scenario: of simulated clients. A real client takes its
    own file's, and none of the server's."""

    sampler: str = "transformers"
    """`transformers`; `vllm`, an engine in this process; `vllm-server`, over HTTP. vLLM gets the adapter alone, anew
    for each step; the base model is never merged and never sent (docs/decisions/013)."""
    sampler_correction: str = "ratio"
    """vLLM's log-probabilities differ from the trainer's. `ratio` takes vLLM's as those of the old policy, so that the
    clipped ratio makes up for it; `none` leaves it (docs/decisions/014)."""
    vllm_url: str = ""
    """`vllm-server`: a running server, as http://127.0.0.1:8100; prompts go there. Empty starts one, and stops it."""
    vllm_python: str = ""
    """`vllm-server`: Python of the environment with vLLM, to start one; empty takes this one."""
    gpu_memory_utilization: float = 0.3
    """Share of the GPU's memory that vLLM takes."""
    loader: str = "transformers"
    """`transformers`, or `unsloth` (a GPU and an environment of its own)."""
    quantization: str = "none"
    """Of the base model, as it is loaded: `none`, `8bit` or `4bit` (bitsandbytes; NF4)."""
    gradient_checkpointing: str = "auto"
    """Computes activations twice to keep fewer: `on`, `off`, or `auto`, which is on where there is a GPU."""
    max_lora_rank: int = 0
    """Largest rank that vLLM makes room for; 0 takes the adapter's."""
    source: str = "hub"
    """Where a model comes from that is named and is no folder: `hub` (Hugging Face) or `modelscope`."""

    def __post_init__(self) -> None:
        one_of("backend.sampler", self.sampler, SAMPLERS)
        one_of("backend.sampler-correction", self.sampler_correction, ("ratio", "none"))
        one_of("backend.loader", self.loader, LOADERS)
        one_of("backend.quantization", self.quantization, ("none", "8bit", "4bit"))
        one_of("backend.gradient-checkpointing", self.gradient_checkpointing, ("auto", "on", "off"))
        one_of("backend.source", self.source, ("hub", "modelscope"))
        at_least("backend.max-lora-rank", self.max_lora_rank, 0, "0 takes the adapter's")
        between(
            "backend.gpu-memory-utilization",
            self.gpu_memory_utilization,
            0.0,
            1.0,
            "it is a share of the GPU's memory, and the trainer needs the rest",
            open_low=True,
        )
        if self.vllm_url and not self.vllm_url.startswith(("http://", "https://")):
            raise ConfigError(f"backend.vllm-url is {self.vllm_url!r}. Write it as in http://127.0.0.1:8100.")
        if self.vllm_url and self.sampler != "vllm-server":
            raise ConfigError(
                "backend.vllm-url is given, but backend.sampler is not vllm-server. Set both, or neither."
            )
        if self.loader == "unsloth" and self.quantization == "8bit":
            raise ConfigError("backend.quantization is 8bit, but backend.loader unsloth trains in 4bit or none.")

    @property
    def uses_vllm(self) -> bool:
        """Whether completions come from vLLM."""
        return self.sampler != "transformers"
