"""One evaluation, from the command line's options to its figures: first checks, then the model, then the answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ...client.learner.models.load import load_model
from ...client.learner.models.model_files import model_folder
from ...client.learner.models.precision import resolved_dtype
from ...common.cli.options import say
from ...common.settings.run_config import RunConfig
from . import answering
from .answer import ADAPTER, BASE, Answer
from .measures import Measured, measured
from .questions import Asked, Questions, gather
from .record import Record
from .target import Target

if TYPE_CHECKING:
    from ...client.learner.data.problems import Problem
    from ...client.learner.training.local_learner import LoadedModel

SAY_EVERY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """An evaluation: what was evaluated, by which protocol, and the result."""

    target: Target
    questions: Questions
    how: answering.Protocol
    adapter_sha256: str
    measured: Measured
    answers: list[Answer]
    seconds: float
    sampled_now: int
    """Completions that were sampled in this process, not read from the file."""

    def as_json(self) -> dict[str, Any]:
        """Return the evaluation for JSON, without the completions."""
        speed = self.sampled_now / self.seconds if self.sampled_now else None
        return {
            "target": self.target.name,
            "model": self.target.config.model.name,
            "adapter_sha256": self.adapter_sha256 or None,
            "problems": len(self.questions.problems),
            "source": self.questions.source,
            "protocol": {"system_prompt": self.questions.system_prompt, **asdict(self.how)},
            **self.measured.as_json(),
            "completions": len(self.answers),
            "sampled_now": self.sampled_now,
            "seconds": round(self.seconds, 3),
            "completions_per_second": speed and round(speed, 3),
        }

    def samples(self, count: int) -> Iterator[tuple[Problem, Answer, Answer | None]]:
        """Yield the first problems with one completion of each model, sampled, or greedy if there is nothing else."""
        last = self.answers[-1].decoding
        first = {(a.model, a.problem): a for a in self.answers if a.decoding == last and a.sample == 0}
        for i, problem in enumerate(self.questions.problems[:count]):
            yield problem, first[BASE, i], first.get((ADAPTER, i))


class OnBatch(Protocol):
    """Told after each batch: its completions, and whether they were sampled now."""

    def __call__(self, completions: int, sampled: bool) -> None:
        """A batch is answered."""
        ...


def evaluate(
    target: Target,
    asked: Asked,
    how: answering.Protocol,
    *,
    pass_at: Sequence[int],
    save: Path | None,
) -> EvaluationResult:
    """Answer, judge and count.

    Raises:
        FedGRPOError: problems, rewards, model or adapter are wrong; earlier answers are in `save`.
    """
    questions = gather(target, asked)
    model, adapter_sha256 = loaded(target, questions.problems[0])
    if how.dtype == "auto":
        how = replace(how, dtype=model.dtype)  # another type gives other answers
    from ...client.learner.training.evaluate import prompt_texts  # after the model: Unsloth has to come first

    plan = answering.decoding_passes(how, bool(adapter_sha256))
    total = sum(decoding_pass.count for decoding_pass in plan) * len(questions.problems)
    start = time.perf_counter()
    with closing(model.trainer.sampler), answering_progress(total) as progress:
        prompts = prompt_texts(model.tokenizer, questions.problems, questions.system_prompt)
        record = Record(save, answering.fingerprint(questions, how, prompts, model.sha256, adapter_sha256))
        answers = answering.answer_all(model, questions, how, plan, prompts=prompts, record=record, on_batch=progress)
    return EvaluationResult(
        target=target,
        questions=questions,
        how=how,
        adapter_sha256=adapter_sha256,
        measured=measured(answers, questions, pass_at),
        answers=answers,
        seconds=time.perf_counter() - start,
        sampled_now=progress.sampled,
    )


def loaded(target: Target, example: Problem) -> tuple[LoadedModel, str]:
    """Return (the model with the target's adapter, the adapter's SHA-256; empty without an adapter).

    Raises:
        ConfigError: the model cannot be loaded, or the adapter does not fit it.
    """
    config: RunConfig = target.config
    folder = model_folder(config.model.name, config.model.revision, config.backend.source)
    base = load_model(folder, resolved_dtype(config, folder), backend=config.backend)
    for note in base.notes:
        say(note)
    from ...client.learner.training.local_learner import LoadedModel  # after the model: Unsloth has to come first

    model = LoadedModel(base, config, example)
    adapter = target.adapter(model.schema)
    if adapter is None:
        return model, ""
    model.trainer.adapted.load(adapter)
    return model, adapter.sha256


class _Counter:
    """A counter of completions with a display: a progress bar on a terminal, otherwise a line now and then."""

    def __init__(self, total: int, bar: Progress | None) -> None:
        self.sampled = 0
        self._total, self._bar, self._done = total, bar, 0
        self._started = self._said = time.monotonic()
        self._task = bar.add_task("answering", total=total, rate="") if bar else None

    def __call__(self, completions: int, sampled: bool) -> None:
        """Count an answered batch, whether sampled in this process or read from the file."""
        self._done += completions
        self.sampled += completions if sampled else 0
        now = time.monotonic()
        rate = self.sampled / max(now - self._started, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:.1f}/s" if self.sampled else "")
        elif now - self._said >= SAY_EVERY_S and self.sampled:
            left = (self._total - self._done) / rate
            say(f"{self._done} of {self._total} completions, {rate:.1f} a second, about {left:.0f} s to go")
            self._said = now


@contextmanager
def answering_progress(total: int) -> Iterator[_Counter]:
    """Count completions up to `total` on stderr: a progress bar on a terminal, otherwise a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Counter(total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Counter(total, bar)
