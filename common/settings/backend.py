"""The backend: how an organisation loads its model and samples from it, on its own machine."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, between, one_of
from ..errors import ConfigError

SAMPLERS = ("transformers", "vllm", "vllm-server")
LOADERS = ("transformers", "unsloth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """How the model is loaded and completions are sampled. In a scenario: for simulated clients. A real client uses its
    own file's settings, never the server's."""

    sampler: str = "transformers"
    """`transformers`; `vllm`, an engine in this process; `vllm-server`, over HTTP. vLLM gets only the adapter, a new
    one for each step; the base model is never merged and never sent (docs/decisions/013)."""
    sampler_correction: str = "ratio"
    """vLLM's log-probabilities differ from the trainer's. `ratio` uses vLLM's as those of the old policy, so that the
    clipped ratio corrects the difference; `none` does not correct it (docs/decisions/014). With grpo.top-p or top-k
    it is not corrected."""
    vllm_url: str = ""
    """`vllm-server`: address of a running server, as http://127.0.0.1:8100; prompts are sent there. Empty starts a
    server, and stops it at the end."""
    vllm_python: str = ""
    """`vllm-server`: Python of the environment with vLLM, to start a server; empty uses this one."""
    gpu_memory_utilization: float = 0.3
    """Share of the GPU's memory that vLLM uses."""
    loader: str = "transformers"
    """`transformers`, or `unsloth` (needs a GPU and a separate environment)."""
    quantization: str = "none"
    """Quantization of the base model when it is loaded: `none`, `8bit` or `4bit` (bitsandbytes; NF4)."""
    gradient_checkpointing: str = "auto"
    """Recomputes activations to save memory: `on`, `off`, or `auto`, which is on with a GPU."""
    shared_prompts: bool = True
    """Whether training computes each prompt once for all completions of its group, where the model allows it, which is
    several times faster. `false` is TRL's pass over whole sequences, whose gradient differs in the last bits."""
    max_lora_rank: int = 0
    """Largest rank that vLLM reserves memory for; 0 uses the adapter's."""
    source: str = "hub"
    """Where models are downloaded from: `hub` (Hugging Face) or `modelscope`."""

    def __post_init__(self) -> None:
        one_of("backend.sampler", self.sampler, SAMPLERS)
        one_of("backend.sampler-correction", self.sampler_correction, ("ratio", "none"))
        one_of("backend.loader", self.loader, LOADERS)
        one_of("backend.quantization", self.quantization, ("none", "8bit", "4bit"))
        one_of("backend.gradient-checkpointing", self.gradient_checkpointing, ("auto", "on", "off"))
        one_of("backend.source", self.source, ("hub", "modelscope"))
        at_least("backend.max-lora-rank", self.max_lora_rank, 0, "0 uses the adapter's")
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
        """Return whether completions come from vLLM."""
        return self.sampler != "transformers"
