"""The command `fedgrpo simulate`, and the options that it shares with other commands."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..client.commands.rewards import complete_rewards
from ..client.learner.rewards import absolute_paths
from ..common.cli.completion import complete_path
from ..common.cli.options import Format, FormatOption
from ..common.errors import ConfigError
from ..common.settings.run_config import RunConfig, Value, parse_override
from ..server.run.completion import complete_run


class Engine(StrEnum):
    """What carries a simulation."""

    processes = "processes"
    superlink = "superlink"


def complete_scenario(incomplete: str) -> list[str]:
    """Return the shipped scenarios, and the scenario files and folders, that begin with what is typed."""
    shipped = [path.stem for path in sorted((Path(__file__).parent / "scenarios").glob("*.toml"))]
    return [name for name in shipped if name.startswith(incomplete)] + complete_path(incomplete, ".toml")


ScenarioArgument = Annotated[
    str,
    typer.Argument(
        help="builtin, split, gsm8k, a recipe (docs/recipes.md), or the path of a scenario .toml.",
        autocompletion=complete_scenario,
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting: --set grpo.beta=0.04. May be repeated.")
]
DataOption = Annotated[str | None, typer.Option(help="Folder with train.jsonl and test.jsonl.")]
ClientsOption = Annotated[int | None, typer.Option(help="Number of simulated clients.")]
ModelOption = Annotated[str | None, typer.Option(help="builtin, smollm2-135m, a Hub name, a folder, or a .gguf file.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of all randomness.")]
PartitionOption = Annotated[str | None, typer.Option(help="iid, dirichlet, label, size or difficulty.")]
AlphaOption = Annotated[float | None, typer.Option(help="Concentration of dirichlet and size; small is uneven.")]


def simulate(
    scenario: ScenarioArgument = "builtin",
    clients: ClientsOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to run.")] = None,
    seed: SeedOption = None,
    model: ModelOption = None,
    source: Annotated[str | None, typer.Option(help="Where a named model comes from: hub or modelscope.")] = None,
    data: DataOption = None,
    partition: PartitionOption = None,
    alpha: AlphaOption = None,
    rewards: Annotated[
        str | None,
        typer.Option(
            help="gsm8k, think, name=weight pairs, or a file; ';' separates clients.", autocompletion=complete_rewards
        ),
    ] = None,
    tools: Annotated[
        str | None, typer.Option(help="Python file whose functions the policy may call (docs/training.md).")
    ] = None,
    environment: Annotated[str | None, typer.Option(help="FILE.py:CLASS; each rollout has an instance.")] = None,
    central: Annotated[
        bool, typer.Option("--central", help="One client with all problems takes the steps of all, one after another.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Worker processes; default: one per core.")] = None,
    engine: Annotated[
        Engine,
        typer.Option(help="processes: worker processes on this machine. superlink: the real deployment, on loopback."),
    ] = Engine.processes,
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs"),
    run: Annotated[str | None, typer.Option(help="Name of the run's folder; default: scenario and time.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume the run in this folder.", autocompletion=complete_run)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the result, or the error.")] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Show the run on a local page while it runs (fedgrpo dashboard).")
    ] = False,
    list_settings: Annotated[bool, typer.Option("--list-settings", help="Print the settings and exit.")] = False,
    output: FormatOption = Format.text,
) -> None:
    """Simulate a federation on this machine: K clients, the real server, held-out accuracy, a report.

    [bold]Examples[/bold]

      fedgrpo simulate                                offline, no GPU, a minute
      fedgrpo simulate --clients 8 --rounds 20 --seed 1
      fedgrpo simulate mine.toml                      a scenario file of your own
      fedgrpo simulate gsm8k --data gsm8k/            Qwen2.5-0.5B-Instruct
      fedgrpo simulate gsm8k --data gsm8k/ --model builtin --rounds 2
      fedgrpo simulate qwen0.5b-think --data gsm8k/   a published recipe
      fedgrpo simulate qwen0.5b-think --data gsm8k/ --central
      fedgrpo simulate gsm8k --data gsm8k/ --source modelscope
      fedgrpo simulate --rewards "gsm8k;gsm8k;think;mine.py"
      fedgrpo simulate --engine superlink             real processes, with TLS
      fedgrpo simulate --resume runs/builtin-20260101-120000
    """
    options = {
        "simulation.clients": clients,
        "federation.rounds": rounds,
        "federation.seed": seed,
        "model.name": model,
        "backend.source": source,
        "simulation.data": data and absolute(data),
        "simulation.partition": partition,
        "simulation.partition-alpha": alpha,
        "simulation.rewards": rewards and ";".join(absolute_paths(spec) for spec in rewards.split(";")),
        "simulation.tools": tools and absolute_paths(tools),
        "simulation.environment": environment and absolute_paths(environment),
        "simulation.workers": workers,
    }
    if resume is not None:
        config = _resumed(resume, workers, changes=[central or None, run, settings, *options.values()])
    else:
        kind = "-central" * central
        config = new_run(scenario, options, settings or [], out=out, name=run, kind=kind, central=central)
    if list_settings:
        print(config.to_toml() if output is Format.text else json.dumps(config.flat()))
    else:
        _simulate(config, engine, resume, output, show=dashboard, quiet=quiet)


def _resumed(resume: Path, workers: int | None, changes: list[object]) -> RunConfig:
    """Return the settings of the run to resume.

    Raises:
        ConfigError: an option other than --workers would change them, or the folder is not a run.
    """
    from .api.settings import resumed

    if sum(option is not None for option in changes) > (workers is not None):
        raise ConfigError("--resume goes on with the run's own settings; of the options only --workers may change.")
    return resumed(resume, workers)


def new_run(
    scenario: str,
    options: Mapping[str, Value | None],
    overrides: list[str],
    *,
    out: Path,
    name: str | None,
    kind: str,
    central: bool,
) -> RunConfig:
    """Return the settings of a new run: the scenario's, the options, the --set overrides, and the run's folder.

    Args:
        kind: comes after the scenario in the folder's name, where `name` is None.
    """
    from .api.settings import default_name, simulated_settings
    from .engine import runner

    place = {"output.dir": absolute(out), "output.run": name or default_name(scenario, kind)}
    config = with_options(runner.scenario(scenario), {**options, **place}, overrides)
    return simulated_settings(config, central=central)


def _simulate(
    config: RunConfig, engine: Engine, resume: Path | None, output: Format, *, show: bool, quiet: bool
) -> None:
    """Run the simulation while the live view shows it, then write the report and print the summary."""
    from ..server.run.layout import RunFolder
    from .engine import runner, superlink
    from .report import live_view, summary
    from .report.html import write_report

    started = time.monotonic()
    page = nullcontext()
    if show:
        from ..common.web.serve import listen_anywhere, serving
        from .dashboard.app import dashboard_app
        from .dashboard.command import PORT
        from .dashboard.runs_folder import RunsFolder

        address = listen_anywhere(PORT)
        print(f"Dashboard   {address.url}#/run/{config.output.run}", file=sys.stderr, flush=True)
        Path(config.output.dir).mkdir(parents=True, exist_ok=True)
        page = serving(dashboard_app(RunsFolder(Path(config.output.dir))), address)
    with page, live_view.watching(config, resumed=resume is not None, quiet=quiet):
        real = engine is Engine.superlink or (resume is not None and RunFolder(resume).loopback.exists())
        run = superlink.run_loopback(config) if real else runner.run_simulation(config)
    report_path = write_report(run)
    wall_s = time.monotonic() - started
    if output is Format.json:
        print(json.dumps({**run.result(), "wall_seconds": round(wall_s, 3)}))
    else:
        summary.print_summary(run, report_path, wall_s)


def absolute(path: str | Path) -> str:
    """Return a path of the command line as an absolute one: a run may be resumed from another directory."""
    return str(Path(path).expanduser().resolve())


def with_options(config: RunConfig, given: Mapping[str, Value | None], overrides: list[str]) -> RunConfig:
    """Return `config` with the options that were given, then the --set overrides."""
    values = {key: value for key, value in given.items() if value is not None}
    for text in overrides:
        key, value = parse_override(text)
        if key in ("output.dir", "output.run"):
            raise ConfigError(f"--set {key}: use --out and --run.")
        values[key] = value
    return config.with_values(values)
