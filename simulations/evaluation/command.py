"""The commands `fedgrpo evaluate` and `fedgrpo chat`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...client.commands.rewards import complete_rewards
from ...client.learner.data.problems import Problem
from ...client.learner.data.system_prompts import system_prompt
from ...client.learner.rewards import absolute_paths
from ...common.cli.options import Format, FormatOption
from ...common.errors import ConfigError
from ...common.settings.run_config import Value, parse_override
from ...server.run.completion import complete_run
from .target import Target, locate


class Backend(StrEnum):
    """What samples: one of `backend_settings.SAMPLERS`."""

    transformers = "transformers"
    vllm = "vllm"
    vllm_server = "vllm-server"


TargetArgument = Annotated[
    Path | None,
    typer.Argument(
        help="A run folder, an adapter (runs/NAME/adapters/0003), or any PEFT adapter.", autocompletion=complete_run
    ),
]
ModelOption = Annotated[
    str | None, typer.Option(help="A model alone (a name, a folder, a .gguf file), or the base model of the target.")
]
SystemOption = Annotated[str, typer.Option(help="none, xml, think, or a text file; default: the run's, else none.")]
TokensOption = Annotated[int | None, typer.Option(min=1, help="Tokens of a completion; default: the run's.")]
TemperatureOption = Annotated[float | None, typer.Option(min=0.0, max=10.0, help="Default: the run's; 0 is greedy.")]
BackendOption = Annotated[Backend | None, typer.Option(help="What samples; default: the run's backend.sampler.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting: --set model.dtype=bfloat16. May be repeated.")
]


def evaluate(
    target: TargetArgument = None,
    model: ModelOption = None,
    data: Annotated[str | None, typer.Option(help="GSM8K: folder with train.jsonl and test.jsonl.")] = None,
    problems: Annotated[str, typer.Option(help="Any problems: .jsonl, .parquet, .csv or hub:NAME:SPLIT.")] = "",
    question: Annotated[str, typer.Option(help="Column of --problems.")] = "question",
    answer: Annotated[str, typer.Option(help="Column of --problems.")] = "answer",
    answer_after: Annotated[str, typer.Option(help="Mark before the answer in its column: GSM8K has ####.")] = "",
    classes: Annotated[str, typer.Option(help="Columns to split accuracy by: topic,steps.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Held-out problems; default: the run's number, or the file.")] = 0,
    rewards: Annotated[
        str,
        typer.Option(help="gsm8k, name=weight pairs, or a file; default: the run's.", autocompletion=complete_rewards),
    ] = "",
    system: SystemOption = "",
    samples: Annotated[int, typer.Option(min=0, help="Completions per problem; 0: greedy alone.")] = 1,
    pass_at: Annotated[str, typer.Option(help="k of pass@k and maj@k: 1,4,8. Default: 1 and --samples.")] = "",
    temperature: TemperatureOption = None,
    greedy: Annotated[bool, typer.Option(help="Also answer greedily.")] = True,
    max_tokens: TokensOption = None,
    backend: BackendOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling; default: the run's.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write every completion to this JSONL file, and resume from it.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Problems whose completions are printed.")] = 3,
    settings: SetOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Answer held-out problems with an adapter and with its base model, paired; or with a model alone.

    Strict and lenient accuracy, truncation, length, rewards, pass@k, maj@k, with 95 % intervals, by class.

    [bold]Examples[/bold]

      fedgrpo evaluate runs/builtin-20260101-120000
      fedgrpo evaluate runs/NAME/adapters/0003 --limit 1000
      fedgrpo evaluate runs/NAME --samples 16 --pass-at 1,4,16 --save a.jsonl
      fedgrpo evaluate --model Qwen/Qwen2.5-0.5B-Instruct --data gsm8k/
      fedgrpo evaluate runs/NAME --problems mine.jsonl --rewards mine.py
      fedgrpo evaluate PEFT_FOLDER --model MODEL --backend vllm --format json
    """
    from . import answering, session
    from .questions import Asked
    from .show import show as show_all

    own = {"simulation.dataset": "gsm8k", "simulation.data": _absolute(data)} if data else {}
    found = _adjusted(locate(target, model), {**own, **_drawn(backend, max_tokens)}, settings)
    how = answering.protocol(found.config, samples, temperature, greedy or samples == 0, seed)
    if how.samples and how.temperature == 0:
        raise ConfigError("--temperature 0 is greedy decoding, of which there is one completion: use --samples 0.")
    at = _counts(pass_at, samples)
    asked = Asked(
        file=problems,
        question=question,
        answer=answer,
        answer_after=answer_after,
        classes=tuple(name.strip() for name in classes.split(",") if name.strip()),
        system=system,
        rewards=absolute_paths(rewards) if rewards else "",
        limit=limit,
    )
    done = session.evaluate(found, asked, how, pass_at=at, save=save)
    if output is Format.json:
        print(json.dumps(done.as_json()))
    else:
        show_all(done, show)


def chat(
    target: TargetArgument = None,
    model: ModelOption = None,
    ask: Annotated[str | None, typer.Option(help="Ask one question, then exit.")] = None,
    system: SystemOption = "",
    temperature: TemperatureOption = None,
    max_tokens: TokensOption = None,
    backend: BackendOption = None,
    seed: Annotated[int, typer.Option(min=0, max=1 << 31, help="Seed of the sampling.")] = 0,
    settings: SetOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Ask the base model and the adapter the same questions, side by side. Each keeps its own conversation.

    In the talk: /greedy, /temperature T, /tokens N, /system PROMPT, /new, /help, /quit.

    [bold]Examples[/bold]

      fedgrpo chat runs/builtin-20260101-120000
      fedgrpo chat runs/NAME --temperature 0 --ask \\
          "A farm has 5 stables with 6 ducks in each, and sells 8 ducks. How many ducks remain?"
      fedgrpo chat runs/NAME --format json < questions.txt
    """
    from .answer import ADAPTER, BASE
    from .chat import Chat, How
    from .chat_view import talk
    from .session import loaded

    found = _adjusted(locate(target, model), _drawn(backend, max_tokens), settings)
    config = found.config
    how = How(
        temperature=config.evaluation.temperature if temperature is None else temperature,
        max_tokens=config.evaluation.max_completion_length or config.grpo.max_completion_length,
        system=system_prompt(system or config.simulation.system_prompt),
    )
    resident, adapter_sha256 = loaded(found, Problem("1+1?", "2"))
    sides = (BASE, ADAPTER) if adapter_sha256 else (BASE,)
    with closing(resident.trainer.sampler):
        talk(Chat(resident, how, seed, sides), ask, output)


def _adjusted(target: Target, values: Mapping[str, Value | None], settings: list[str] | None) -> Target:
    """The target with the settings that were given."""
    given = {key: value for key, value in values.items() if value is not None}
    given |= dict(parse_override(text) for text in settings or [])
    return target.with_settings(given)


def _drawn(backend: Backend | None, max_tokens: int | None) -> dict[str, Value | None]:
    return {"backend.sampler": backend and backend.value, "evaluation.max-completion-length": max_tokens}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _counts(text: str, samples: int) -> tuple[int, ...]:
    """Return the k of pass@k.

    Raises:
        ConfigError: one is not a whole number from 1 to the number of samples.
    """
    from .answering import checked_counts

    parts = [part.strip() for part in text.split(",")] if text.strip() else ["1", str(max(1, samples))]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise ConfigError(f"--pass-at is {text!r}, but must be whole numbers with commas between them, as in 1,4,8.")
    return checked_counts("--pass-at", [int(part) for part in parts], samples)
