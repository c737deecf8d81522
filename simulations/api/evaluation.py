"""`fedgrpo.evaluate`: held-out problems put to an adapter and its base model, as the command does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..evaluation import answering, session
from ..evaluation.questions import Asked
from ..evaluation.target import locate
from .run import Run


def evaluate(
    target: Run | str | Path | None = None,
    *,
    model: str | Path | None = None,
    problems: str | Path | Sequence[Mapping[str, Any]] | None = None,
    question: str = "question",
    answer: str = "answer",
    classes: Sequence[str] = (),
    rewards: str = "",
    system: str = "",
    limit: int = 0,
    samples: int = 1,
    pass_at: Sequence[int] = (),
    temperature: float | None = None,
    greedy: bool = True,
    seed: int | None = None,
    save: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> session.EvaluationResult:
    """Answer held-out problems with an adapter and with its base model, in pairs; or with a model alone.

        result = fedgrpo.evaluate(run, problems=[{"question": "3 + 4?", "answer": "7"}])
        result.as_json()["greedy"]["strict"]     # base, adapter, gain, 95 % interval, problems

    Args:
        target: a run, a run folder, one of its adapters, or any PEFT adapter.
        model: a model alone, or where the base model of `target` is.
        problems: a file (.jsonl, .parquet, .csv), or rows with the columns `question` and `answer`; by default the
            held-out problems of the run.
        classes: columns of the problems to split accuracy by.
        rewards, system, limit, samples, pass_at, temperature, greedy, seed, save: as the command's options.
        settings: any other settings, by name.

    Raises:
        fedgrpo.common.errors.FedGRPOError: target, problems, rewards or settings are wrong.
    """
    place = target.folder if isinstance(target, Run) else None if target is None else Path(target).expanduser()
    chosen = locate(place, None if model is None else str(model)).with_settings(settings or {})
    plan = answering.protocol(chosen.config, samples, temperature, greedy or samples == 0, seed)
    with TemporaryDirectory() as folder:
        asked = Asked(
            file=_file(problems, Path(folder)),
            question=question,
            answer=answer,
            classes=tuple(classes),
            system=system,
            rewards=rewards,
            limit=limit,
        )
        return session.evaluate(
            chosen,
            asked,
            plan,
            pass_at=answering.checked_counts("pass_at", pass_at or sorted({1, max(1, samples)}), samples),
            save=Path(save).expanduser() if save else None,
        )


def _file(problems: str | Path | Sequence[Mapping[str, Any]] | None, folder: Path) -> str:
    """Return the file of the problems; rows are written to one, so that they are read and checked like any other."""
    if problems is None or isinstance(problems, (str, Path)):
        return str(problems or "")
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in problems), encoding="utf-8")
    return str(path)
