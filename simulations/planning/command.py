"""The command `fedgrpo plan`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import re
from typing import Annotated

import typer

from ...common.bounds import between
from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from ..commands import ClientsOption, ModelOption, ScenarioArgument, SetOption, absolute, with_options

MOST_BYTES = 10**15
UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


def plan(
    scenario: ScenarioArgument = "builtin",
    gpu: Annotated[str | None, typer.Option(help="The GPU's memory: 24GB, 80GiB. Default: of the one here.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Plan for this machine's processors and memory.")] = False,
    clients: ClientsOption = None,
    model: ModelOption = None,
    data: Annotated[str | None, typer.Option(help="Folder with train.jsonl and test.jsonl; for --calibrate.")] = None,
    settings: SetOption = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Load the model here and time a few steps. Needs the [simulation] extra."),
    ] = False,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Tokens sampled per second, where you know it.")
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Estimate what a scenario needs before it runs: memory by part, which setting to change, bytes, work, hours.

    Reads no weights and asks no network: the model's shape is from its folder, the Hub's cache, or a table.

    [bold]Examples[/bold]

      fedgrpo plan gsm8k --gpu 24GB
      fedgrpo plan gsm8k --gpu 16GB --set backend.quantization=4bit
      fedgrpo plan gsm8k --gpu 80GB --clients 8 --tokens-per-second 4000
      fedgrpo plan builtin --cpu --calibrate       times a few steps
      fedgrpo plan gsm8k --gpu 24GB --format json
    """
    from ..engine.runner import scenario as read
    from .plan import make_plan
    from .view import print_plan

    if calibrate and tokens_per_second is not None:
        raise ConfigError("--calibrate measures the speed; give it, or --tokens-per-second, not both.")
    options = {"simulation.clients": clients, "model.name": model, "simulation.data": data and absolute(data)}
    config = with_options(read(scenario), options, settings or [])
    machine = _machine(config, gpu, cpu=cpu)
    estimate = make_plan(config, machine, _speed(config, tokens_per_second, calibrate=calibrate))
    if output is Format.json:
        print(json.dumps(estimate.as_json()))
    else:
        print_plan(estimate)


def bytes_of(text: str) -> int:
    """Bytes of a size as people write it; GB are 10^9, about what a card of that name leaves to a program.

    >>> bytes_of("24GB"), bytes_of("1.5 GiB")
    (24000000000, 1610612736)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(found.group(2).upper()) if found else None
    size = float(found.group(1)) * unit if found and unit else 0.0
    if not UNITS["MB"] <= size <= MOST_BYTES:
        raise ConfigError(f"--gpu {text} is not the size of a GPU's memory. Write it as in 24GB or 80GiB.")
    return int(size)


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


def _speed(config: RunConfig, tokens_per_second: float | None, *, calibrate: bool):
    """Return how fast the machine samples: as measured here, as the user knows it, or None."""
    from ..engine.runner import check
    from .workload import Speed

    if tokens_per_second is not None:
        between("--tokens-per-second", tokens_per_second, 0.0, 1e9, "hours are tokens divided by it", open_low=True)
        return Speed(tokens_per_second=tokens_per_second, source=f"--tokens-per-second {tokens_per_second:g}")
    if not calibrate:
        return None
    from .calibrate import calibrate as measured

    check(config)
    say("loading the model, then a few steps")
    return measured(config)
