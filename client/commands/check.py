"""`fedgrpo client check`: everything that could fail later, tried now, with figures."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...common.analysis.organisation_privacy import noise_price
from ...common.errors import ConfigError, FedGRPOError, PolicyError
from ...common.messages.messages import Capabilities
from ...common.settings.run_config import RunConfig
from ...common.settings.scope import IN_WORDS, for_organisation, ignored_settings
from ..learner import Learner
from ..organisation.bundle import accepted_bundles
from ..organisation.credentials import read_credentials
from ..organisation.policy import block_size
from ..organisation.settings import OrganisationFile
from .dry_run import Leaving, allowed_run, dry_run
from .learning_signal import SampledGroup, described, signal_warnings
from .preflight import connection_problems

if TYPE_CHECKING:
    from ..learner.service.job_handler import JobHandler

WITHOUT_FLOWER = (
    "not tried: flwr is not installed beside this learner. The node records what it sends: fedgrpo client egress"
)


WITHOUT_MEMBERS = "not tried: nothing says yet who the other members of a sum are"
MASKED_LATER = (
    "not made: update and counts leave under masks, which are made of the other members' keys. What leaves before them "
    "is below"
)


@dataclass(slots=True)
class Sample:
    """A real completion of one of the organisation's prompts, with what each reward pays for it."""

    question: str
    completion: str
    rewards: dict[str, float | None]


@dataclass(slots=True)
class Checked:
    """What was found. Prompts and completions in it stay on this machine."""

    organisation: OrganisationFile
    steps: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What was tried, and what it showed."""
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    """What would work, but probably teach nothing."""
    samples: list[Sample] = field(default_factory=list[Sample])
    leaving: list[Leaving] = field(default_factory=list[Leaving])

    def as_json(self) -> dict[str, Any]:
        """For machines; without prompts and completions."""
        return {
            "file": str(self.organisation.file),
            "ok": not self.problems,
            "problems": self.problems,
            "warnings": self.warnings,
            "steps": dict(self.steps),
            "rewards": [asdict(sample)["rewards"] for sample in self.samples],
            "leaving": dict(self.leaving),
        }


def check(organisation: OrganisationFile, scenario: RunConfig | None, samples: int) -> Checked:
    """Try data, rewards, model, policy and messages, in this order; stops at the first that cannot work."""
    found = Checked(organisation)
    try:
        _try_all(found, scenario, samples)
    except FedGRPOError as error:
        found.problems.append(str(error))
    return found


def _try_all(found: Checked, scenario: RunConfig | None, samples: int) -> None:
    from ..learner.service.job_handler import JobHandler
    from ..learner.service.ledger import FILE, Ledger

    organisation = found.organisation
    found.problems += connection_problems(organisation)
    agreed = _look_at_manifest(found)
    here = JobHandler(organisation)
    _look_at_file(found, here)
    started = time.perf_counter()
    base = here.base("auto")
    seconds = time.perf_counter() - started
    found.steps.append(("base model", f"{here.folder}, loaded in {seconds:.1f} s, SHA-256 {base.sha256}"))
    found.warnings += base.notes
    if agreed not in ("", base.sha256):
        found.problems.append(f"The base model has SHA-256 {base.sha256}, the federation's manifest says {agreed}.")
    config = for_organisation(scenario, organisation.settings.backend) if scenario else allowed_run(organisation)
    if scenario and (ignored := ignored_settings(scenario)):
        found.steps.append(("ignored here", f"{', '.join(ignored)}, as everything in {IN_WORDS}"))
    answering = _answering(found, here, config)
    can = here.unguarded_capabilities()
    found.steps.append(("read", _blocks(organisation, config, can)))
    if price := here.price(Ledger(organisation.folder / FILE, organisation.policy)):
        found.steps.append(("privacy", price))
    if config.privacy.noise_multiplier:
        found.steps.append(("organisation noise", _noise(organisation, config, can)))
    found.steps.append(("machine", _machine(can.device, can.memory_bytes, can.tokens_per_second)))
    found.steps.append(
        ("adapter", f"{can.schema.size:,} trained parameters, {can.schema.size * 4 / 1e6:.2f} MB a round")
    )
    _sample(found, here, samples)
    found.steps.append(("policy", "allows the run of --scenario" if scenario else "allows a run such as assumed here"))
    if answering is None:
        found.steps.append(("messages", WITHOUT_MEMBERS))
    elif find_spec("flwr") is None:
        found.steps.append(("messages", WITHOUT_FLOWER))
    else:
        found.leaving += list(dry_run(organisation, answering, config))
        if config.privacy.mode == "secagg":
            found.steps.append(("masked vector", MASKED_LATER))


def _answering(found: Checked, here: JobHandler, config: RunConfig) -> Learner | None:
    """Return what makes the answers of a run; None while it is not known who the other members of its sums are."""
    try:
        return here.answering(config)
    except PolicyError as error:
        if error.key != "manifest":
            raise
        if str(error) not in found.problems:
            found.problems.append(str(error))
        return None


def _look_at_manifest(found: Checked) -> str:
    """Look at manifest and identity. Returns the hash of the base model that the federation agreed on, or nothing."""
    organisation = found.organisation
    try:
        credentials = read_credentials(organisation)
    except ConfigError as error:
        found.problems.append(str(error))
        return ""
    if credentials is None:
        found.steps.append(("manifest", "none is pinned: nothing that the server does can be audited"))
        return ""
    manifest = credentials.manifest
    found.steps.append(
        ("manifest", f"{manifest.federation}, {len(manifest.members)} members, fingerprint {manifest.sha256}")
    )
    return manifest.base_model_sha256


def _look_at_file(found: Checked, here: Any) -> None:
    """Look at data, policy, prompt and rewards, for which no model is needed."""
    from ..learner.models.model_files import built_in_model

    organisation = found.organisation
    found.steps.append(("data", f"{len(here.train)} problems to train on, {len(here.held_out)} held out"))
    if len(here.held_out) < organisation.policy.min_class_problems and organisation.policy.evaluate:
        found.problems.append(
            f"{len(here.held_out)} held-out problems are fewer than policy.min-class-problems = "
            f"{organisation.policy.min_class_problems}, so no counts of yours would leave. "
            f"{_how_to_have_more(here)}, or set policy.evaluate = false."
        )
    found.problems += _used_up(organisation)
    found.steps.append(("app bundle", _bundles(organisation)))
    if built_in_model(organisation.settings.model.name) and organisation.settings.prompt.system:
        found.warnings.append(
            "prompt.system is set, but the built-in policy was trained without a system prompt and seldom answers with "
            'one, so it would learn nothing. Set prompt.system = "".'
        )
    found.steps.append(("rewards", ", ".join(f"{r.name} (weight {r.weight:g})" for r in here.rewards)))
    found.steps.append(("trackers", "; ".join(map(str, organisation.settings.tracking.uses)) or "none"))


def _bundles(organisation: OrganisationFile) -> str:
    """Return the app bundles that a run may come with."""
    listed = organisation.policy.app_sha256
    source = "as policy.app-sha256 says" if listed else "that of the fedgrpo installed here"
    return f"SHA-256 {', '.join(accepted_bundles(organisation.policy))}, {source}; none of its code is run"


def _used_up(organisation: OrganisationFile) -> list[str]:
    """Return the budgets over all runs of which nothing is left."""
    from ..learner.service.ledger import FILE, Ledger

    policy, answered = organisation.policy, Ledger(organisation.folder / FILE, organisation.policy).counts()
    budgets = [("max-trainings", policy.max_trainings, answered["train"])]
    if policy.evaluate:
        budgets.append(("max-evaluations", policy.max_evaluations, answered["evaluate"]))
    return [
        f"policy.{name} is {most}, and {used} are used, over all runs: the next is refused. Raise it to take part."
        for name, most, used in budgets
        if used >= most
    ]


def _blocks(organisation: OrganisationFile, config: RunConfig, can: Capabilities) -> str:
    """Return how the prompts are read, and how many are not."""
    block = block_size(organisation.policy, config)
    if config.dp.on:
        return f"{can.examples} prompts, by chance; {can.prompts_too_long} are too long"
    left_out = f"; {can.prompts_too_long} are too long or do not fill a block" if can.prompts_too_long else ""
    return f"{can.examples} prompts, in blocks of {block}{left_out}"


def _noise(organisation: OrganisationFile, config: RunConfig, can: Capabilities) -> str:
    """Return what the noise on the sum of all members' updates hides, and costs."""
    credentials = read_credentials(organisation)
    members = len(credentials.manifest.members) if credentials else config.federation.min_clients
    return noise_price(config, can.schema.size, members)


def _how_to_have_more(here: Any) -> str:
    """A larger share is advice only where one helps and leaves something to train on."""
    share = 1.3 * here.organisation.policy.min_class_problems / (len(here.train) + len(here.held_out))
    return (
        f"Raise data.held-out-share to {share:.2f} or more, give more problems"
        if share <= 0.9
        else "Give more problems"
    )


def _machine(device: str, memory: int, speed: float) -> str:
    return f"{device}, {memory / 1e9:.1f} GB, {speed:,.0f} tokens per second in a training step's batch"


def _sample(found: Checked, here: Any, count: int) -> None:
    """Sample a group of completions for each of `count` prompts, and score them with the organisation's rewards."""
    groups = [_scored(found, here, problem, group) for problem, group in here.sample_groups(count)]
    if groups:
        found.steps.append(("learning signal", described(groups)))
    found.warnings += signal_warnings(groups)


def _scored(found: Checked, here: Any, problem: Any, group: list[tuple[str, Any]]) -> SampledGroup:
    """Score a group; its first completion becomes the sample that is shown."""
    row = problem.row(found.organisation.settings.prompt.system)
    size = len(group)
    truncated = [not sampled.ended for _, sampled in group]
    columns = {key: [value] * size for key, value in row.items() if key != "prompt"} | {"truncated": truncated}
    chats = [[{"role": "assistant", "content": text}] for text, _ in group]
    ids = [sampled.tokens for _, sampled in group]
    paid = {
        r.name: r(prompts=[row["prompt"]] * size, completions=chats, completion_ids=ids, **columns)
        for r in here.rewards
    }
    found.samples.append(Sample(problem.question, group[0][0], {name: values[0] for name, values in paid.items()}))
    totals = [sum(r.weight * (paid[r.name][i] or 0.0) for r in here.rewards) for i in range(size)]
    return SampledGroup(totals, truncated)
