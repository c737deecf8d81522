"""A supervised start before the federation: a model that never answers in the wanted form has nothing to be paid for.

A model is taught once. Runs with the same model, problems and settings of the start find it in the cache.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from ...client.learner.data.system_prompts import SYSTEM_PROMPTS
from ...client.learner.models.model_files import file_hash, model_folder
from ...client.learner.models.precision import resolved_dtype, usual_threads
from ...client.learner.models.registry import models_cache
from ...common.errors import ConfigError, FedGRPOError, RunError
from ...common.settings.run_config import RunConfig
from .datasets import demonstrations

LOGGER = logging.getLogger("fedgrpo.simulation")
BATCH_SIZE = 8
START_SEED = 0
"""Of all runs: seeds of a study begin with the same model."""
_base_hash = functools.cache(file_hash)
"""Hash of a base model, which does not change while a study asks for the settings of each of its runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """All that decides a taught model, and the folder it is kept in."""

    base: Path
    dtype: str
    shown: list[tuple[str, str]]
    """(question, worked-out completion)."""
    steps: int
    learning_rate: float
    system_prompt: str

    @property
    def folder(self) -> Path:
        """The cached model folder, named after the hash of everything here."""
        settings = (self.steps, self.learning_rate, BATCH_SIZE, START_SEED, self.system_prompt)
        what = repr((_base_hash(self.base), self.dtype, self.shown, settings))
        return models_cache() / f"started-{hashlib.sha256(what.encode()).hexdigest()[:16]}"

    @property
    def taught(self) -> bool:
        """Whether an earlier run has taught it."""
        return (self.folder / "config.json").is_file()


def started(config: RunConfig) -> RunConfig:
    """Return the settings with the taught model as the base model; as they are where no start is asked for.

    Raises:
        ConfigError: the model is missing, or the scenario has no worked-out problems to show.
        DivergedError: the loss is not finite.
        RunError: the process that teaches it ended early.
    """
    if not config.simulation.start_steps:
        return config
    start = _start_of(config)
    if not start.taught:
        LOGGER.info("teaching the form of an answer: %d steps of %d worked-out problems", start.steps, BATCH_SIZE)
        try:
            _teach_in_a_process(start)
        except FedGRPOError:
            if not start.taught:  # it is there if another run taught the same model meanwhile
                raise
    LOGGER.info("beginning with the taught model %s", start.folder)
    return _beginning_with(start.folder, config)


def start_named(config: RunConfig) -> RunConfig:
    """Return what `started` returns, and teach nothing: the taught model's folder may not be there yet."""
    return _beginning_with(_start_of(config).folder, config) if config.simulation.start_steps else config


def _beginning_with(folder: Path, config: RunConfig) -> RunConfig:
    return config.with_values({"model.name": str(folder), "simulation.start-steps": 0})


def _start_of(config: RunConfig) -> Start:
    base = model_folder(config.model.name, config.model.revision, config.backend.source)
    steps = config.simulation.start_steps
    return Start(
        base=base,
        dtype=resolved_dtype(config, base),
        shown=demonstrations(config.with_values({"federation.seed": START_SEED}), steps * BATCH_SIZE),
        steps=steps,
        learning_rate=config.simulation.start_learning_rate,
        system_prompt=SYSTEM_PROMPTS[config.simulation.system_prompt],
    )


def _teach_in_a_process(start: Start) -> None:
    """Teach in a process that ends afterwards, since what a model and its optimizer took stays with their process."""
    spawn = multiprocessing.get_context("spawn")  # fork is unsafe beside threads and CUDA
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_teach, args=(sender, start), daemon=True)
    process.start()
    sender.close()
    try:
        while (item := receiver.recv()) is not None:
            if isinstance(item, FedGRPOError):
                raise item
            LOGGER.info("%s", item)
    except EOFError:
        process.join()
        raise RunError(
            f"The process that teaches the model its form ended early, with exit status {process.exitcode}. "
            "Not enough memory is the usual cause; give the same command again to have it taught again."
        ) from None
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _teach(sender: Connection, start: Start) -> None:
    """Teach the model, and send a line for each step, then None, or the error."""
    os.environ.setdefault("OMP_NUM_THREADS", str(usual_threads(start.base)))
    from ...client.learner.models.load import load_model
    from ...client.learner.training.sft import SFT, teach

    settings = SFT(
        steps=start.steps,
        learning_rate=start.learning_rate,
        batch_size=BATCH_SIZE,
        seed=START_SEED,
        system_prompt=start.system_prompt,
    )

    def tell(step: int, steps: int, loss: float) -> None:
        sender.send(f"teaching the form: step {step} of {steps}, loss {loss:.3f}")

    try:
        teach(load_model(start.base, start.dtype), start.shown, settings, start.folder, tell)
    except FedGRPOError as error:
        sender.send(error)
    except OSError as error:
        sender.send(ConfigError(f"The taught model cannot be written to {start.folder}: {error.strerror}."))
    else:
        sender.send(None)
