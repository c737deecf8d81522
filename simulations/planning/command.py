"""The command `fedgrpo plan`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig, Value, parse_override

UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


def plan(
    scenario: Annotated[str, typer.Argument(help="A scenario's name, or the path of its .toml.")] = "builtin",
    gpu: Annotated[str | None, typer.Option(help="The GPU's memory: 24GB, 80GiB. Default: of the one here.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Plan for this machine's processors and memory.")] = False,
    clients: Annotated[int | None, typer.Option(help="Number of simulated clients.")] = None,
    model: Annotated[str | None, typer.Option(help="builtin, a Hub name, or a local folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder with train.jsonl and test.jsonl; for --calibrate.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: --set grpo.beta=0.04. May be repeated.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Load the model here and time a few steps. Needs the [train] extra.")
    ] = False,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Tokens sampled per second, where you know it.")
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Say what a scenario needs before it runs: memory by part, which knob to turn, bytes, work, hours.

    Reads no weights and asks no network: the model's shape is from its folder, the Hub's cache, or a table.

    [bold]Examples[/bold]

      fedgrpo plan gsm8k --gpu 24GB
      fedgrpo plan gsm8k --gpu 16GB --model Qwen/Qwen2.5-7B-Instruct --set backend.quantization=4bit
      fedgrpo plan gsm8k --gpu 80GB --clients 8 --tokens-per-second 4000
      fedgrpo plan builtin --cpu --calibrate            loads the model and times a few steps
      fedgrpo plan gsm8k --gpu 24GB --format json
    """
    from ..engine.runner import scenario as read
    from .plan import make_plan
    from .view import print_plan
    from .workload import Speed

    given: dict[str, Value | None] = {
        "simulation.clients": clients,
        "model.name": model,
        "simulation.data": data and str(Path(data).expanduser().resolve()),
    }
    config = _with(read(scenario), given, settings or [])
    if calibrate and tokens_per_second is not None:
        raise ConfigError("--calibrate measures the speed; give it, or --tokens-per-second, not both.")
    machine = _machine(config, gpu, cpu=cpu)
    speed = _measured(config) if calibrate else None
    if tokens_per_second is not None:
        speed = Speed(tokens_per_second=tokens_per_second, source=f"--tokens-per-second {tokens_per_second:g}")
    made = make_plan(config, machine, speed)
    if output is Format.json:
        print(json.dumps(made.as_json()))
    else:
        print_plan(made)


def bytes_of(text: str) -> int:
    """Bytes of a size as people write it; GB are 10^9, about what a card of that name leaves to a program.

    >>> bytes_of("24GB"), bytes_of("1.5 GiB")
    (24000000000, 1610612736)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(found.group(2).upper()) if found else None
    size = int(float(found.group(1)) * unit) if found and unit else 0
    if size < UNITS["MB"]:
        raise ConfigError(f"--gpu {text} is no size of a memory. Write it as in 24GB or 80GiB.")
    return size


def _machine(config: RunConfig, gpu: str | None, *, cpu: bool):
    from ..doctor.gpu import gpus
    from .parts import Machine, has_tiled_logits

    if cpu and gpu:
        raise ConfigError("--cpu and --gpu are two machines. Give one of them.")
    tiled = has_tiled_logits(config.backend.loader)
    if cpu:
        return Machine("cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), tiled)
    here = 0 if gpu else max((found.memory_bytes for found in gpus()), default=0)
    return Machine("cuda", bytes_of(gpu) if gpu else here, tiled)


def _measured(config: RunConfig):
    from ..engine.runner import check
    from .calibrate import calibrate

    check(config)
    say("loading the model, then a few steps")
    return calibrate(config)


def _with(config: RunConfig, given: Mapping[str, Value | None], overrides: list[str]) -> RunConfig:
    """`config` with the options that were given, then the --set overrides."""
    values = {key: value for key, value in given.items() if value is not None}
    return config.with_values(values | dict(parse_override(text) for text in overrides))
