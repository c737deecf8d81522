"""One audit, from the target to its result: first the checks, then the model, then the scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...client.learner.data.problems import Problem
from ...client.organisation.settings import OrganisationFile
from ...common.seeds import derived_seed
from ...common.settings.run_config import Value
from ...server.run.locate import Located, locate_adapter
from ..evaluation.session import answering_progress, loaded
from ..evaluation.target import Target, locate
from . import words
from .findings import Findings, findings
from .of_organisation import at_organisation, check_base, subjects_of_organisation
from .of_run import check_run, subjects_of_run
from .scoring import How, observe
from .signals import Values, signals
from .subjects import Subjects

if TYPE_CHECKING:
    from ...client.learner.training.local_learner import LoadedModel

EXAMPLE = Problem("1+1?", "2")
"""TRL needs a prompt to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line's options."""

    organisation: Path | None = None
    """An organisation's file; None audits a simulated run."""
    client: int | None = None
    samples: int
    limit: int
    """Prompts of each kind, at most."""
    seed: int
    delta: float
    epsilon: float | None = None
    """What was charged, where it is not written beside the prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """An audit with its result."""

    target: Target
    adapter_sha256: str
    subjects: Subjects
    how: How
    asked: Asked
    found: Findings
    scores: dict[str, Values]
    """Of every prompt in `subjects.problems`, by signal."""
    ledger: float | None
    """Epsilon that was charged; None if training was not differentially private."""
    seconds: float

    @property
    def advice(self) -> list[str]:
        """Return what to do."""
        return words.advice(self.found, reads=self.subjects.reads, private=self.ledger is not None)

    def as_json(self) -> dict[str, Any]:
        """Return the audit for JSON: figures alone, no prompts."""
        return {
            "target": self.target.name,
            "adapter_sha256": self.adapter_sha256,
            "client": self.asked.client,
            "others_are": self.subjects.others_are,
            "coins_are": self.subjects.coins_are if self.found.coins else None,
            "reads": round(self.subjects.reads, 3) or None,
            "protocol": asdict(self.how),
            **self.found.as_json(),
            "ledger_epsilon": self.ledger,
            "words": [words.verdict(self.found), words.epsilon(self.found, self.ledger)],
            "advice": self.advice,
            "notes": self.subjects.notes,
            "seconds": round(self.seconds, 3),
        }


def audit(path: Path, asked: Asked, values: Mapping[str, Value]) -> Audited:
    """Compare what the adapter does with prompts that it was trained on and with others.

    Args:
        path: a run folder, one of its adapters, or for an organisation any PEFT adapter.
        values: settings that the command line changes.

    Raises:
        FedGRPOError: the target, the data, a reward or the model is wrong; found before anything is sampled.
    """
    started, located = time.perf_counter(), locate_adapter(path)
    organisation = OrganisationFile.read(asked.organisation) if asked.organisation else None
    target = locate(path, None)
    if organisation is None:
        check_run(located)
    else:
        target = at_organisation(target, organisation)
    target = target.with_settings(values)
    model, adapter_sha256 = loaded(target, EXAMPLE)
    subjects = _subjects(model, located, organisation, asked)
    how = _how(target, asked)
    scores = _scores(model, subjects, how)
    found = findings(scores, subjects, delta=asked.delta, seed=asked.seed)
    return Audited(
        target=target,
        adapter_sha256=adapter_sha256,
        subjects=subjects,
        how=how,
        asked=asked,
        found=found,
        scores=scores,
        ledger=subjects.charged(asked.delta) if asked.epsilon is None else asked.epsilon,
        seconds=time.perf_counter() - started,
    )


def _subjects(model: LoadedModel, located: Located, organisation: OrganisationFile | None, asked: Asked) -> Subjects:
    if organisation is not None:
        check_base(organisation, model)
        return subjects_of_organisation(organisation, model, limit=asked.limit, seed=asked.seed)
    run, number = check_run(located), located.round or 0
    return subjects_of_run(run, number, model, client=asked.client, limit=asked.limit, seed=asked.seed)


def _how(target: Target, asked: Asked) -> How:
    config = target.config
    return How(
        samples=asked.samples,
        temperature=config.grpo.temperature,
        max_tokens=config.grpo.max_completion_length,
        seed=derived_seed(asked.seed, "membership"),
        batch_size=config.evaluation.batch_size,
    )


def _scores(model: LoadedModel, subjects: Subjects, how: How) -> dict[str, Values]:
    problems = subjects.problems
    with closing(model.trainer.sampler), answering_progress(2 * how.samples * len(problems)) as progress:
        observed = observe(
            model, problems, subjects.rewards, how, system_prompt=subjects.system_prompt, on_batch=progress
        )
    return signals(observed)
