"""The memory of a learner at its peak, part by part. docs/planning.md has the formulas and their accuracy.

    peak = resident parts + max(a pass of the update, sampling a batch of completions, evaluation)

Every part is the maximum that its settings allow: prompts of grpo.max-prompt-length, completions that are never shorter
than their limit, and no zero-variance group. N is the tokens of a pass: its completions x (prompt + completion).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...common.adapter.schema import AdapterSchema
from ...common.errors import ConfigError
from ...common.messages.messages import run_schema
from ...common.settings.run_config import RunConfig
from .parts import (
    ALWAYS,
    CUDA_CONTEXT,
    EVALUATION,
    OPTIMIZER_BYTES,
    SAMPLING,
    UPDATE,
    WIDTH,
    Machine,
    Part,
)
from .shapes import Shape
from .training_pass import TrainingPass, logits


def memory_parts(config: RunConfig, shape: Shape, machine: Machine) -> list[Part]:
    """Return all parts of one process that serves clients of one rank."""
    view = _View.of(config, shape, machine)
    return [*view.resident(), *view.update(), *view.sampling(), *view.evaluation()]


def vllm_needs(config: RunConfig, shape: Shape, machine: Machine) -> int:
    """Return the fewest bytes vLLM can work with: its base model, and the KV cache of one group; 0 if it does not run
    here."""
    view = _View.of(config, shape, machine)
    if not config.backend.uses_vllm or config.backend.vllm_url:
        return 0
    grpo = config.grpo
    cache = view.generation(grpo.num_generations, grpo.num_generations, grpo.max_completion_length, SAMPLING)
    return next(iter(view.resident())).bytes + next(iter(cache)).bytes


@dataclass(frozen=True, slots=True)
class _View:
    """Settings, model and machine, for the formulas."""

    config: RunConfig
    shape: Shape
    machine: Machine
    schema: AdapterSchema

    @classmethod
    def of(cls, config: RunConfig, shape: Shape, machine: Machine) -> _View:
        """Return the view with the schema that the settings give this model."""
        return cls(config, shape, machine, run_schema(config, shape.modules(config.adapter.target_modules)))

    @property
    def width(self) -> int:
        """Bytes per number of the base model and of its activations."""
        return WIDTH[self.config.model.dtype]

    @property
    def training_pass(self) -> TrainingPass:
        """The tokens of one forward and backward pass."""
        return TrainingPass.of(self.config, self.checkpointing)

    @property
    def autocast(self) -> bool:
        """Whether a pass computes in bfloat16 with float32 parameters; the trainer's rule."""
        return self.machine.kind == "cuda" and self.config.model.dtype == "bfloat16"

    @property
    def checkpointing(self) -> bool:
        """Whether activations are recomputed; `auto` follows the trainer: on with a GPU."""
        setting = self.config.backend.gradient_checkpointing
        return setting == "on" or (setting == "auto" and self.machine.kind == "cuda")

    @property
    def lora_numbers(self) -> int:
        """Numbers of A and B on all adapted layers, trained or not: PEFT holds both."""
        return self.schema.rank * sum(m.in_features + m.out_features for m in self.schema.modules)

    @property
    def trained_numbers(self) -> int:
        """Numbers that train, in the round that trains most."""
        factors = self.config.method.trains
        return max(self.schema.size_of(f) for f in factors)

    def resident(self) -> Iterator[Part]:
        """Yield the parts that are present from the first step on."""
        yield self._base()
        yield Part("adapter", 4 * self.lora_numbers, ALWAYS, "4 x rank x (in + out) of each adapted layer")
        drawn = self._drawn()
        if drawn:
            yield Part("frozen factors", drawn, ALWAYS, "4 x (out x rank + tiny-size x rank^2) of each adapted layer")
        if self.config.grpo.kl_reference == "global":
            yield Part("reference adapter", 4 * self.lora_numbers, ALWAYS, "as the adapter: the round's global one")
        if "W" in self.schema.holds:
            dense = self.width * sum(m.in_features * m.out_features for m in self.schema.modules)
            yield Part("pristine weights", dense, ALWAYS, f"{self.width} x in x out of each adapted layer")
        if self.config.train.prox:
            yield Part("start of the round", 4 * self.trained_numbers, ALWAYS, "4 x trained numbers (train.prox)")
        per_number = OPTIMIZER_BYTES[self.config.grpo.optim]
        yield Part("optimizer", per_number * self.trained_numbers, ALWAYS, f"{per_number} x trained numbers")
        if self.machine.kind == "cuda":
            yield Part("CUDA context", CUDA_CONTEXT, ALWAYS, "assumed, not measured")
            yield from self._vllm()

    def update(self) -> Iterator[Part]:
        """Yield the parts of a forward and backward pass."""
        layer, layers = self._layer_bytes(), self.shape.layers
        n, width = self.training_pass.tokens, self.width
        yield Part("gradients", 4 * self.trained_numbers, UPDATE, "4 x trained numbers")
        if self.autocast:
            yield Part("adapter for autocast", 2 * self.lora_numbers, UPDATE, "2 x numbers of the adapter")
        if self.checkpointing:
            kept = layers * width * n * self.shape.hidden + layer
            yield Part("activations", kept, UPDATE, "N x layers x width x hidden + one layer's (checkpointing is on)")
        else:
            yield Part("activations", layers * layer, UPDATE, "layers x one layer's (checkpointing is off)")
        yield Part("backward pass", self._work_bytes(n), UPDATE, "gradients and copies in one layer at a time")
        yield logits(self.training_pass, self.shape, self.machine, self.width)

    def sampling(self) -> Iterator[Part]:
        """Yield the parts of sampling the completions of one optimizer step, all at once."""
        grpo = self.config.grpo
        completions = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps
        if not self.config.backend.uses_vllm:
            yield from self.generation(completions, grpo.num_generations, grpo.max_completion_length, SAMPLING)

    def evaluation(self) -> Iterator[Part]:
        """Yield the parts of answering one batch of held-out problems."""
        settings = self.config.evaluation
        length = settings.max_completion_length or self.config.grpo.max_completion_length
        if not self.config.backend.uses_vllm:
            problems = min(settings.batch_size, settings.problems)
            yield from self.generation(problems, 1, length, EVALUATION)

    def _base(self) -> Part:
        linear, others = self.shape.linear_numbers, self.shape.parameters - self.shape.linear_numbers
        match self.config.backend.quantization:
            case "4bit":
                size = int(linear * (0.5 + 4 / 64)) + others * self.width
                return Part("base model", size, ALWAYS, f"linear layers x (1/2 + 4/64: NF4), the rest x {self.width}")
            case "8bit":
                rows = self.shape.layers * sum(out for _, out in self.shape.linears.values())
                size = linear + 4 * rows + others * self.width
                return Part("base model", size, ALWAYS, f"linear layers x 1 + 4 a row, the rest x {self.width}")
            case "none":
                return Part("base model", self.shape.parameters * self.width, ALWAYS, f"parameters x {self.width}")
            case other:
                raise ConfigError(f"Bytes of a base model with backend.quantization {other} are not known here.")

    def _drawn(self) -> int:
        """Return the bytes of the frozen factors that a core is multiplied with (`xs`, `tiny`)."""
        if not {"R", "v"} & set(self.schema.holds):
            return 0
        cores = len(self.schema.modules) * self.schema.tiny_size * self.schema.rank**2
        return 4 * (self.schema.rank * sum(m.out_features for m in self.schema.modules) + cores)

    def _vllm(self) -> Iterator[Part]:
        backend = self.config.backend
        if backend.uses_vllm and not backend.vllm_url:
            share = int(backend.gpu_memory_utilization * self.machine.bytes)
            formula = "backend.gpu-memory-utilization x the GPU: its own base model and KV cache"
            yield Part("vLLM", share, ALWAYS, formula)

    def _layer_bytes(self) -> int:
        """Return the bytes that one decoder layer keeps for its backward pass."""
        shape, n, width = self.shape, self.training_pass.tokens, self.width
        length = self.config.grpo.max_prompt_length + self.config.grpo.max_completion_length
        attention = 4 * width * shape.heads * shape.head_dim + 4 * shape.heads + width * length
        norms = 2 * 4 * shape.hidden
        if shape.family == "qwen3":
            norms += 4 * (shape.heads + shape.kv_heads) * shape.head_dim
        adapted = [m for m in self.schema.modules if m.name.startswith("model.layers.0.")]
        lora = width * self.schema.rank * len(adapted)
        if any("A" in factors for factors in self.config.method.trains):
            lora += self._kept_inputs({m.name.rpartition(".")[2] for m in adapted})
        repeated = 2 * width * shape.kv_heads * shape.head_dim * self.training_pass.copied
        return n * (attention + norms + 3 * width * shape.intermediate + lora) + repeated

    def _kept_inputs(self, names: set[str]) -> int:
        """Return the bytes per token of the inputs of adapted layers, which are kept if A trains.

        In float32, layers with the same input share it. Otherwise each has its own copy, since PEFT casts it to
        float32, and autocast back.
        """
        shape = self.shape
        if self.width == 4:
            groups = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})
            wide = sum(shape.hidden for group in groups if group & names)
            return 4 * (wide + (shape.intermediate if "down_proj" in names else 0))
        return (2 if self.autocast else 4) * sum(shape.linears[name][0] for name in names)

    def _work_bytes(self, tokens: int) -> int:
        """Return the bytes that one layer's backward pass holds temporarily; measured, see docs/planning.md."""
        shape, width = self.shape, self.width
        wide, narrow = (3.0, 3.0) if width == 4 else (4.0, 7.5)
        work = int(tokens * width * (wide * shape.intermediate + narrow * shape.hidden))
        return work + self._unpacked()

    def _unpacked(self) -> int:
        """Return the bytes of the largest weight after unpacking, if weights are quantized."""
        if self.config.backend.quantization == "none":
            return 0
        return self.width * max(i * o for i, o in self.shape.linears.values())

    def generation(self, completions: int, group: int, length: int, when: str) -> Iterator[Part]:
        """Yield KV cache, prompts, and the logits of one token of each completion."""
        shape, width, prompt = self.shape, self.width, self.config.grpo.max_prompt_length
        per_token = 2 * width * shape.kv_heads * shape.head_dim
        layers = shape.layers + 1  # the cache of one layer is copied as it grows
        cache = layers * per_token * completions * (prompt + length)
        formula = f"(layers + 1) x 2 x {width} x kv width x completions x (prompt + completion)"
        yield Part("KV cache", cache, when, formula)
        prompts = -(-completions // group) * prompt
        read = int(prompts * width * (4 * shape.intermediate + 1.5 * shape.hidden)) + self._unpacked()
        yield Part("reading prompts", read, when, f"prompt tokens x {width} x (4 intermediate + 1.5 hidden)")
        logits = (width + 12) * completions * shape.vocabulary
        yield Part("next token", logits, when, "completions x vocabulary x (width + 12)")
