"""Replay of informative groups: those of recent rounds whose rewards differed take the places of groups without signal.

A group whose rewards are all alike gives no gradient, though its completions were paid for. With train.replay = N, up
to N such groups of a step are replaced by the client's own recent groups with an advantage (RePO, arXiv:2506.09340).
Nothing more is sampled. A replayed completion has the advantage it had within its group, and the policy that sampled it
as old policy: its ratio pi(token) / pi_old(token) is truncated by the loss (`common.settings.kept_state` sees to that).

Array shapes are the suffix of a name: N completions of the batch in P groups of G; T tokens of a completion, padded on
the right; S of a prompt, padded on the left.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from ....common.foreign import safe_logger
from ....common.messages.messages import TrainTask
from .batches import Batch
from .round_files import RoundFiles

LOGGER = safe_logger("fedgrpo.client")
MOST_GROUPS = 64
"""Groups kept by a client, the newest ones."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt and its completions, as they were sampled."""

    round: int
    prompt: Ints
    completions: tuple[Ints, ...]
    logprobs: tuple[npt.NDArray[np.float32], ...]
    """Of each completion's tokens, by the policy that sampled them."""
    advantages: npt.NDArray[np.float32]
    uses: int = 0
    """How often it was replayed."""


def informative(batch: Batch, effective_P: torch.Tensor, size: int, number: int) -> list[Group]:
    """Return the groups of a batch that have a gradient. The batch has its old policy's log-probabilities."""
    arrays = {name: batch[name].detach().cpu().numpy() for name in ("prompt_ids", "completion_ids", "advantages")}
    logprobs_NT = batch["old_per_token_logps"].detach().float().cpu().numpy()
    prompts, lengths = batch["prompt_mask"].sum(dim=1).tolist(), batch["completion_mask"].sum(dim=1).tolist()
    groups: list[Group] = []
    for index in torch.nonzero(effective_P.cpu()).flatten().tolist():
        rows, first = range(index * size, (index + 1) * size), index * size
        groups.append(
            Group(
                round=number,
                prompt=arrays["prompt_ids"][first][-int(prompts[first]) :].astype(np.int64),
                completions=tuple(arrays["completion_ids"][i][: int(lengths[i])].astype(np.int64) for i in rows),
                logprobs=tuple(logprobs_NT[i][: int(lengths[i])].astype(np.float32) for i in rows),
                advantages=arrays["advantages"][first : first + size].astype(np.float32),
            )
        )
    return groups


def chosen(groups: Sequence[Group], count: int) -> list[int]:
    """Return which groups are replayed next: of those replayed least often, the newest."""
    order = sorted(range(len(groups)), key=lambda i: (groups[i].uses, -i))
    return order[:count]


def with_replayed(batch: Batch, effective_P: torch.Tensor, groups: Sequence[Group], filler: int) -> Batch:
    """Return the batch with groups in the places of the first groups without a gradient.

    Args:
        groups: no more than there are such places.
        filler: the token that prompts and completions are padded with.
    """
    if not groups:
        return batch
    size = len(groups[0].completions)
    width = max(batch["prompt_ids"].shape[1], *(len(group.prompt) for group in groups))
    length = max(batch["completion_ids"].shape[1], *(len(c) for group in groups for c in group.completions))
    batch = dict(batch)
    for name, value in (("prompt_ids", filler), ("prompt_mask", 0)):
        batch[name] = pad(batch[name], (width - batch[name].shape[1], 0), value=value)
    for name, value in (("completion_ids", filler), ("completion_mask", 0), ("old_per_token_logps", 0)):
        batch[name] = pad(batch[name], (0, length - batch[name].shape[1]), value=value)
    batch["advantages"] = batch["advantages"].clone()
    places = torch.nonzero(~effective_P.cpu()).flatten().tolist()
    for place, group in zip(places, groups, strict=False):
        for row in range(size):
            _put(batch, place * size + row, group, row, filler)
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    return batch


def _put(batch: Batch, place: int, group: Group, row: int, filler: int) -> None:
    """Write one completion of a group into a row of a batch that is wide enough."""
    prompt, tokens = torch.from_numpy(group.prompt), torch.from_numpy(group.completions[row])
    for name, value in (("prompt_ids", filler), ("prompt_mask", 0), ("completion_ids", filler), ("completion_mask", 0)):
        batch[name][place] = value
    batch["old_per_token_logps"][place] = 0
    start, end = batch["prompt_ids"].shape[1] - len(prompt), len(tokens)
    batch["prompt_ids"][place, start:] = prompt.to(batch["prompt_ids"])
    batch["prompt_mask"][place, start:] = 1
    batch["completion_ids"][place, :end] = tokens.to(batch["completion_ids"])
    batch["completion_mask"][place, :end] = 1
    logprobs = torch.from_numpy(group.logprobs[row])
    batch["old_per_token_logps"][place, :end] = logprobs.to(batch["old_per_token_logps"])
    batch["advantages"][place] = float(group.advantages[row])


class Memory:
    """The groups a client may replay during a round: those of its last rounds, and those of this one."""

    def __init__(self, groups: Sequence[Group], *, number: int, per_step: int, rounds: int) -> None:
        """Begin a round.

        Args:
            number: the round.
            per_step: groups replayed in one step at most.
            rounds: rounds before this one whose groups are still used.
        """
        self.groups = [group for group in groups if group.round >= number - rounds]
        self.number, self.per_step, self.replayed = number, per_step, 0

    def used_in(self, batch: Batch, effective_P: torch.Tensor, size: int, filler: int) -> Batch:
        """Return a batch with replayed groups in it, and remember the groups of the batch that have a gradient."""
        indices = chosen(self.groups, min(self.per_step, int((~effective_P).sum())))
        replayed = [self.groups[i] for i in indices]
        for i in indices:
            self.groups[i] = replace(self.groups[i], uses=self.groups[i].uses + 1)
        self.replayed += len(replayed)
        new = informative(batch, effective_P, size, self.number)
        self.groups = [*self.groups, *new][-MOST_GROUPS:]
        return with_replayed(batch, effective_P, replayed, filler)


class KeptGroups:
    """The groups of an organisation's rounds, on its disk."""

    def __init__(self, folder: Path) -> None:
        self._files = RoundFiles(folder, "groups")

    def load(self, task: TrainTask) -> list[Group]:
        """Return the groups after the last round that counted; none if there is no such round, or they are lost."""
        path = self._files.counted(task)
        if path is None:
            return []
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            LOGGER.warning("the groups of round %d are lost: %s", task.counted_round, path.name)
            return []

    def keep(self, task: TrainTask, groups: Sequence[Group]) -> None:
        """Save the groups after a round under way."""
        completions = [completion for group in groups for completion in group.completions]
        logprobs = [logprob for group in groups for logprob in group.logprobs]
        data = io.BytesIO()
        np.savez(
            data,
            numbers=np.array([(g.round, g.uses, len(g.prompt), len(g.completions)) for g in groups]).reshape(-1, 4),
            prompts=np.concatenate([np.zeros(0, np.int64), *(group.prompt for group in groups)]),
            lengths=np.array([len(completion) for completion in completions], dtype=np.int64),
            tokens=np.concatenate([np.zeros(0, np.int64), *completions]),
            logprobs=np.concatenate([np.zeros(0, np.float32), *logprobs]),
            advantages=np.concatenate([np.zeros(0, np.float32), *(group.advantages for group in groups)]),
        )
        self._files.keep(task, data.getvalue())


def _read(path: Path) -> list[Group]:
    with np.load(path, allow_pickle=False) as file:
        numbers, lengths, advantages = (file[name] for name in ("numbers", "lengths", "advantages"))
        prompts = np.split(file["prompts"], np.cumsum(numbers[:, 2])[:-1]) if len(numbers) else []
        tokens, logprobs = (np.split(file[name], np.cumsum(lengths)[:-1]) for name in ("tokens", "logprobs"))
    groups: list[Group] = []
    start = 0
    for (number, uses, _, size), prompt in zip(numbers.tolist(), prompts, strict=True):
        own = slice(start, start + int(size))
        groups.append(Group(int(number), prompt, tuple(tokens[own]), tuple(logprobs[own]), advantages[own], int(uses)))
        start += int(size)
    return groups
