"""Which settings of a run each party has for itself, so that those of a scenario do not reach a real organisation.

One scenario serves a rehearsal on one machine and a real federation. Its sections `simulation` and `backend` describe
simulated clients, and `output` is the server's: an organisation has its own file, and ignores all three, whatever is in
them. Ignoring them is said where a run is submitted, checked and begun.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from .backend import Backend
from .output import Output
from .run_config import RunConfig
from .simulation import Simulation

LOCAL = ("simulation", "backend", "output")
IN_WORDS = "simulation.*, backend.* and output.*, which each party has in a file of its own"


def for_organisation(config: RunConfig, backend: Backend) -> RunConfig:
    """Return a run's settings as an organisation applies them: without those of LOCAL, and with its own backend."""
    return replace(config, simulation=Simulation(), output=Output(), backend=backend)


def shared_sha256(config: RunConfig) -> str:
    """Return the hash of the settings that all parties share: the same at the server and at every organisation."""
    shared = {key: value for key, value in config.flat().items() if key.partition(".")[0] not in LOCAL}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def ignored_settings(config: RunConfig) -> tuple[str, ...]:
    """Return the settings of LOCAL that this run changes, and an organisation ignores.

    >>> ignored_settings(RunConfig().with_values({"simulation.clients": 9, "federation.rounds": 2}))
    ('simulation.clients',)
    """
    default = RunConfig().flat()
    return tuple(k for k, value in config.flat().items() if k.partition(".")[0] in LOCAL and value != default[k])
