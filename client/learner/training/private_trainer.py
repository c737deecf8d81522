"""GRPO under differential privacy: each step's gradient is a noisy sum over units, whose size is bounded one by one.

What one unit can change is its own gradient and nothing else: completions are sampled with fresh random numbers,
rewards are asked for one prompt at a time, advantages are within a group, and each unit's loss is its own. Everything
after the noise (clipping to grpo.max-grad-norm, Adam, train.prox, the delta) is post-processing.

Array shapes are the suffix of a name: N completions of a pass.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..privacy.clipping import ClippedSum
from .grpo_trainer import FederatedTrainer

Row = dict[str, Any]
Batch = list[list[Row]]
"""The prompts of one step, by unit."""


class PrivateTrainer(FederatedTrainer):
    """The federation's trainer, with DP-SGD's step (`privacy.clipping`) in place of the plain gradient."""

    batches: list[Batch]
    """The batches of the round, one for each step; any of them may be empty."""
    expected_units: float
    """Units of a batch on average."""

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches as they are: their sizes differ, which TRL's own sampler does not allow."""
        return DataLoader(self.batches, batch_size=None, collate_fn=list)  # pyright: ignore[reportArgumentType]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Set the private gradient of one step, and return the mean loss of its units, for the log."""
        model.train()
        settings = self.run_config.dp
        total = ClippedSum(model.parameters(), settings.clip_norm)
        losses = [self._add_unit(model, scored, total) for scored in self._scored_units(inputs)]
        total.release(settings.noise_multiplier, self.expected_units)
        self._pull_to_start()
        self._step += 1
        return torch.stack(losses).mean() if losses else torch.zeros(())

    def _scored_units(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """Yield each unit's completions with their advantages; they are sampled together, as far as memory allows."""
        size, grpo = self.run_config.grpo.num_generations, self.run_config.grpo
        for piece in in_pieces(batch, grpo.prompts_per_step):
            torch.manual_seed(secrets.randbits(63))  # a known seed would tie one unit's completions to another's place
            scored = self._generate_and_score_completions([r for unit in piece for r in unit for _ in range(size)])
            start = 0
            for unit in piece:
                stop = start + len(unit) * size
                yield rows_of(scored, start, stop)
                start = stop

    def _add_unit(self, model: Any, scored: dict[str, Any], total: ClippedSum) -> torch.Tensor:
        """Add one unit's gradient to the sum, a pass at a time, and return its loss."""
        count, most = len(scored["advantages"]), self.run_config.grpo.per_device_train_batch_size
        loss_of_unit = torch.zeros((), device=scored["advantages"].device)
        for start in range(0, count, most):
            part = rows_of(scored, start, min(start + most, count))
            with self.compute_loss_context_manager():
                loss = self._policy_loss(model, part) * (len(part["advantages"]) / count)
            self.accelerator.backward(loss)
            loss_of_unit += loss.detach()
        total.add_unit()
        return loss_of_unit

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        """Ask for the rewards of one prompt at a time: a reward may look at all the completions it is given."""
        size = self.run_config.grpo.num_generations
        rewards, effective = [], []
        for start in range(0, len(inputs), size):
            one = slice(start, start + size)
            rewards.append(
                super()._calculate_rewards(inputs[one], prompts[one], completions[one], completion_ids_list[one])
            )
            effective.append(self.effective_P)
        self.effective_P = torch.cat(effective)
        return torch.cat(rewards)

    def _pull_to_start(self) -> None:
        """Add FedProx's gradient, mu (w - w_global), which depends on no prompt."""
        for parameter, start in self.start:
            assert parameter.grad is not None
            parameter.grad += self.run_config.train.prox * (parameter.detach() - start)


def in_pieces(batch: Batch, most: int) -> Iterator[Batch]:
    """Yield the units of a batch in pieces of at most `most` prompts, or of one unit."""
    piece: Batch = []
    for unit in batch:
        if piece and sum(map(len, piece)) + len(unit) > most:
            yield piece
            piece = []
        piece.append(unit)
    if piece:
        yield piece


def rows_of(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Return some completions of a batch: of every array with a value for each, those from `start` to `stop`."""
    size = len(batch["advantages"])
    return {
        name: value[start:stop] if isinstance(value, torch.Tensor) and value.dim() and len(value) == size else value
        for name, value in batch.items()
    }
