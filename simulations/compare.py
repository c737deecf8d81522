"""Base model against adapter on held-out problems, paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ..client.learner.data import Problem
from ..common.config import RunConfig, load_scenario
from ..common.errors import ConfigError
from ..common.peft_files import read_peft
from ..common.protocol import Evaluation, Tally
from ..common.seeds import derived_seed
from ..server.scores import Score, score
from ..server.store import Store
from .datasets import load_problems
from .results import Run
from .virtual import SYSTEM_PROMPTS, resolve_model


@dataclass(frozen=True, slots=True)
class Sample:
    """One problem with the completion of the base model and of the adapter."""

    question: str
    answer: str
    before: str
    after: str
    right_before: bool
    right_after: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both came to: by decoding, (base model, adapter)."""

    name: str
    adapter_sha256: str
    problems: int
    scores: dict[str, tuple[Score, Score]]
    by_class: dict[str, Tally]
    samples: list[Sample]

    def as_json(self) -> dict[str, Any]:
        """All of it but the samples' texts."""
        return {
            "adapter": self.name,
            "adapter_sha256": self.adapter_sha256,
            "problems": self.problems,
            **{d: {"before": asdict(b), "after": asdict(a)} for d, (b, a) in self.scores.items()},
            "by_class": {name: asdict(score(tally)) for name, tally in self.by_class.items()},
        }


def compare(target: Path, adjust: Callable[[RunConfig], RunConfig], seed: int | None) -> Comparison:
    """Answer the held-out problems of a run with its adapter and without.

    Args:
        target: a run folder (its last adapter is taken), or `RUN/adapters/NUMBER`.
        adjust: changes the run's settings: other problems, other data.
        seed: of the sampling; None takes the run's.

    Raises:
        ConfigError: `target` is neither, or the adapter does not fit the model.
    """
    from ..client.learner.resident import ResidentModel

    run, folder = _locate(target)
    config = adjust(load_scenario(run / "config.resolved.toml"))
    adapter = read_peft(folder)
    _, problems = load_problems(config)
    model_folder = resolve_model(config.model.name, config.model.revision)
    model = ResidentModel(model_folder, config, adapter.schema.trains, problems[0])
    if model.schema.sha256 != adapter.schema.sha256:
        raise ConfigError(f"The adapter in {folder} was trained on a model of other shapes than {config.model.name}.")
    sampling_seed = derived_seed(config.federation.seed if seed is None else seed, "compare")
    passes = [(config.evaluation.temperature, False), (config.evaluation.temperature, True), (0.0, False), (0.0, True)]
    found = {}
    for temperature, adapted in track(passes, "answering", console=Console(stderr=True), transient=True):
        found[temperature, adapted] = _answers(
            model, problems, config, temperature, sampling_seed, adapter if adapted else None
        )
    return _compared(f"{run.name}, adapter {folder.name}", adapter.sha256, problems, config, found)


def _answers(
    model: Any, problems: list[Problem], config: RunConfig, temperature: float, seed: int, adapter: Any
) -> Any:
    from ..client.learner.evaluate import answer_all

    adapted = model.trainer.adapted
    if adapter is not None:
        adapted.load(adapter)
    options: dict[str, Any] = {
        "system_prompt": SYSTEM_PROMPTS[config.simulation.system_prompt],
        "temperature": temperature,
        "max_new_tokens": config.evaluation.max_completion_length or config.grpo.max_completion_length,
        "batch_size": config.evaluation.batch_size,
        "seed": seed,
    }
    if adapter is not None:
        return answer_all(adapted, model.tokenizer, problems, **options)
    with adapted.base_only():
        return answer_all(adapted, model.tokenizer, problems, **options)


def _compared(name: str, sha256: str, problems: list[Problem], config: RunConfig, found: dict[Any, Any]) -> Comparison:
    from ..client.learner.evaluate import count

    columns = config.evaluation.class_columns
    scores: dict[str, tuple[Score, Score]] = {}
    evaluation = Evaluation(total=Tally())
    for decoding, temperature in (("greedy", 0.0), ("sampled", config.evaluation.temperature)):
        base, now = found[temperature, False], found[temperature, True]
        evaluation = count(problems, now, base, columns)
        scores[decoding] = (score(count(problems, base, base, ()).total), score(evaluation.total))
    pairs = zip(
        problems, found[config.evaluation.temperature, False], found[config.evaluation.temperature, True], strict=True
    )
    samples = [Sample(p.question, p.answer, b.text, a.text, b.strict, a.strict) for p, b, a in pairs]
    return Comparison(name, sha256, len(problems), scores, evaluation.classes, samples)


def _locate(target: Path) -> tuple[Path, Path]:
    """(run folder, adapter folder)."""
    if (target / "config.resolved.toml").is_file():
        committed = [line["round"] for line in Run.read(target).journal if line["event"] == "COMMITTED"]
        return target, Store(target).adapter_folder(max(committed, default=0))
    run = target.resolve().parent.parent
    if target.is_dir() and (run / "config.resolved.toml").is_file():
        return run, target
    raise ConfigError(f"{target} is neither a run folder nor one of its adapters (RUN/adapters/NUMBER).")
