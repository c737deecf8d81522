"""`fedgrpo finetune`: all weights of a model, at one site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...common.analysis.scores import fall_in_words
from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError
from ...server.run.completion import complete_run
from ..commands import (
    DataOption,
    ModelOption,
    ScenarioArgument,
    SeedOption,
    SetOption,
    absolute,
    new_run,
)

if TYPE_CHECKING:
    from .finetune import Finetuned


def finetune(
    scenario: ScenarioArgument = "builtin",
    central: Annotated[
        bool, typer.Option("--central", help="One client with all problems takes the steps of all, one after another.")
    ] = False,
    model: ModelOption = None,
    source: Annotated[str | None, typer.Option(help="Where a named model comes from: hub or modelscope.")] = None,
    data: DataOption = None,
    seed: SeedOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to train.")] = None,
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs"),
    run: Annotated[str | None, typer.Option(help="Name of the run's folder; default: scenario and time.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume the run in this folder.", autocompletion=complete_run)
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Train all weights of a model on one machine with a scenario's settings, rewards and data; nothing is sent.

    Weights, gradients and AdamW's moments are float32: about 16 bytes a weight, and 4 more with a KL term. A scenario
    of several clients is refused without --central. A checkpoint is written each train.steps-per-round steps, and the
    model folder at the end.

    [bold]Examples[/bold]

      fedgrpo finetune --central --set grpo.learning-rate=1e-3 --rounds 3
      fedgrpo finetune qwen0.5b-five-rewards --central --data gsm8k/
      fedgrpo finetune --resume runs/qwen0.5b-five-rewards-full-20260101-120000
    """
    from ..study.play import Interrupted
    from .finetune import finetune as train_all
    from .finetune import settings_of

    options = {
        "model.name": model,
        "backend.source": source,
        "simulation.data": data and absolute(data),
        "federation.seed": seed,
        "federation.rounds": rounds,
    }
    if resume is None:
        config = new_run(scenario, options, settings or [], out=out, name=run, kind="-full", central=central)
    elif central or run or settings or any(value is not None for value in options.values()):
        raise ConfigError("--resume goes on with the run's own settings; no other option may change them.")
    else:
        config = settings_of(resume)
    try:
        done = train_all(config, say)
    except KeyboardInterrupt:
        folder = Path(config.output.dir) / config.output.run
        raise Interrupted(f"Stopped on request. Go on with: fedgrpo finetune --resume {folder}") from None
    print(json.dumps(done.as_json()) if output is Format.json else _in_words(done))


def _in_words(done: Finetuned) -> str:
    sampled, greedy = done.scores["sampled"], done.scores["greedy"]
    falls = [fall for fall in (fall_in_words("Sampled", sampled), fall_in_words("Greedy", greedy)) if fall]
    lines = [
        f"Held-out accuracy, sampled: {sampled.base:.1%} → {sampled.strict:.1%} on the same {sampled.problems} "
        f"problems ({sampled.interval}; strict); greedy {greedy.base:.1%} → {greedy.strict:.1%}",
        *falls,
        f"Model folder  {done.folder / 'model'}",
        f"SHA-256       {done.sha256}",
        f"Metrics       {done.folder / 'metrics.jsonl'}",
    ]
    return "\n".join(lines)
