"""`fedgrpo finetune`: all weights of a model, at one site."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError
from ..commands import (
    DataOption,
    ScenarioArgument,
    SeedOption,
    SetOption,
    scenario_stem,
    simulated_settings,
    with_options,
)


def finetune(
    scenario: ScenarioArgument = "builtin",
    central: Annotated[
        bool, typer.Option("--central", help="One client with all problems takes the steps of all, one after another.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="builtin, a Hub name, or a local folder.")] = None,
    source: Annotated[str | None, typer.Option(help="Where a named model comes from: hub or modelscope.")] = None,
    data: DataOption = None,
    seed: SeedOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to train.")] = None,
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs"),
    run: Annotated[str | None, typer.Option(help="Name of the run's folder; default: scenario and time.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    output: FormatOption = Format.text,
) -> None:
    """Train all weights of a model at one site, by a scenario's settings, rewards and data; no adapter, nothing sent.

    Weights, gradients and AdamW's moments are float32: about 16 bytes a weight, and 4 more with a KL term. A scenario
    of several clients is refused without --central. A checkpoint is written each train.steps-per-round steps, and the
    model folder at the end.

    [bold]Examples[/bold]

      fedgrpo finetune --central --set grpo.learning-rate=1e-3 --rounds 3
      fedgrpo finetune qwen0.5b-five-rewards --central --data gsm8k/
      fedgrpo finetune --resume runs/qwen0.5b-five-rewards-full-20260101-120000
    """
    from ..engine import runner
    from ..study.play import Interrupted
    from .finetune import finetune as train_all
    from .finetune import settings_of

    if resume is not None:
        if central or any(option is not None for option in (model, source, data, seed, rounds, settings, run)):
            raise ConfigError("--resume goes on with the run's own settings; no other option may change them.")
        config = settings_of(resume)
    else:
        given = {
            "model.name": model,
            "backend.source": source,
            "simulation.data": data and str(Path(data).expanduser().resolve()),
            "federation.seed": seed,
            "federation.rounds": rounds,
            "output.dir": str(out.expanduser().resolve()),
            "output.run": run or f"{scenario_stem(scenario)}-full-{time.strftime('%Y%m%d-%H%M%S')}",
        }
        config = with_options(runner.scenario(scenario), given, settings or [])
        config = simulated_settings(config, central=central)
    try:
        done = train_all(config, say)
    except KeyboardInterrupt:
        folder = Path(config.output.dir) / config.output.run
        raise Interrupted(f"Stopped on request. Go on with: fedgrpo finetune --resume {folder}") from None
    if output is Format.json:
        print(json.dumps(done.as_json()))
        return
    found, greedy = done.scores["sampled"], done.scores["greedy"]
    print(
        f"Held-out accuracy {found.base:.1%} → {found.strict:.1%} on the same {found.problems} problems "
        f"({found.interval}; sampled, strict); greedy {greedy.base:.1%} → {greedy.strict:.1%}\n"
        f"Model folder  {done.folder / 'model'}\nSHA-256       {done.sha256}\n"
        f"Metrics       {done.folder / 'metrics.jsonl'}"
    )
