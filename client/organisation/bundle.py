"""Which app bundles an organisation takes part with: the server names one for each run, by its SHA-256.

No code of any bundle is run here (`client/executor.py`). The hash says what the operator submitted, and what the other
parties were told; it stands in the context that secure aggregation and the audit sign.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...common.errors import PolicyError
from ...common.settings.bundle import installed_sha256
from .policy_settings import Policy

APP_SHA256 = "app-sha256"
"""The key of the node's configuration under which the executor hands on the hash of the run's bundle."""


def accepted_bundles(policy: Policy) -> tuple[str, ...]:
    """Return the SHA-256 of every bundle that this organisation accepts."""
    return policy.app_sha256 or (installed_sha256(),)


def run_bundle(node_config: Mapping[str, object]) -> str:
    """Return the SHA-256 of the bundle that a message's run came with; empty where no executor measured it."""
    return str(node_config.get(APP_SHA256, ""))


def told_bundle(policy: Policy, fields: Mapping[str, object]) -> str:
    """Return the hash that the relay puts into the fields of a job; empty where it was not told one.

    Raises:
        PolicyError: the learner's policy does not accept it.
    """
    sha256 = str(fields.get("app", ""))
    if sha256:
        check_bundle(policy, sha256)
    return sha256


def check_bundle(policy: Policy, sha256: str) -> None:
    """Refuse a run whose bundle is not accepted.

    Args:
        sha256: of the bundle's bytes, as the executor got them; empty if they have not been measured.

    Raises:
        PolicyError: it is another one, or is not known.
    """
    if not sha256:
        raise PolicyError(
            APP_SHA256,
            "This ClientApp was not started by fedgrpo's executor, so whatever bundle the server sends would be run. "
            "Start the SuperNode with `fedgrpo client up`, or with `fedgrpo client supernode` in place of "
            "flower-supernode.",
        )
    accepted = accepted_bundles(policy)
    if sha256 in accepted:
        return
    if policy.app_sha256:
        whose, remedy = f"policy.app-sha256 allows {', '.join(accepted)}", "add it to policy.app-sha256"
    else:
        whose = f"the fedgrpo that is installed here makes {accepted[0]}"
        remedy = "install the fedgrpo that the operator has, or put the hash into policy.app-sha256"
    raise PolicyError(
        APP_SHA256,
        f"The server's app bundle is {sha256}, but {whose}. Nothing of it was run. Ask the operator over another "
        f"channel for what `fedgrpo server bundle` prints: if it is the first of these, {remedy}.",
    )
