"""What an organisation checks of a run: the log, its own part in it, its policy. Reads only; needs no private key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...client.organisation.credentials import pinned_manifest
from ...client.organisation.policy import check_run
from ...client.organisation.settings import OrganisationFile
from ...common.audit.chain import Chain, covered, read_chain, read_log
from ...common.audit.receipts import FILE, FOLDER, Receipt, read_receipts
from ...common.audit.record import Record
from ...common.errors import ConfigError, PolicyError, RunError
from ...common.identity.manifest import Manifest
from ...common.settings.run_config import RunConfig
from ...common.settings.scope import for_organisation
from ...common.storage.jsonl import read_lines
from ...server.audit.recompute import recomputed, were_kept
from ...server.run.layout import RunFolder
from .agreements import agreement_complaints

SHOWN = 5
"""Complaints of one check that are shown; there may be thousands."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    status: str
    """`ok`, `bad`, or `unknown` where there was nothing to check it against."""
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checks look at."""

    organisation: OrganisationFile
    manifest: Manifest
    chain: Chain
    folder: Path | None
    """The run folder, if the log lies in one."""
    copy: bytes
    """The organisation's own copy of the log; empty where there is none."""
    receipts: list[Receipt]
    """Of this run."""
    left: list[dict[str, Any]]
    """The egress record."""

    @property
    def committed(self) -> list[Record]:
        """Return the records of the rounds that count."""
        return [record for record in self.chain.records if record.event == "committed"]

    @property
    def run(self) -> str:
        """Return the run's name."""
        return self.chain.records[0].run if self.chain.lines else ""


@dataclass(slots=True)
class Verified:
    """The outcome."""

    evidence: Evidence
    checks: list[Check] = field(default_factory=list[Check])

    @property
    def sound(self) -> bool:
        """Return whether nothing is wrong."""
        return all(check.status != "bad" for check in self.checks)


def gather(log: Path, organisation: OrganisationFile) -> Evidence:
    """Read a log and what the organisation knows of its run.

    Args:
        log: the file, or the run folder.

    Raises:
        ConfigError: something cannot be read.
    """
    folder = log if log.is_dir() else None
    manifest = pinned_manifest(organisation)
    chain = read_chain(read_log(RunFolder(log).audit if folder else log), manifest)
    run = chain.records[0].run if chain.lines else ""
    own = organisation.folder / FOLDER
    copy = own / f"{run}.jsonl"
    try:
        left: list[dict[str, Any]] = read_lines(organisation.egress_record)
    except RunError as error:
        raise ConfigError(f"The egress record cannot be read: {error}") from error
    return Evidence(
        organisation=organisation,
        manifest=manifest,
        chain=chain,
        folder=folder,
        copy=read_log(copy) if run and copy.exists() else b"",
        receipts=[receipt for receipt in read_receipts(own / FILE) if receipt.run == run],
        left=left,
    )


def verify_log(evidence: Evidence) -> Verified:
    """Make all checks. Those after the first are made even where it fails: what is there is looked at."""
    made: list[Callable[[Evidence], Check]] = [
        _chain,
        _countersignatures,
        _own_copy,
        _contributions,
        _policy,
        _agreements,
        _aggregates,
    ]
    found = Verified(evidence)
    if not evidence.chain.lines:
        made = made[:1]
    found.checks = [check(evidence) for check in made]
    return found


def _chain(evidence: Evidence) -> Check:
    """The log is one chain, signed by the key in the manifest."""
    records = evidence.chain.records
    findings = [str(finding) for finding in evidence.chain.findings]
    voids = sum(record.event == "void" for record in records)
    back = sum(record.event == "resumed" and record.adapter_after != record.adapter_before for record in records)
    gone_back = f", {back} times gone back to an earlier round" if back else ""
    right = (
        f"{len(records)} records of {evidence.run}: {len(evidence.committed)} committed rounds, {voids} void "
        f"attempts{gone_back}; one chain, signed by the server"
    )
    return _check("chain and signatures", findings, right)


def _countersignatures(evidence: Evidence) -> Check:
    """All members have signed the same history (that the signatures are sound was part of the chain)."""
    name, chain = "counter-signatures", evidence.chain
    asked = sorted({member for record in chain.records for member in record.asked})
    silent = [member for member in asked if member not in chain.seen]
    if silent:
        return Check(name, "unknown", f"{', '.join(silent)} signed nothing: they may have been shown another history")
    by_all = covered(chain, asked)
    rest = len(chain.lines) - by_all
    end = f"; the last {rest} have the server's signature and not yet all of theirs" if rest else ""
    return Check(name, "ok", f"all {len(asked)} members that were asked signed the first {by_all} records{end}")


def _own_copy(evidence: Evidence) -> Check:
    """The log is the one that this organisation was shown."""
    name, mine = "own copy", evidence.copy.splitlines()
    if not mine:
        return Check(
            name, "unknown", "this organisation has no copy of this run's log: it did not take part, or lost it"
        )
    theirs = [line.data for line in evidence.chain.lines]
    if len(theirs) < len(mine):
        text = f"the log ends at record {len(theirs) - 1}; this organisation was shown record {len(mine) - 1}"
        return Check(name, "bad", text)
    differs = [k for k, line in enumerate(mine) if line != theirs[k]]
    wrong = [f"record {k} is not the one that this organisation was shown" for k in differs]
    return _check(name, wrong, f"the first {len(mine)} records are those that this organisation was shown")


def _contributions(evidence: Evidence) -> Check:
    """What is counted as this organisation's is exactly what it gave."""
    name, me = "own contributions", evidence.organisation.name
    counted = {(r.run, r.round, r.attempt): r.members[me] for r in evidence.committed if me in r.members}
    given: dict[tuple[str, int, int], set[str]] = {}
    for receipt in evidence.receipts:
        given.setdefault(receipt.attempt_at, set()).add(receipt.sha256)
    left = {str(each.get("sha256")) for entry in evidence.left for each in entry.get("fields", [])}
    wrong = [
        f"round {place[1]}: the log counts {sent.sha256[:16]}..., which this organisation has no receipt for"
        for place, sent in counted.items()
        if sent.sha256 not in given.get(place, set())
    ]
    if evidence.left:
        wrong += [
            f"round {place[1]}: {sent.sha256[:16]}... is not in the egress record"
            for place, sent in counted.items()
            if sent.sha256 not in left
        ]
    if not counted and not given:
        return Check(name, "unknown", "this organisation gave nothing for this run, and nothing is counted as its own")
    unused = len(given.keys() - counted.keys())
    more = f"; {unused} that it gave are not counted (void, late or refused)" if unused else ""
    where = "its receipts and egress record" if evidence.left else "its receipts"
    return _check(name, wrong, f"{len(counted)} updates are counted, each as in {where}{more}")


def _policy(evidence: Evidence) -> Check:
    """The run's settings are within this organisation's policy, and no round was of too few."""
    name, organisation, first = "policy", evidence.organisation, evidence.chain.records[0]
    try:
        config = RunConfig().with_values(first.settings)
    except ConfigError as error:
        return Check(name, "unknown", f"the run's settings are of another version of fedgrpo: {error}")
    if config.sha256 != first.config:
        return Check(name, "bad", "the settings in the log are not those whose hash every round names")
    wrong: list[str] = []
    try:
        check_run(organisation, for_organisation(config, organisation.settings.backend))
    except PolicyError as error:
        wrong.append(str(error))
    least = organisation.policy.min_members
    few = [record for record in evidence.committed if len(record.members) < least]
    wrong += [f"round {r.round} has {len(r.members)} members, policy.min-members is {least}" for r in few]
    agreed = evidence.manifest.base_model_sha256
    if agreed not in ("", first.base_model):
        wrong.append(f"the base model is {first.base_model[:16]}..., the manifest says {agreed[:16]}...")
    fewest = min((len(record.members) for record in evidence.committed), default=0)
    right = f"the settings ({first.config[:16]}...) are within the policy; the smallest round has {fewest} members"
    return _check(name, wrong, right)


def _agreements(evidence: Evidence) -> Check:
    """In secure aggregation, members signed who is in each sum."""
    name = "agreement on members"
    mode = evidence.chain.records[0].mode
    if mode != "secagg":
        return Check(name, "unknown", f"privacy.mode is {mode}: the server saw each update, and nobody signs for sums")
    wrong = [
        f"round {record.round}: {complaint}"
        for record in evidence.committed
        for complaint in agreement_complaints(record, evidence.manifest)
    ]
    return _check(
        name, wrong, f"in all {len(evidence.committed)} rounds, more than two thirds signed who is in the sum"
    )


def _aggregates(evidence: Evidence) -> Check:
    """The adapters are the aggregates of the updates, where the run kept them."""
    name, mode = "aggregates", evidence.chain.records[0].mode
    if mode != "none":
        return Check(name, "unknown", f"privacy.mode is {mode}: there are no single updates to compute it from")
    if evidence.folder is None or not were_kept(evidence.folder):
        why = "give the run folder, of a run with output.keep-updates, to compute them again"
        return Check(name, "unknown", f"the updates are not here: {why}")
    rounds = list(recomputed(evidence.folder, evidence.chain.records))
    wrong = [f"round {number}: {complaint}" for number, complaint in rounds if complaint]
    return _check(
        name, wrong, f"all {len(rounds)} rounds, computed again from the updates, give the adapters in the log"
    )


def _check(name: str, wrong: list[str], right: str) -> Check:
    if not wrong:
        return Check(name, "ok", right)
    more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
    return Check(name, "bad", "; ".join(wrong[:SHOWN]) + more)
