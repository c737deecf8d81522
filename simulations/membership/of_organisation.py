"""The prompts of a real organisation: its own file's, which nobody else has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...client.learner.data.problems import Problem
from ...client.learner.data.tables import read_organisation_data
from ...client.learner.privacy.spent import FILE as SPENT
from ...client.learner.service.ledger import FILE
from ...client.learner.service.ledger_lines import prompts_read
from ...client.learner.service.load_organisation import organisation_model, organisation_rewards
from ...client.organisation.settings import OrganisationFile
from ...common.errors import ConfigError
from ...common.settings.scope import for_organisation
from ..evaluation.target import Target
from .subjects import Subjects, chosen, fair_coins

if TYPE_CHECKING:
    from ...client.learner.training.local_learner import LoadedModel

MOST_COIN_SHARE = 0.95


def at_organisation(target: Target, organisation: OrganisationFile) -> Target:
    """Return the target with the organisation's own base model, loader and sampler."""
    config = for_organisation(target.config, organisation.settings.backend)
    folder = str(organisation_model(organisation))
    return Target(target.name, config.with_values({"model.name": folder}), target.folder, False)


def check_base(organisation: OrganisationFile, model: LoadedModel) -> None:
    """Refuse another base model than the organisation's file pins.

    Raises:
        ConfigError: its hash is another one.
    """
    pinned = organisation.settings.model.sha256
    if pinned and model.sha256 != pinned:
        raise ConfigError(
            f"The base model has SHA-256 {model.sha256}, but {organisation.file} pins model.sha256 = {pinned}. The "
            "audit would compare the adapter with a model that it was not trained on."
        )


def subjects_of_organisation(organisation: OrganisationFile, model: LoadedModel, *, limit: int, seed: int) -> Subjects:
    """Return the organisation's prompts to train on and its held-out ones, as far as they are short enough.

    Where a hash holds prompts out (`data.held-out-share`), it is the coin that the bound on epsilon needs.

    Raises:
        ConfigError, DataError: the data cannot be read, or there are too few prompts of one kind.
    """
    data, system_prompt = organisation.settings.data, organisation.settings.prompt.system
    train, held_out = (_short(problems, model, system_prompt) for problems in read_organisation_data(organisation))
    members, others = chosen(train, held_out, limit=limit, seed=seed)
    coins = []
    if not data.held_out and 0 < data.held_out_share <= MOST_COIN_SHARE:
        coins = fair_coins(train, held_out, share_out=data.held_out_share, limit=limit, seed=seed)
    return Subjects(
        members=members,
        others=others,
        others_are="the organisation's held-out prompts",
        coins=coins,
        coins_are="prompts of your own, held out by a hash",
        system_prompt=system_prompt,
        rewards=organisation_rewards(organisation),
        budgets=(organisation.folder / SPENT,),
        notes=_notes(organisation, len(train)),
    )


def _short(problems: list[Problem], model: LoadedModel, system_prompt: str) -> list[Problem]:
    lengths = model.prompt_lengths(problems, system_prompt) if problems else []
    limit = model.config.grpo.max_prompt_length
    return [problem for problem, length in zip(problems, lengths, strict=True) if length <= limit]


def _notes(organisation: OrganisationFile, prompts: int) -> list[str]:
    """Return a word where the ledger knows that fewer prompts were read than there are."""
    read = prompts_read(organisation.folder / FILE)
    if read is None:
        return [
            f"There is no ledger in {organisation.folder}, so all {prompts} prompts of the file are taken to have been "
            "trained on."
        ]
    if read < prompts:
        return [
            f"The ledger shows that at most {read} of your {prompts} prompts were trained on in any one run. The "
            "others are counted as trained on too, which hides a part of a leak."
        ]
    return []
