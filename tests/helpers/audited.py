"""A federation with a manifest: synthetic clients that keep and sign the round log as a learner does."""

from __future__ import annotations

from pathlib import Path

from federation import honest, play, settings
from fedgrpo.client.learner.service.log_keeper import LogKeeper
from fedgrpo.client.organisation.credentials import Credentials
from fedgrpo.client.relay.error_codes import code_of
from fedgrpo.common.audit.shown import Signed, with_signature
from fedgrpo.common.errors import PolicyError
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.identity.manifest import Manifest, Member
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import Failure
from fedgrpo.common.settings.scope import for_organisation


class AuditedFederation:
    """Keys, manifest and keepers of some clients, in a folder."""

    def __init__(self, folder: Path, clients: int = 4, **values: object) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.server = Identity.generate()
        self.identities = {f"client-{k}": Identity.generate() for k in range(clients)}
        members = tuple(Member(name, each.public) for name, each in self.identities.items())
        self.manifest = Manifest(federation="test", server_key=self.server.public, members=members)
        self.manifest.write(folder / "manifest.toml")
        if not (folder / "server.identity").exists():
            self.server.write(folder / "server.identity")
        where = {"output__manifest": str(folder / "manifest.toml"), "output__identity": str(folder / "server.identity")}
        quiet = {"evaluation__every": 0, "simulation__clients": clients, "federation__start_clients": clients}
        self.config = settings(folder, **{**quiet, **where, **values})
        self.keepers = {name: self.keeper(name) for name in self.identities}
        self.refused: list[str] = []

    def keeper(self, name: str) -> LogKeeper:
        return LogKeeper(Credentials(name, self.manifest, self.identities[name]), self.folder / name)

    def sign(self, number, task, lines, data):
        """What a learner does around a round: check the log, check the task, write the receipt."""
        name = f"client-{number}"
        try:
            signed = self.keepers[name].sign(lines)
            if task is not None:
                self.keepers[name].check(task, for_organisation(self.config, self.keepers[name].backend))
                self.keepers[name].note(place_of(task), data, "clear", 4)
        except PolicyError as error:
            self.refused.append(f"{name} {error.key}")
            return wire.record_of(Failure(error=code_of(error)))
        return with_signature(wire.pack({}), Signed(*signed))

    def play(self, behave=honest, **values):
        config = self.config.with_values({k.replace("__", ".").replace("_", "-"): v for k, v in values.items()})
        return play(config, behave, self.sign)

    @property
    def log(self) -> Path:
        return Path(self.config.output.dir) / self.config.output.run / "audit.jsonl"


def place_of(task):
    return task.federation, task.round, task.attempt, task.adapter.sha256
