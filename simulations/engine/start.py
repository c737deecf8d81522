"""A supervised start before the federation: a model that never answers in the wanted form has nothing to be paid for.

A model is taught once. Runs with the same model, problems and settings of the start find it in the cache.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict

from ...client.learner.data.system_prompts import SYSTEM_PROMPTS
from ...client.learner.models.model_files import file_hash, model_folder
from ...client.learner.models.registry import models_cache
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from .datasets import demonstrations

LOGGER = logging.getLogger("fedgrpo.simulation")
BATCH_SIZE = 8
START_SEED = 0
"""Of all runs: seeds of a study begin with the same model."""


def started(config: RunConfig) -> RunConfig:
    """Return the settings with the taught model as the base model; as they are where no start is asked for.

    Raises:
        ConfigError: the model is missing, or the scenario has no worked-out problems to show.
        DivergedError: the loss is not finite.
    """
    steps = config.simulation.start_steps
    if not steps:
        return config
    shown = demonstrations(config.with_values({"federation.seed": START_SEED}), steps * BATCH_SIZE)
    folder = model_folder(config.model.name, config.model.revision, config.backend.source)
    from ...client.learner.training.sft import SFT, teach

    settings = SFT(
        steps=steps,
        learning_rate=config.simulation.start_learning_rate,
        batch_size=BATCH_SIZE,
        seed=START_SEED,
        system_prompt=SYSTEM_PROMPTS[config.simulation.system_prompt],
    )
    what = repr((file_hash(folder), config.model.dtype, shown, sorted(asdict(settings).items())))
    out = models_cache() / f"started-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    if not (out / "config.json").is_file():
        from ...client.learner.models.load import load_model

        LOGGER.info("teaching the form of an answer: %d steps of %d worked-out problems", steps, BATCH_SIZE)
        base = load_model(folder, config.model.dtype)
        try:
            teach(base, shown, settings, out, _tell)
        except (ConfigError, OSError):
            if not (out / "config.json").is_file():  # it is there if another run taught the same model meanwhile
                raise
    LOGGER.info("beginning with the taught model %s", out)
    return config.with_values({"model.name": str(out), "simulation.start-steps": 0})


def _tell(step: int, steps: int, loss: float) -> None:
    LOGGER.info("teaching the form: step %d of %d, loss %.3f", step, steps, loss)
