"""Failures as codes, which may leave an organisation in place of an error's text."""

from __future__ import annotations

from ...common.errors import (
    ConfigError,
    DataError,
    DivergedError,
    FedGRPOError,
    LearnerGoneError,
    PolicyError,
    ProtocolError,
    RewardError,
    SamplerError,
)

CODES = {
    ConfigError: "config",
    DataError: "data",
    RewardError: "reward",
    ProtocolError: "task",
    DivergedError: "diverged",
    SamplerError: "sampler",
    LearnerGoneError: "learner",
    FedGRPOError: "failed",
}


def code_of(error: Exception) -> str:
    """Return the code of a failure: for a policy refusal the server's setting, otherwise one of CODES."""
    if isinstance(error, PolicyError):
        return f"policy.{error.key}"
    if isinstance(error, ProtocolError) and error.code.startswith("secagg."):
        return error.code  # one of a fixed set; says which check of a sum failed
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), "internal")
