"""Gradients of units: each clipped, summed, and given noise (DP-SGD, Abadi et al. 2016, arXiv:1607.00133, algorithm 1).

    g = (sum_u min(1, C / ||g_u||) g_u + N(0, sigma^2 C^2)) / B

with B the number of units that a batch has on average: the true number would tell how many were taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from .randomness import RandomBytes, standard_normals

ROUNDING = 1e-6
"""Share by which the norm is overstated, so that rounding in float32 leaves no unit above the clip norm."""


class ClippedSum:
    """The sum of the clipped gradients of units, over all trained factors together."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], clip_norm: float) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._clip_norm = clip_norm
        self._sums = [torch.zeros_like(p, dtype=torch.float32) for p in self._parameters]
        self.clipped = 0
        """Units whose gradient was longer than the clip norm."""
        self.units = 0
        """Units that were added."""

    def add_unit(self) -> None:
        """Add what one unit's backward passes have left in the parameters' `.grad`, clipped, and empty those.

        A gradient that is not finite counts as 0: it would make the sum useless, and tell whose it was.
        """
        gradients = [p.grad for p in self._parameters]
        norm = self._norm(gradients)
        self.units += 1
        if torch.isfinite(norm):
            self.clipped += int(norm > self._clip_norm)
            factor = (self._clip_norm / (norm * (1 + ROUNDING)).clamp(min=1e-30)).clamp(max=1.0)
            for total, gradient in zip(self._sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.float() * factor.to(total)
        for parameter in self._parameters:
            parameter.grad = None

    def _norm(self, gradients: list[torch.Tensor | None]) -> torch.Tensor:
        """Return the L2 norm of all gradients together, in float64."""
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros((), dtype=torch.float64)

    def release(self, noise_multiplier: float, expected: float, source: RandomBytes = os.urandom) -> None:
        """Set `.grad` to the sum with noise, divided by the expected number of units.

        Every trained parameter gets noise, whether or not a unit had a gradient for it.
        """
        sigma = noise_multiplier * self._clip_norm
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            noise = torch.from_numpy(sigma * standard_normals(total.numel(), source)).view(total.shape)
            noisy = total.double() + noise.to(total.device)
            parameter.grad = (noisy / expected).to(parameter.dtype)
