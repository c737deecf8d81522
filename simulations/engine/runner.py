"""One simulated federation: first the checks, then the workers, then the real ServerApp."""

from __future__ import annotations

import hashlib
import logging
import os
from importlib.util import find_spec
from pathlib import Path

from flwr.app import Context, RecordDict

from ...client.learner.models.backend_check import check_backend
from ...client.learner.models.model_files import model_folder
from ...client.learner.models.precision import usual_threads
from ...client.learner.models.registry import is_gguf
from ...client.learner.rewards import absolute_paths, try_rewards
from ...common.errors import ConfigError, RunError
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.storage.atomic import write_atomic
from ...common.trackers.names import check_uses
from ...server.main import app, run_folder
from ...server.run.layout import RunFolder
from ...server.run.reader import Run
from .canaries import make_canaries, record_canaries
from .federation_keys import prepare_manifest
from .grid import LocalGrid, NodeConfig, Worker
from .progress import keeping
from .simulated_clients import BUILTIN_POLICIES, SYSTEM_PROMPTS, client_rewards, client_tools, divide, member_names
from .start import started
from .worker import ProcessWorker

LOGGER = logging.getLogger("fedgrpo.simulation")
SCENARIOS = Path(__file__).parent.parent / "scenarios"


def scenario(name: str) -> RunConfig:
    """Load a scenario that comes with fedgrpo, by name, or one from a TOML file, whose paths are relative to the file.

    Raises:
        ConfigError: the scenario does not exist, or a setting in it is wrong.
    """
    shipped = SCENARIOS / f"{name}.toml"
    path = shipped if shipped.is_file() else Path(name)
    if path.suffix != ".toml":
        known = ", ".join(sorted(p.stem for p in SCENARIOS.glob("*.toml")))
        raise ConfigError(f"There is no scenario {name!r}. Known are {known}, or give the path of a .toml file.")
    config = load_scenario(path)
    return config if path == shipped else _with_paths_from(Path(os.path.abspath(path)).parent, config)


def _with_paths_from(folder: Path, config: RunConfig) -> RunConfig:
    """Return a scenario file's settings with absolute paths, so that the file works from every directory."""
    settings, model = config.simulation, folder / Path(config.model.name).expanduser()
    here = config.model.name not in BUILTIN_POLICIES and (model.is_dir() or is_gguf(config.model.name))
    return config.with_values(
        {
            "model.name": str(model) if here else config.model.name,
            "simulation.data": settings.data and str(folder / Path(settings.data).expanduser()),
            "simulation.rewards": ";".join(absolute_paths(spec, folder) for spec in settings.rewards.split(";")),
            "simulation.tools": settings.tools and absolute_paths(settings.tools, folder),
            "simulation.environment": settings.environment and absolute_paths(settings.environment, folder),
        }
    )


def all_at_once(config: RunConfig) -> RunConfig:
    """Return the settings with a federation that starts when every simulated client that takes part has joined.

    All of them are on this machine, so loading speed must not decide who takes part in the first round.
    """
    clients = len(config.simulation.taking_part)
    fewest = min(config.federation.min_clients, clients)
    return config.with_values({"federation.start-clients": clients, "federation.min-clients": fewest})


def resumed(folder: Path) -> RunConfig:
    """Return the settings of an earlier run, set to resume in its folder."""
    config = Run.read(folder).config
    return config.with_values({"output.dir": str(folder.resolve().parent), "output.run": folder.resolve().name})


def check(config: RunConfig) -> None:
    """Check everything that would fail later, before a model is loaded: libraries, model, data, partition, rewards.

    Raises:
        FedGRPOError: something is wrong; names it and its place.
    """
    missing = [name for name in ("torch", "trl", "peft", "datasets", "matplotlib", "jinja2") if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"A simulation needs {', '.join(missing)}, which the base installation leaves out. "
            "Install the extra: pip install 'fedgrpo[simulation]'."
        )
    check_backend(config.backend)
    check_uses("output.trackers", config.output.tracker_uses)
    folder = model_folder(config.model.name, config.model.revision, config.backend.source)
    shards, _ = divide(config)
    prompt = SYSTEM_PROMPTS[config.simulation.system_prompt]
    for shard, rewards in zip(shards, client_rewards(config), strict=True):
        try_rewards(rewards, shard[0].row(prompt))
    for note in _template_notes(folder):
        LOGGER.warning(note)


def _template_notes(folder: Path) -> tuple[str, ...]:
    """Return the notes on a model's chat template; the built-in ones have none, and need no heavy import."""
    if folder in BUILTIN_POLICIES.values():
        return ()
    from ...client.learner.models.base_model import load_tokenizer
    from ...client.learner.models.chat_template import notes

    return notes(load_tokenizer(folder), folder)


def inputs_sha256(config: RunConfig) -> str:
    """Return the hash of a simulation's data and reward files, as they are now."""
    shards, held_out = divide(config)
    digest = hashlib.sha256(repr((shards, held_out)).encode())
    rewards = {reward.source for rewards in client_rewards(config) for reward in rewards}
    for source in sorted({*rewards, *client_tools(config).sources} - {"built-in"}):
        digest.update(Path(source).expanduser().read_bytes())
    return digest.hexdigest()


def same_inputs(config: RunConfig) -> None:
    """Check that a resumed run has the data and rewards it started with: others would make it a different run.

    Raises:
        ConfigError: they have changed since.
    """
    digest, path = inputs_sha256(config), RunFolder(run_folder(config)).inputs
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, digest.encode())
        except OSError as error:
            raise ConfigError(f"Cannot create the run folder {path.parent}: {error.strerror}.") from error
    elif path.read_text() != digest:
        raise ConfigError(
            f"The data or a reward file has changed since {path.parent} began, so resuming would mix two experiments. "
            f"Restore them, or start a new run. (If a repaired reward file is what changed, remove {path.name}.)"
        )


def checked(config: RunConfig) -> RunConfig:
    """Return the settings with which any engine starts the run, after every check that precedes the first model.

    Raises:
        ConfigError: something is wrong, or a resumed run has other inputs than it started with.
    """
    config = started(all_at_once(config).with_values({"output.run": run_folder(config).name}))
    check(config)
    same_inputs(config)
    if config.privacy.mode == "secagg":
        prepare_manifest(config, member_names(config))
    record_canaries(run_folder(config), make_canaries(config))
    return config


def run_simulation(config: RunConfig) -> Run:
    """Check everything that can be checked, run the federation that the settings describe, and return its run.

    Raises:
        FedGRPOError: something is wrong, found before a model is loaded.
        RunError: the run could not be completed; its committed rounds are safe.
    """
    config = checked(config)
    folder = run_folder(config)
    grid = LocalGrid(make_workers(config))
    try:
        with keeping(folder):
            app(grid, Context(1, 1, {}, RecordDict(), config.flat()))
    except RunError as error:
        if RunFolder(folder).begun:
            raise type(error)(f"{error}\nResume it with: fedgrpo simulate --resume {folder}") from error
        raise
    finally:
        grid.close()
    return Run.read(folder)


def make_workers(config: RunConfig) -> dict[int, Worker]:
    """Return node id -> worker process. Client k has node id k + 2 (1 is Flower's server); workers are assigned in
    turn."""
    clients, numbers = config.simulation.clients, config.simulation.taking_part
    count = min(config.simulation.workers or _workers(config), len(numbers))
    nodes: list[dict[int, NodeConfig]] = [{} for _ in range(count)]
    for i, k in enumerate(numbers):
        nodes[i % count][k + 2] = {"partition-id": k, "num-partitions": clients}
    folder = model_folder(config.model.name, config.model.revision, config.backend.source)
    threads = usual_threads(folder, count)
    workers = [ProcessWorker(share, config.flat(), threads) for share in nodes]
    return {node: worker for worker, share in zip(workers, nodes, strict=True) for node in share}


def _workers(config: RunConfig) -> int:
    """Return one if vLLM samples, whose engine serves all clients; else as many as the machine supports."""
    return 1 if config.backend.uses_vllm else default_workers()


def default_workers() -> int:
    """Return one worker per core; with a GPU only one, because its memory holds one base model."""
    if Path("/proc/driver/nvidia/version").exists():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
