"""Errors, by who can act on them. Any other exception is a bug and propagates."""

from __future__ import annotations


class FedGRPOError(Exception):
    """An error with a message for a person: what is wrong, where, and what to do."""


class ConfigError(FedGRPOError):
    """A wrong setting, path or file. Raised before a model is loaded."""


class DataError(FedGRPOError):
    """Wrong content of a data file. Names the file and the line."""


class RewardError(FedGRPOError):
    """A reward function that raised, or did not return a list of finite rewards."""


class RunError(FedGRPOError):
    """A run that cannot continue. What was committed is safe, and the message says how to resume."""


class ProtocolError(FedGRPOError):
    """A message that the protocol does not allow. Only that message is dropped; `code` is sent to its sender."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PolicyError(FedGRPOError):
    """A request of the server that this organisation does not allow. `key` names the setting, and is sent to the
    server."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class DivergedError(FedGRPOError):
    """Training that ended with numbers that are not finite."""


class SamplerError(FedGRPOError):
    """An engine that failed to sample completions, or cannot be reached. The training model is unchanged."""


class LearnerGoneError(FedGRPOError):
    """A learner that does not answer on its socket, or did not finish in time."""


class PeerFailedError(ProtocolError):
    """A failure of the other side, which was late or reported an error: nothing arrived, and nothing wrong was sent."""
