"""The round log of a long run: how long an organisation needs to check it, and what it costs the server and a message.

    python benchmarks/audit.py                    1,000 rounds x 16 organisations
    python benchmarks/audit.py --quick

The log is one of secure aggregation: every record has each member's hash, its signature of who is in the sum, and its
signature of the head before. All of it is checked: each line's form, its hash, the server's signature and all members'.
The log is made without a training, by the code that writes it; seconds are of one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

from fedgrpo.client.organisation.settings import Organisation, OrganisationFile
from fedgrpo.common.audit.receipts import Receipt, write_receipt
from fedgrpo.common.audit.record import Contribution, Record, head_statement
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.identity.manifest import Manifest, Member
from fedgrpo.common.secagg.statements import Context, agreement
from fedgrpo.common.settings import toml
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.audit.round_log import Outcome, RoundLog
from fedgrpo.server.federation.audited import settings_of
from fedgrpo.simulations.audit.evidence import gather
from fedgrpo.simulations.audit.verify import verify_log

RUN = "fed-benchmark"
POLICY = {
    "privacy": "secagg",
    "max-rank": 64,
    "methods": ["naive"],
    "target-modules": ["all-linear"],
    "max-learning-rate": 1.0,
    "max-rounds": 10_000,
    "max-steps-per-round": 100,
    "max-generations": 64,
    "max-completions-per-step": 1000,
    "max-new-tokens": 10_000,
    "min-groups": 1,
}


def adapter_hash(number: int) -> str:
    return hashlib.sha256(f"adapter {number}".encode()).hexdigest()


class Federation:
    """Keys of some members, and a log that they sign."""

    def __init__(self, folder: Path, members: int) -> None:
        self.folder, self.server = folder, Identity.generate()
        self.members = {f"organisation-{k:02}": Identity.generate() for k in range(members)}
        listed = tuple(Member(name, each.public) for name, each in self.members.items())
        self.manifest = Manifest(federation="benchmark", server_key=self.server.public, members=listed)
        self.manifest.write(folder / "manifest.toml")
        self.log = RoundLog(folder / "audit.jsonl", self.manifest, self.server)
        self.config = RunConfig().with_values(
            {
                "federation.rounds": 1000,
                "privacy.mode": "secagg",
                "federation.min-clients": 3,
                "federation.min-updates": 3,
            }
        )
        self.server_s = 0.0

    def begin(self) -> None:
        texts = {"event": "created", "previous": "", "federation": "", "manifest": "", "app": "", "mode": "secagg"}
        hashes = {"base_model": "0" * 64, "schema": "1" * 64, "config": self.config.sha256}
        adapters = {"adapter_before": adapter_hash(0), "adapter_after": adapter_hash(0)}
        place = {"index": 0, "run": RUN, "time": 0, "round": 0, "attempt": 0}
        self.log.create(Record(settings=settings_of(self.config), **place, **texts, **hashes, **adapters))

    def play(self, number: int) -> None:
        """Add a round: every member signs the head and the set of members, the server checks and writes."""
        record, head = self.log.last, self.log.head
        statement = head_statement(self.manifest.sha256, RUN, record.index, head)
        signatures = {name: each.sign(statement).hex() for name, each in self.members.items()}
        agreed, said = self._agreed(number, record.adapter_after)
        agreements = {name: each.sign(said).hex() for name, each in self.members.items()}
        sent = {name: hashlib.sha256(f"{name} {number}".encode()).hexdigest() for name in self.members}
        outcome = Outcome(
            event="committed",
            round=number,
            attempt=1,
            adapter=adapter_hash(number),
            asked=tuple(self.members),
            members={n: Contribution(sha256=sha256, bytes=17_600_000, form="masked") for n, sha256 in sent.items()},
            agreement=agreements,
            agreed=agreed,
        )
        start = time.process_time()
        for name, signature in signatures.items():
            assert self.log.countersigned(name, record.index, signature) == ""
        self.log.append(self.log.prepare(outcome))
        self.server_s += time.process_time() - start
        me = next(iter(self.members))
        place = {"time": float(number), "organisation": me, "run": RUN, "round": number, "attempt": 1}
        seen = {"adapter": record.adapter_after, "index": record.index, "head": head}
        write_receipt(
            self.folder, Receipt(form="masked", sha256=sent[me], bytes=17_600_000, examples=0, **place, **seen)
        )

    def _agreed(self, number: int, adapter: str) -> tuple[dict[str, object], bytes]:
        values = {"kind": "train", "federation": RUN, "round": number, "attempt": 1, "asked": "", "app": "fedgrpo"}
        values |= {"adapter": adapter, "config": "2" * 64, "manifest": self.manifest.sha256, "version": 1}
        context, roster, names = Context(**values, numbers=("weight",)), bytes(32), sorted(self.members)
        agreed = {"context": {**values, "numbers": ["weight"]}, "roster": roster.hex(), "masked": names}
        return agreed, agreement(context, roster, names, names)

    def organisation(self) -> OrganisationFile:
        """Write the file of the first member."""
        values = {f"policy.{name}": value for name, value in POLICY.items()}
        values |= {"organisation.name": next(iter(self.members)), "data.train": "x.jsonl", "rewards.use": "gsm8k"}
        values |= {"model.name": "builtin", "learner.folder": ".", "federation.manifest": "manifest.toml"}
        values["policy.manifest-sha256"] = self.manifest.sha256
        file = self.folder / "organisation.toml"
        file.write_text(toml.to_toml(toml.with_values(Organisation(), values)))
        return OrganisationFile.read(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    rounds, members = (50, 5) if given.quick else (given.rounds, given.members)
    with tempfile.TemporaryDirectory() as name:
        federation = Federation(Path(name), members)
        federation.begin()
        for number in range(1, rounds + 1):
            federation.play(number)
        size = (federation.folder / "audit.jsonl").stat().st_size
        start = time.process_time()
        found = verify_log(gather(federation.folder / "audit.jsonl", federation.organisation()))
        seconds = time.process_time() - start
        assert found.sound, found.checks
        statuses = {check.name: check.status for check in found.checks}
        assert statuses["agreement on members"] == "ok", found.checks
    each, server_ms = size / (rounds + 1), federation.server_s / rounds * 1e3
    print(f"{rounds} rounds x {members} members: checked in {seconds:.2f} s of CPU; the log has {size / 1e6:.1f} MB")
    print(f"a round: {each / 1e3:.1f} kB of log to each member, {server_ms:.1f} ms of the server")
    figures = {"rounds": rounds, "members": members, "verify_s": seconds, "log_mb": size / 1e6}
    figures |= {"kb_per_round": each / 1e3, "server_ms_per_round": server_ms}
    print(json.dumps({"name": "audit", "ratios": {}, "figures": figures}))


if __name__ == "__main__":
    main()
