"""The only file that knows TensorBoard, W&B, trackio and MLflow. Each is imported on first use.

Every opener takes a `Place` and the run id of an earlier process, and returns the run id with two functions, to log and
to close. Everything that a library would send in addition to the figures (host name, command line, code, installed
packages, console, usage statistics) is turned off as far as possible.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Figures = Mapping[str, float]
SPACES = "huggingface.co"
NOT_FOR_MLFLOW = re.compile(r"[^A-Za-z0-9_\-. :/]")
MLFLOW_BATCH = 1000
"""Figures that MLflow accepts in one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The destination of one tracker, and the name of its run."""

    folder: Path
    """Folder for the files of this tracker only."""
    project: str
    run: str
    """Name of the run; W&B and trackio identify the run by it."""
    axis: str
    """Unit of a step: `round` or `step`."""
    url: str = ""
    """Address that data is sent to; empty keeps it in the folder."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the run, stored with it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An open run of a tracker."""

    id: str
    log: Callable[[int, Figures], None]
    close: Callable[[], None]


def open_tensorboard(place: Place, known: str) -> Opened:
    """Open event files through tensorboardX, which needs neither torch nor TensorFlow."""
    suffix = f".{time.time_ns()}"  # names have a resolution of one second; a second file would overwrite the first
    writer: Any = import_module("tensorboardX").SummaryWriter(str(place.folder), filename_suffix=suffix)

    def log(step: int, figures: Figures) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Opened(known, log, writer.close)


def open_wandb(place: Place, known: str) -> Opened:
    """Open a W&B run, offline or on the server at `place.url`. Steps are a separate axis, so rows are sent at once."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    wandb: Any = import_module("wandb")

    settings = wandb.Settings(
        base_url=place.url or "https://api.wandb.ai",
        mode="online" if place.url else "offline",
        root_dir=str(place.folder),
        host="-",
        console="off",
        silent=True,
        symlink=False,
        save_code=False,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    run_id = known or re.sub(r"[^A-Za-z0-9_-]", "-", place.run)
    run = wandb.init(
        project=place.project,
        name=place.run,
        id=run_id,
        resume="allow",
        reinit="create_new",
        config=dict(place.settings),
        settings=settings,
    )
    run.define_metric("*", step_metric=place.axis)
    return Opened(run_id, lambda step, figures: run.log({place.axis: step, **figures}), run.finish)


def open_trackio(place: Place, known: str) -> Opened:
    """Open a trackio run: in its local store (TRACKIO_DIR), a private Space of the Hub, or another server."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    trackio: Any = import_module("trackio")

    is_space = urlsplit(place.url).hostname == SPACES
    space = urlsplit(place.url).path.removeprefix("/spaces").strip("/")
    with contextlib.redirect_stdout(sys.stderr):
        run = trackio.init(
            project=place.project,
            name=known or place.run,
            space_id=space if is_space else None,
            server_url=place.url if place.url and not is_space else None,
            private=True,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
            config=dict(place.settings),
        )

    def close() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            run.finish()

    return Opened(known or place.run, lambda step, figures: run.log(dict(figures), step=step), close)


def open_mlflow(place: Place, known: str) -> Opened:
    """Open an MLflow run: in a database in the folder, or on the tracking server at `place.url`."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    mlflow, entities = import_module("mlflow"), import_module("mlflow.entities")
    client: Any = mlflow.MlflowClient(tracking_uri=place.url or f"sqlite:///{place.folder / 'mlflow.db'}")
    if not known:
        existing = client.get_experiment_by_name(place.project)
        artifacts = None if place.url else (place.folder / "artifacts").as_uri()
        experiment = existing.experiment_id if existing else client.create_experiment(place.project, artifacts)
        known = client.create_run(experiment, run_name=place.run).info.run_id
        for name, value in place.settings.items():
            client.log_param(known, name, value)
    client.update_run(known, status="RUNNING")

    def log(step: int, figures: Figures) -> None:
        time_ms = int(time.time() * 1000)
        rows: list[Any] = [
            entities.Metric(NOT_FOR_MLFLOW.sub("_", name), value, time_ms, step) for name, value in figures.items()
        ]
        for first in range(0, len(rows), MLFLOW_BATCH):
            client.log_batch(known, metrics=rows[first : first + MLFLOW_BATCH], synchronous=True)

    return Opened(known, log, lambda: client.set_terminated(known))


OPENERS = {"tensorboard": open_tensorboard, "wandb": open_wandb, "trackio": open_trackio, "mlflow": open_mlflow}
