"""An organisation's file with a strict policy, written where a test wants it."""

from fedgrpo.client.organisation.settings import Organisation, OrganisationFile
from fedgrpo.common.settings import toml

ALLOWED = {
    "organisation.name": "clinic",
    "data.train": "train.jsonl",
    "rewards.use": "gsm8k",
    "model.name": "builtin",
    "policy.privacy": "none",
    "policy.max-rank": 8,
    "policy.methods": ["ffa", "naive"],
    "policy.target-modules": ["all-linear"],
    "policy.max-learning-rate": 1e-2,
    "policy.max-rounds": 10,
    "policy.max-trainings": 1000,
    "policy.max-evaluations": 1000,
    "policy.max-steps-per-round": 4,
    "policy.max-generations": 8,
    "policy.max-completions-per-step": 75,
    "policy.max-new-tokens": 256,
    "policy.min-members": 2,
    "policy.max-delta-norm": 10.0,
    "policy.max-bytes-per-round": 1000,
    "policy.metrics": ["groups/*", "reward/mean"],
    "policy.min-groups": 4,
    "policy.evaluate": True,
    "policy.class-columns": ["steps"],
    "policy.min-class-problems": 5,
}


def organisation_file(tmp_path, **changes):
    values = {**ALLOWED, **{key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}}
    file = tmp_path / "clinic.toml"
    file.write_text(toml.to_toml(toml.with_values(Organisation(), values)))
    return OrganisationFile.read(file)
