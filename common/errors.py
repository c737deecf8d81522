"""Errors by who can act on them. Anything that is none of these is a bug and propagates."""

from __future__ import annotations


class FedGRPOError(Exception):
    """A message for a person: what was wrong, where, and what to do."""


class ConfigError(FedGRPOError):
    """A setting, path or file is wrong. Raised before a model is loaded."""


class DataError(FedGRPOError):
    """A data file does not hold what it should. Names the file and the line."""


class RewardError(FedGRPOError):
    """A reward function raised, or returned something that is no list of finite rewards."""


class RunError(FedGRPOError):
    """A run cannot go on. What was committed is safe, and the message says how to resume."""


class ProtocolError(FedGRPOError):
    """One party sent what the protocol does not allow. Drops that message only; `code` is told to the sender."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PolicyError(FedGRPOError):
    """The server asks for what this organisation does not allow. `key` names the setting, and is told to the server."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class DivergedError(FedGRPOError):
    """Training ended with numbers that are none."""


class SamplerError(FedGRPOError):
    """The engine that samples completions failed, or cannot be reached. The model that trains is as it was."""


class LearnerGoneError(FedGRPOError):
    """The learner does not answer on its socket, or did not finish in time."""


class PeerFailedError(ProtocolError):
    """The other party failed, was late, or says that it failed: nothing came, and nothing wrong was sent."""
