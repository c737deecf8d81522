"""What an attacker would look at for each prompt: one number that may be higher where the prompt was trained on.

Pure functions of what both models did with the prompts. No signal looks at which prompts were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

LEAST_LIKELY = 0.2
"""The share of a prompt's tokens that Min-k% looks at."""
ATTACK = "reward-gain"
"""The signal that guesses about coins. It is fixed, since a choice by the result would void the bound on epsilon."""

SIGNALS: Mapping[str, str] = {
    "reward": "reward of the adapter's completions",
    "reward-gain": "reward of the adapter's completions less that of the base model's",
    "likelihood": "log-probability per token that the adapter gives its own completions",
    "likelihood-ratio": "log-probability per token of the adapter's completions, less what the base model gives them",
    "diba": "reward gain and likelihood ratio together, in standard deviations each",
    "min-k": "log-probability of the prompt's least likely tokens",
    "prompt-ratio": "log-probability per token of the prompt, less what the base model gives it",
}
"""The signals, each with what it is. diba follows Liu et al. 2025 (arXiv:2511.14045), min-k Shi et al. 2023
(arXiv:2310.16789)."""
CONTROLS: Mapping[str, str] = {
    "base-reward": "reward of the base model's completions",
    "base-prompt": "log-probability per token that the base model gives the prompt",
}
"""What the base model shows, which was trained on none of them: a difference here is one of the prompts themselves."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What both models did with one prompt."""

    rewards: Sequence[float]
    """Of the adapter's completions."""
    base_rewards: Sequence[float]
    completions: Sequence[Values]
    """Log-probabilities that the adapter gives the tokens of its own completions."""
    base_completions: Sequence[Values]
    """Log-probabilities that the base model gives the same tokens."""
    prompt: Values
    base_prompt: Values


def signals(observed: Sequence[Observed]) -> dict[str, Values]:
    """Return each of SIGNALS and of CONTROLS for every prompt, by name."""
    rows = [_of_prompt(each) for each in observed]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return columns | {"diba": standardised(columns["reward-gain"]) + standardised(columns["likelihood-ratio"])}


def _of_prompt(seen: Observed) -> dict[str, float]:
    reward, base_reward = float(np.mean(seen.rewards)), float(np.mean(seen.base_rewards))
    own, base_own = _per_token(seen.completions), _per_token(seen.base_completions)
    prompt, base_prompt = _per_token([seen.prompt]), _per_token([seen.base_prompt])
    return {
        "reward": reward,
        "reward-gain": reward - base_reward,
        "likelihood": own,
        "likelihood-ratio": own - base_own,
        "min-k": _least_likely(seen.prompt),
        "prompt-ratio": prompt - base_prompt,
        "base-reward": base_reward,
        "base-prompt": base_prompt,
    }


def standardised(values: Values) -> Values:
    """Return values less their mean, in standard deviations; zeros where all are equal.

    >>> standardised(np.array([1.0, 3.0])).tolist(), standardised(np.array([2.0, 2.0])).tolist()
    ([-1.0, 1.0], [0.0, 0.0])
    """
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-12 else np.zeros_like(values)


def _least_likely(tokens: Values) -> float:
    count = max(1, round(LEAST_LIKELY * len(tokens)))
    return float(np.sort(tokens)[:count].mean())


def _per_token(texts: Sequence[Values]) -> float:
    """Return the mean log-probability per token of each text, averaged over the texts."""
    return float(np.mean([tokens.mean() for tokens in texts]))
