"""Base model against adapter on held-out problems, paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from ..client.learner.data import Problem
from ..common.config import RunConfig, load_scenario
from ..common.errors import ConfigError
from ..common.peft_files import read_peft
from ..common.protocol import Tally
from ..common.seeds import derived_seed
from ..server.scores import Score, score
from ..server.store import Store
from .datasets import load_problems
from .results import Run
from .virtual import SYSTEM_PROMPTS, resolve_model

if TYPE_CHECKING:
    from ..client.learner.evaluate import Answered


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
    from ..client.learner.evaluate import answer_all
    from ..client.learner.loading import Base
    from ..client.learner.resident import ResidentModel, prepare_process

    run, folder = _locate(target)
    config = adjust(load_scenario(run / "config.resolved.toml"))
    adapter = read_peft(folder)
    _, problems = load_problems(config)
    folder = resolve_model(config.model.name, config.model.revision, config.backend.source)
    base = Base.load(folder, config.model.dtype, prepare_process())
    model = ResidentModel(base, config, problems[0])
    if model.schema.sha256 != adapter.schema.sha256:
        raise ConfigError(f"The adapter in {folder} was trained on a model of other shapes than {config.model.name}.")
    sampling_seed = derived_seed(config.federation.seed if seed is None else seed, "compare")
    adapted, prompt = model.trainer.adapted, SYSTEM_PROMPTS[config.simulation.system_prompt]
    adapted.load(adapter)

    def answers(temperature: float, *, base: bool) -> list[Answered]:
        return answer_all(
            model.trainer.sampler,
            model.tokenizer,
            problems,
            config,
            system_prompt=prompt,
            temperature=temperature,
            seed=sampling_seed,
            base=base,
        )

    found: dict[str, tuple[list[Answered], list[Answered]]] = {}
    decodings = {"greedy": 0.0, "sampled": config.evaluation.temperature}
    for decoding in track(decodings, "answering", console=Console(stderr=True), transient=True):
        temperature = decodings[decoding]
        found[decoding] = answers(temperature, base=True), answers(temperature, base=False)
    return _compared(f"{run.name}, adapter {folder.name}", adapter.sha256, problems, config, found)


def _compared(
    name: str,
    sha256: str,
    problems: list[Problem],
    config: RunConfig,
    found: dict[str, tuple[list[Answered], list[Answered]]],
) -> Comparison:
    from ..client.learner.evaluate import count

    counts = {
        decoding: (count(problems, base, base, ()), count(problems, now, base, config.evaluation.class_columns))
        for decoding, (base, now) in found.items()
    }
    scores = {decoding: (score(base.total), score(now.total)) for decoding, (base, now) in counts.items()}
    pairs = zip(problems, *found["sampled"], strict=True)
    samples = [Sample(p.question, p.answer, b.text, a.text, b.strict, a.strict) for p, b, a in pairs]
    return Comparison(name, sha256, len(problems), scores, counts["sampled"][1].classes, samples)


def _locate(target: Path) -> tuple[Path, Path]:
    """(run folder, adapter folder)."""
    if (target / "config.resolved.toml").is_file():
        committed = [line["round"] for line in Run.read(target).journal if line["event"] == "COMMITTED"]
        return target, Store(target).adapter_folder(max(committed, default=0))
    run = target.resolve().parent.parent
    if target.is_dir() and (run / "config.resolved.toml").is_file():
        return run, target
    raise ConfigError(f"{target} is neither a run folder nor one of its adapters (RUN/adapters/NUMBER).")
