"""Which sampler a run gets."""

from __future__ import annotations

from ....common.config import RunConfig
from ..model import AdaptedModel, Base
from . import Sampler
from .own_model import OwnModelSampler


def make_sampler(config: RunConfig, base: Base, adapted: AdaptedModel) -> Sampler:
    """The sampler that `backend.sampler` names.

    Raises:
        ConfigError: vLLM is not installed, or cannot serve this model.
        SamplerError: its server did not start, or is not there.
    """
    return OwnModelSampler(adapted, base.tokenizer)
