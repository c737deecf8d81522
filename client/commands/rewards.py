"""`fedgrpo rewards`: what built-in rewards pay, what any reward pays for a completion, and a file for one's own."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ...common.cli.completion import complete_path
from ...common.cli.keys import write_new
from ...common.cli.options import Format, FormatOption, plain, plain_lines, say
from ...common.cli.tables import WholeTable
from ...common.errors import ConfigError, DataError
from ..learner.data.cells import as_text
from ..learner.data.problems import json_lines
from ..learner.rewards import FUNCTIONS, SETS, Reward, load_rewards
from ..organisation.columns import check_columns
from ..playground.command import playground

rewards = typer.Typer(help="List rewards, score completions with them, and write your own.", no_args_is_help=True)
rewards.command("playground")(playground)
TEMPLATES = Path(__file__).parent
Row = dict[str, Any]


def complete_rewards(incomplete: str) -> list[str]:
    """Return what may stand where the last reward of a line is being typed: functions, sets and Python files."""
    earlier = re.match(r"(.*[,;])?", incomplete).group()  # pyright: ignore[reportOptionalMemberAccess]
    last = incomplete.removeprefix(earlier)
    names = [name for name in (*FUNCTIONS, *SETS) if name.startswith(last)]
    return [earlier + choice for choice in (*names, *complete_path(last, ".py"))]


def complete_reward_name(incomplete: str) -> list[str]:
    """Return the built-in functions and sets that begin with what is typed."""
    return [name for name in (*FUNCTIONS, *SETS) if name.startswith(incomplete)]


@rewards.command("new")
def new(
    file: Annotated[Path, typer.Argument(help="The Python file to write.")],
    output: FormatOption = Format.text,
) -> None:
    """Write a file with a reward of your own, and a test beside it that passes as it is.

    [bold]Examples[/bold]

      fedgrpo rewards new mine.py && python test_mine.py
      fedgrpo rewards new rewards/brief.py
    """
    name = file.stem
    if file.suffix != ".py" or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ConfigError(f"{file} must be called like a Python module: letters, digits and underscores, then .py.")
    test = file.with_name(f"test_{name}.py")
    taken = [path for path in (file, test) if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} is there already. Nothing was written; choose another name.")
    words = {"name": name, "function": "answer_in_last_line"}
    for path, template in ((file, "rewards.py.template"), (test, "rewards_test.py.template")):
        write_new(path, (TEMPLATES / template).read_text(encoding="utf-8").format(**words).encode())
    use = f"{file}:{words['function']}"
    if output is Format.json:
        print(json.dumps({"file": str(file), "test": str(test), "use": use}))
    else:
        print(
            f"Made {file} and {test}.\n1. Test it: {_python()} {test}\n"
            f"2. Try it: fedgrpo rewards score {use} --completion 'so 42' --answer 42\n"
            f'3. Use it: --rewards "correctness,{use}=0.5", or rewards.use in the organisation\'s file.'
        )


def _python() -> str:
    """Return what a shell calls the Python that has fedgrpo."""
    return "python" if shutil.which("python") == sys.executable else sys.executable


@rewards.command("score")
def score(
    spec: Annotated[
        str, typer.Argument(help="A set, functions with weights, or a Python file.", autocompletion=complete_rewards)
    ],
    completion: Annotated[str | None, typer.Option(help="What a model wrote.")] = None,
    answer: Annotated[str, typer.Option(help="The reference answer.")] = "",
    column: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: a further column; again for more.")] = None,
    data: Annotated[Path | None, typer.Option(help="JSONL with completion, answer and further columns.")] = None,
    model: Annotated[str, typer.Option(help="The model of the completions: its chat template may begin them.")] = "",
    output: FormatOption = Format.text,
) -> None:
    r"""Show what each reward pays for a completion, with its weight, and the sum.

    [bold]Examples[/bold]

      fedgrpo rewards score gsm8k --completion '<answer>42</answer>' --answer 42
      fedgrpo rewards score "correctness,mine.py:brief=0.5" --data samples.jsonl
      fedgrpo rewards score think --data samples.jsonl --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
      fedgrpo rewards score json-schema --completion '{"age": 4}' --column 'schema={"required": ["age"]}'
    """
    if (completion is None) == (data is None):
        raise ConfigError("Give --completion, or --data with a JSONL file of them.")
    if data is None:
        rows = [{"completion": completion, "answer": answer, **_columns(column or [])}]
    else:
        rows = [_row(where, row) for where, row in json_lines(data)]
        if not rows:
            raise DataError(f"{data} holds no completions.")
    chosen = load_rewards(spec)
    rows = _opened(rows, model)
    _note_missing_answers(chosen, rows)
    found = [_scores(chosen, row) for row in rows]
    if output is Format.json:
        print(json.dumps({"rewards": {r.name: r.weight for r in chosen}, "rows": found}))
        return
    for row, paid in zip(rows, found, strict=True):
        _show_scores(chosen, row["completion"], paid)


@rewards.command("list")
def show(
    name: Annotated[
        str | None,
        typer.Argument(help="One function or set, with its whole description.", autocompletion=complete_reward_name),
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """List the reward functions and sets, built in and of plug-ins, and what they pay.

    [bold]Examples[/bold]

      fedgrpo rewards list
      fedgrpo rewards list code-tests
    """
    if name is not None and name not in FUNCTIONS and name not in SETS:
        load_rewards(name)  # says what is known, and what is near
        raise ConfigError(f"{name} is not built in. Its docstrings say what its functions pay.")
    functions = {n: inspect.getdoc(f) or "" for n, f in FUNCTIONS.items() if name in (None, n)}
    sets = {n: weights for n, weights in SETS.items() if name in (None, n)}
    if output is Format.json:
        print(json.dumps({"functions": functions, "sets": sets}))
    elif name is not None and name in functions:
        print(f"{name}\n\n{functions[name]}")
    else:
        _show_list(functions, sets)


def _columns(given: list[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    wrong = [name or "(nothing)" for name, equals, _ in pairs if not equals or not name.isidentifier()]
    if wrong:
        raise ConfigError(f"--column {wrong[0]} is not of the form NAME=VALUE.")
    columns = {name: value for name, _, value in pairs}
    check_columns("--column", columns, allowed=("question",))
    return columns


def _row(where: str, row: Mapping[str, Any]) -> Row:
    """Return a line's columns as training would read them: numbers as text, whatever the reward expects."""
    if not isinstance(row.get("completion"), str):
        raise DataError(f"{where} has no text in 'completion'.")
    check_columns(where, row, allowed=("completion", "answer", "question", "prompt", "truncated"))
    texts = {name: text for name, value in row.items() if name != "truncated" and (text := as_text(value)) is not None}
    return {**row, "answer": row.get("answer") or "", **texts}


def _opened(rows: list[Row], model: str) -> list[Row]:
    """Return the rows with the opening that the model's chat template writes before each completion."""
    if model:
        from ..learner.models.base_model import load_tokenizer
        from ..learner.models.chat_template import opening
        from ..learner.models.model_files import model_folder

        start = opening(load_tokenizer(model_folder(model)))
        return [{**row, "completion": start + row["completion"]} for row in rows]
    closed = sum("</think>" in row["completion"] and "<think>" not in row["completion"] for row in rows)
    if closed:
        say(
            f"{closed} of {len(rows)} completions end a <think> that they do not begin. If the model's chat template "
            "begins it, as that of DeepSeek-R1 does, give --model: training and evaluation count it as begun."
        )
    return rows


def _note_missing_answers(chosen: tuple[Reward, ...], rows: list[Row]) -> None:
    without = sum(row["answer"] == "" for row in rows)
    wanting = [r.name for r in chosen if _takes_an_answer(r)]
    if without and wanting:
        say(
            f"{without} of {len(rows)} completions have no reference answer to compare with, which "
            f"{', '.join(wanting)} may need. Give --answer, or an 'answer' in each line of --data."
        )


def _takes_an_answer(reward: Reward) -> bool:
    try:
        return "answer" in inspect.signature(reward.function).parameters
    except (ValueError, TypeError):  # a callable of C, which does not say
        return False


def _scores(chosen: tuple[Reward, ...], row: Row) -> dict[str, float | None]:
    """Return the value of each reward by name, and `total`, their weighted sum."""
    message = [{"role": "assistant", "content": row["completion"]}]
    columns = {name: [value] for name, value in row.items() if name not in ("completion", "prompt")}
    prompts = [[{"role": "user", "content": str(row.get("question", ""))}]]
    given = {"prompts": prompts, "completion_ids": [[]], "trainer_state": None, **columns}
    quiet = {"log_extra": lambda *_: None, "log_metric": lambda *_: None}
    paid = {reward.name: reward(completions=[message], **given, **quiet)[0] for reward in chosen}
    total = sum(reward.weight * (paid[reward.name] or 0.0) for reward in chosen)
    return {**paid, "total": total}


def _show_scores(chosen: tuple[Reward, ...], completion: str, paid: dict[str, float | None]) -> None:
    caption = plain_lines(completion[:200])
    table = Table("reward", "pays", "weight", "counts", caption=caption, caption_justify="left")
    for reward in chosen:
        value = paid[reward.name]
        counts = "left out" if value is None else f"{reward.weight * value:g}"
        table.add_row(plain(reward.name), "" if value is None else f"{value:g}", f"{reward.weight:g}", counts)
    table.add_section()
    table.add_row("total", "", "", f"{paid['total']:g}")
    Console().print(WholeTable(table))


def _show_list(functions: dict[str, str], sets: dict[str, dict[str, float]]) -> None:
    for title, rows in (
        ("function", {name: text.splitlines()[0] for name, text in functions.items()}),
        ("set", {name: ", ".join(f"{n} x {w:g}" for n, w in weights.items()) for name, weights in sets.items()}),
    ):
        table = Table(title, "pays" if title == "function" else "functions and their weights")
        for name, text in rows.items():
            table.add_row(plain(name), plain(text))
        if rows:
            Console().print(WholeTable(table))
