"""The commands of the researcher: simulate, partition, report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
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
ModelOption = Annotated[str | None, typer.Option(help="builtin, a Hub name, or a local folder.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
PartitionOption = Annotated[str | None, typer.Option(help="iid, dirichlet, label, size or difficulty.")]
AlphaOption = Annotated[float | None, typer.Option(help="Concentration of dirichlet and size; small is uneven.")]


def simulate(
    scenario: ScenarioArgument = "builtin",
    clients: ClientsOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to play.")] = None,
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
        Engine, typer.Option(help="processes: workers on this machine. superlink: the real deployment, on superlink.")
    ] = Engine.processes,
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs"),
    run: Annotated[str | None, typer.Option(help="Name of the run's folder; default: scenario and time.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume the run in this folder.", autocompletion=complete_run)
    ] = None,
    list_settings: Annotated[bool, typer.Option("--list-settings", help="Print the settings and end.")] = False,
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
        name = run or default_name(scenario, "-central" * central)
        config = new_run(scenario, options, settings or [], out=out, name=name, central=central)
    if list_settings:
        print(config.to_toml() if output is Format.text else json.dumps(config.flat()))
    else:
        _simulate(config, engine, resume, output)


def _resumed(resume: Path, workers: int | None, changes: list[object]) -> RunConfig:
    """Return the settings of the run to resume.

    Raises:
        ConfigError: an option other than --workers would change them, or the folder is not a run.
    """
    from .engine import runner

    if sum(option is not None for option in changes) > (workers is not None):
        raise ConfigError("--resume goes on with the run's own settings; of the options only --workers may change.")
    return runner.resumed(resume).with_values({"simulation.workers": workers or 0})


def new_run(
    scenario: str,
    options: Mapping[str, Value | None],
    overrides: list[str],
    *,
    out: Path,
    name: str,
    central: bool,
) -> RunConfig:
    """Return the settings of a new run: the scenario's, the options, the --set overrides, and the run's folder."""
    from .engine import runner

    place = {"output.dir": absolute(out), "output.run": name}
    config = with_options(runner.scenario(scenario), {**options, **place}, overrides)
    return simulated_settings(config, central=central)


def default_name(scenario: str, kind: str = "") -> str:
    """Return the name of a run's folder: the scenario's, and the time."""
    return f"{scenario_stem(scenario)}{kind}-{time.strftime('%Y%m%d-%H%M%S')}"


def _simulate(config: RunConfig, engine: Engine, resume: Path | None, output: Format) -> None:
    """Run the simulation while the live view shows it, then write the report and print the summary."""
    from ..server.run.layout import RunFolder
    from .engine import runner, superlink
    from .report import live_view, summary
    from .report.html import write_report

    started = time.monotonic()
    with live_view.watching(config, resumed=resume is not None):
        runner.check(config)
        runner.same_inputs(config)
        real = engine is Engine.superlink or (resume is not None and RunFolder(resume).loopback.exists())
        run = superlink.run_loopback(config) if real else runner.run_simulation(config)
    report_path = write_report(run)
    wall_s = time.monotonic() - started
    if output is Format.json:
        print(json.dumps({**run.result(), "wall_seconds": round(wall_s, 3)}))
    else:
        summary.print_summary(run, report_path, wall_s)


def simulated_settings(config: RunConfig, *, central: bool) -> RunConfig:
    """The settings of a simulation that begins when all clients have joined.

    Args:
        central: one client with all problems takes the steps of all, as the arm `central` of a study.

    Raises:
        ConfigError: rounds go by time, which has no central counterpart.
    """
    from .engine import runner
    from .study import arms

    (config,) = arms.runs_of(arms.CENTRAL if central else arms.FEDERATED, config)
    return runner.all_at_once(config)


def partition(
    scenario: ScenarioArgument = "gsm8k",
    clients: ClientsOption = None,
    data: DataOption = None,
    partition: PartitionOption = None,
    alpha: AlphaOption = None,
    label: Annotated[str | None, typer.Option(help="Column that dirichlet divides by.")] = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    plot: Annotated[Path, typer.Option(help="Picture to write.")] = Path("partition.png"),
    output: FormatOption = Format.text,
) -> None:
    """Show how a scenario's problems are divided over the clients, before anything is trained.

    [bold]Examples[/bold]

      fedgrpo partition builtin
      fedgrpo partition gsm8k --data gsm8k/ --partition difficulty --clients 8
      fedgrpo partition gsm8k --partition dirichlet --label steps --alpha 0.1
    """
    from .engine import runner
    from .report import partition_view

    given = {
        "simulation.clients": clients,
        "simulation.data": data and absolute(data),
        "simulation.partition": partition,
        "simulation.partition-alpha": alpha,
        "simulation.partition-label": label,
        "federation.seed": seed,
    }
    config = with_options(runner.scenario(scenario), given, settings or [])
    split = partition_view.Split.of(config)
    split.plot(plot)
    if output is Format.json:
        print(json.dumps({**split.as_json(), "plot": str(plot)}))
    else:
        split.print_table(plot)


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)],
    output: FormatOption = Format.text,
) -> None:
    """Write report.html of a run: one file with curves, classes, bytes and samples that opens in any browser.

    [bold]Example[/bold]

      fedgrpo report runs/builtin-20260101-120000
    """
    from ..server.run.reader import Run
    from .report.html import write_report

    path = write_report(Run.read(folder))
    print(json.dumps({"report": str(path)}) if output is Format.json else f"Wrote {path}")


def absolute(path: str | Path) -> str:
    """Return a path of the command line as an absolute one: a run may be resumed from another directory."""
    return str(Path(path).expanduser().resolve())


def scenario_stem(scenario: str) -> str:
    """A scenario's name without the end of a file's; a recipe's name may hold dots."""
    return Path(scenario).name.removesuffix(".toml")


def with_options(config: RunConfig, given: Mapping[str, Value | None], overrides: list[str]) -> RunConfig:
    """`config` with the options that were given, then the --set overrides."""
    values = {key: value for key, value in given.items() if value is not None}
    for text in overrides:
        key, value = parse_override(text)
        if key in ("output.dir", "output.run"):
            raise ConfigError(f"--set {key}: use --out and --run.")
        values[key] = value
    return config.with_values(values)
