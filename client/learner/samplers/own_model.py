"""The sampler that is the training model itself, with the generation of `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, set_seed
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ....common.errors import ConfigError, DivergedError
from ..models.adapted_model import AdaptedModel
from . import Sampled, Sampling
from .shrinking import complete, shrinks


class FirstLogitsAreFinite(LogitsProcessor):
    """Looks at the first token's logits, and changes nothing.

    Sampling from NaN ends in an error that names no cause, and on a GPU in one that takes the process with it. An
    adapter that overflows does so at the first token; looking at every one would cost a wait for the GPU each time.
    """

    def __init__(self) -> None:
        self._seen = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the logits as they are."""
        if not self._seen and bool(scores.isnan().any() | scores.isposinf().any()):
            raise DivergedError("the model with this adapter returns logits that are not finite; nothing is sampled")
        self._seen = True
        return scores


class OwnModelSampler:
    """A sampler on the model that trains. A prompt with several completions is processed once."""

    def __init__(self, adapted: AdaptedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Create a sampler on a model.

        Raises:
            ConfigError: neither the model nor its tokenizer has an end token.
        """
        self._adapted, self._tokenizer = adapted, tokenizer
        model_ends = adapted.model.generation_config.eos_token_id
        ends = [*(model_ends if isinstance(model_ends, list) else [model_ends]), tokenizer.eos_token_id]
        self.ends: tuple[int, ...] = tuple(dict.fromkeys(int(end) for end in ends if end is not None))
        """Tokens that end a completion: the model's, and the tokenizer's, by which TRL detects truncation."""
        if not self.ends:
            raise ConfigError(
                "Neither config.json nor the tokenizer of this model has an eos_token, so completions would never end."
            )

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[list[int]], sampling: Sampling, *, count: int = 1, base: bool = False
    ) -> list[list[Sampled]]:
        """See `Sampler.sample`. A seed applies to all random numbers of the process.

        Raises:
            DivergedError: the model with this adapter returns numbers that are not finite.
        """
        model = self._adapted.model
        was_training = model.training
        model.eval()
        try:
            with self._adapted.base_only() if base else nullcontext():
                rows = self._complete(prompts, sampling, count)
        finally:
            model.train(was_training)
        completions = [self._up_to_end(row) for row in rows]
        return [completions[i : i + count] for i in range(0, len(completions), count)]

    def close(self) -> None:
        """Do nothing: the model belongs to the trainer."""

    def _complete(self, prompts: Sequence[list[int]], sampling: Sampling, count: int) -> torch.Tensor:
        """Return the tokens of the completions, shape (len(prompts) * count, T), padded after their ends."""
        model, tokenizer = self._adapted.model, self._tokenizer
        inputs = tokenizer.pad({"input_ids": list(prompts)}, padding=True, return_tensors="pt").to(model.device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        shrinking = ids.shape[1] > 1 and shrinks(model)
        shared = self._prefill(ids, mask, count) if (count > 1 or shrinking) and ids.shape[1] > 1 else {}
        ids, mask = ids.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
        if sampling.seed is not None:
            set_seed(sampling.seed)
        check = FirstLogitsAreFinite()
        if shrinking:
            return complete(model, ids, mask, shared["past_key_values"], sampling, ends=self.ends, check=check)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation_config(sampling),
            logits_processor=LogitsProcessorList([check]),
            use_cache=True,
            **shared,
        )
        return output[:, ids.shape[1] :].cpu()

    def _prefill(self, ids: torch.Tensor, mask: torch.Tensor, count: int) -> dict[str, object]:
        """Return keys and values of all but the last token of each prompt, repeated for each of its completions."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        output = self._adapted.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            use_cache=True,
            logits_to_keep=1,
        )
        output.past_key_values.batch_repeat_interleave(count)
        return {"past_key_values": output.past_key_values}

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        return GenerationConfig(
            do_sample=sampling.temperature > 0,
            **(drawn if sampling.temperature > 0 else {}),
            max_new_tokens=sampling.max_tokens,
            eos_token_id=list(self.ends),
            pad_token_id=self._tokenizer.pad_token_id,
        )

    def _up_to_end(self, tokens: torch.Tensor) -> Sampled:
        stops = torch.isin(tokens, torch.tensor(self.ends)).nonzero()
        length = int(stops[0]) + 1 if len(stops) else len(tokens)
        return Sampled(tokens[:length].tolist(), ended=bool(len(stops)))
