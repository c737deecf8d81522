"""The fixed grid: updates as whole numbers, whose sum over all members cannot overflow.

A float x becomes q = x / step, rounded at random to one of the two whole numbers beside it, so that it is right on
average. The step is a power of two, the same for all members: it follows from settings and the number of members.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, ProtocolError
from ..identity.members import threshold_of
from ..messages.messages import Words
from ..settings.run_config import RunConfig

INT8_LEVELS = 127
NOISE_TAIL = 12.0
"""Standard deviations of noise that the grid has room for: a number is beyond it with probability 4e-33."""
CHUNK = 1 << 15
"""Values that are coded at a time: few enough for a processor's cache."""
MIN_RESOLUTION = 1e-3
"""A step must be finer than this share of what a coordinate may be, or rounding drowns the update."""
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Whole numbers of magnitude at most `levels`, each worth `step`, summed modulo 2^`bits`."""

    step: float
    levels: int
    bits: int

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Return the type of a masked vector's numbers."""
        return np.dtype(f"<u{self.bits // 8}")

    def check(self, members: int) -> None:
        """Check that the sum of all members cannot overflow: n * levels < 2^(bits - 1), one bit being the sign.

        Raises:
            ConfigError: it can.
        """
        if not members * self.levels < 1 << (self.bits - 1):
            raise ConfigError(
                f"{members} members with numbers up to {self.levels} each can overflow a sum of {self.bits} bits. "
                "Lower privacy.clip-norm, or let fewer members take part."
            )

    def coded(self, values: npt.NDArray[np.floating], generator: np.random.Generator | None) -> tuple[Whole, int]:
        """Return values as whole numbers, and how many were beyond the grid's end and put on it.

        Where the values were clipped to the norm that the grid was made for, nothing is beyond its end.

        Args:
            generator: of the random rounding; None rounds to the nearest, where error feedback takes care of the rest.

        Raises:
            ProtocolError: a value is not finite.
        """
        whole, beyond = np.empty(values.size, np.int64), 0
        for start in range(0, values.size, CHUNK):
            scaled = values[start : start + CHUNK].astype(np.float64) / self.step
            part = np.rint(scaled) if generator is None else np.floor(scaled + generator.random(scaled.shape))
            least, most = float(part.min()), float(part.max())
            if not math.isfinite(least) or not math.isfinite(most):
                raise ProtocolError("secagg.not-finite", "the update holds NaN or infinity, which no whole number is")
            if max(most, -least) > self.levels:
                beyond += int(np.count_nonzero(np.abs(part) > self.levels))
                part = np.clip(part, -self.levels, self.levels)
            whole[start : start + CHUNK] = part
        return whole, beyond

    def values(self, whole: Whole) -> npt.NDArray[np.float64]:
        """Return what whole numbers are worth."""
        return whole.astype(np.float64) * self.step

    def words(self, whole: Whole) -> Words:
        """Return whole numbers modulo 2^bits."""
        return whole.astype(self.dtype)  # an integer's low bits, which is its value modulo 2^bits

    def signed(self, words: Words, members: int, levels: int = 0) -> Whole:
        """Return the sum of some members' numbers from what it is modulo 2^bits.

        Raises:
            ProtocolError: it is larger than these members' numbers can make it: one of them sent something else.
        """
        total = words.astype(f"<i{self.bits // 8}").astype(np.int64)
        most = members * (levels or self.levels)
        if total.size and int(np.abs(total).max()) > most:
            raise ProtocolError("secagg.sum", f"the sum of {members} members holds numbers beyond {most}")
        return total


def grid_of(config: RunConfig, members: int) -> Grid:
    """Return the grid of a run: the finest on which the sum of all members cannot overflow.

    `fp32`: 32 bits, and a step with which a vector of norm privacy.clip-norm fits, even if it is all in one coordinate.
    `int8`: 16 bits, and 127 steps to the length that Adam goes in a round: learning rate times steps. What is beyond is
    counted, and error feedback adds it to the next update.

    With noise there is room for that of each member, too.

    Raises:
        ConfigError: the members are too many for the clip.
    """
    if config.compression.up == "int8":
        reach = config.grpo.learning_rate * config.train.steps_per_round
        grid = Grid(step=2.0 ** math.ceil(math.log2(reach / INT8_LEVELS)), levels=INT8_LEVELS, bits=16)
        grid.check(members)
        return grid
    clip = config.privacy.clip_norm * noise_room(config.privacy.noise_multiplier, members)
    exponent = math.floor(math.log2(((1 << 31) - 1) / members / clip))
    if clip * 2.0**exponent < 1 / MIN_RESOLUTION:
        raise ConfigError(
            f"privacy.clip-norm is {clip:g}, and a sum of {members} members of that norm in 32 bits leaves a step of "
            f"{2.0**-exponent:g}, which is coarse. Lower privacy.clip-norm, or let fewer members take part."
        )
    while members * _levels(clip, exponent) >= 1 << 31:
        exponent -= 1
    grid = Grid(step=2.0**-exponent, levels=_levels(clip, exponent), bits=32)
    grid.check(members)
    return grid


def noise_room(noise_multiplier: float, members: int) -> float:
    """Return how much longer than the clip a number with noise can be: a member's share of it, NOISE_TAIL times."""
    return 1 + NOISE_TAIL * noise_multiplier / math.sqrt(threshold_of(members)) if noise_multiplier else 1.0


def _levels(clip: float, exponent: int) -> int:
    """Return the largest number that a value of magnitude `clip` can become; rounding may go up."""
    return math.floor(clip * 2.0**exponent) + 1
