"""The compliance record: one page per run that a person can read and sign. What left, when, to whom, in which form."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ...common import __version__
from ...common.errors import ConfigError
from ...common.foreign import printable
from ...common.identity import public_key
from ...common.settings.run_config import RunConfig
from ...common.storage.atomic import write_atomic
from .evidence import Evidence
from .verify import Verified

TEMPLATE = Path(__file__).parent / "record.html.jinja"
SHOWN_ROUNDS = 8
"""Rounds that the page lists; the JSON has all, and the page says so."""
FORMS = {
    "clear": "clear: the server could read this update",
    "summed": "summed: coded as for a sum, but not masked; the server could read it",
    "masked": "masked: the server could read the sum over all members only",
}
KINDS = {
    "query.join": "who we are, our adapter's shape, counts",
    "train": "answers to training tasks",
    "evaluate": "answers to evaluations (counts)",
    "query.secagg": "steps of masked sums",
    "query.audit": "signatures of the round log",
    "query.ping": "signs of life",
}
HOW = {
    "chain and signatures": "fedgrpo audit verify LOG FILE; the keys are in the manifest",
    "counter-signatures": "each member's key in the manifest; ask another member for its copy's last hash",
    "own copy": "compare LOG with audit/RUN.jsonl in the learner's folder",
    "own contributions": "audit/receipts.jsonl in the learner's folder; fedgrpo client egress FILE",
    "policy": "[policy] in FILE against the settings in the log's first record",
    "agreement on members": "each member's signature in the log; docs/protocol.md",
    "aggregates": "fedgrpo audit verify RUN_FOLDER FILE, on a run with output.keep-updates",
}
LIMITS = (
    "This record says what was sent and agreed on. It does not say that the adapter reveals nothing about the prompts: "
    "differential privacy bounds that, and `fedgrpo audit membership` measures it. It is evidence for an assessment "
    "under data protection law, and no such assessment."
)


def compliance(verified: Verified) -> dict[str, Any]:
    """Return the record of a run for one organisation, as the JSON file has it. Times are in UTC."""
    evidence = verified.evidence
    first, last = evidence.chain.records[0], evidence.chain.records[-1]
    mine = [record for record in evidence.committed if evidence.organisation.name in record.members]
    return {
        "version": 1,
        "made": _time(dt.datetime.now(dt.UTC).timestamp()),
        "made_with": f"fedgrpo {__version__}",
        "organisation": evidence.organisation.name,
        "federation": evidence.manifest.federation,
        "run": evidence.run,
        "began": _time(first.time),
        "ended": _time(last.time) if last.event == "finished" else None,
        "rounds": len(evidence.committed),
        "rounds_with_us": len(mine),
        "form": first.mode,
        "form_in_words": FORMS[{"none": "clear", "sum": "summed", "secagg": "masked"}[first.mode]],
        "updates": _updates(evidence),
        "messages": _messages(evidence),
        "destinations": sorted({str(entry.get("to", "unknown")) for entry in evidence.left if entry.get("sent")}),
        "members": _members(evidence),
        "privacy_spent": _privacy(evidence),
        "noise_in_settings": RunConfig().with_values(first.settings).dp.on,
        "policy": _policy(evidence),
        "hashes": _hashes(evidence),
        "checks": [{**asdict(check), "how": HOW[check.name]} for check in verified.checks],
        "sound": verified.sound,
        "limits": LIMITS,
    }


def write_record(verified: Verified, out: Path | None) -> tuple[dict[str, Any], Path]:
    """Write page and JSON, and return (the record, the page's path).

    Args:
        out: of the page; None takes compliance-RUN.html in this folder.

    Raises:
        ConfigError: the log has no record, so there is nothing to say of it.
    """
    if not verified.evidence.chain.lines:
        raise ConfigError(f"The log cannot be read: {verified.checks[0].text}.")
    made = compliance(verified)
    path = out or Path(f"compliance-{verified.evidence.run}.html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, page(made).encode())
        write_atomic(path.with_suffix(".json"), json.dumps(made, indent=2, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}.") from error
    return made, path


def page(record: dict[str, Any]) -> str:
    """Return the record as one HTML page without scripts or links, which prints on paper or to a PDF."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    shown = record["updates"]
    if len(shown) > SHOWN_ROUNDS:
        shown = [*shown[: SHOWN_ROUNDS // 2], None, *shown[-SHOWN_ROUNDS // 2 :]]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(record=record, shown=shown, kinds=KINDS)


def _shown(value: object) -> object:
    """Return a value as the page shows it: names and addresses may come from other parties."""
    return printable(value) if type(value) is str else value


def _updates(evidence: Evidence) -> list[dict[str, Any]]:
    """Return what this organisation gave, round by round, from its receipts, and whether it was counted."""
    me = evidence.organisation.name
    counted = {
        (r.round, r.attempt, r.members[me].sha256): len(r.members) for r in evidence.committed if me in r.members
    }
    return [
        {
            "round": receipt.round,
            "attempt": receipt.attempt,
            "time": _time(receipt.time),
            "form": receipt.form,
            "bytes": receipt.bytes,
            "sha256": receipt.sha256,
            "prompts": receipt.examples or None,
            "counted_with": counted.get((receipt.round, receipt.attempt, receipt.sha256), 0),
        }
        for receipt in evidence.receipts
    ]


def _messages(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the egress record by kind of message, of the time in which the run was."""
    first, last = evidence.chain.records[0].time, evidence.chain.records[-1].time
    during = [entry for entry in evidence.left if entry.get("sent") and first <= float(entry["time"]) <= last + 60]
    counts, sizes = Counter[str](), Counter[str]()
    for entry in during:
        counts[str(entry["answers"])] += 1
        sizes[str(entry["answers"])] += int(entry["bytes"])
    return [{"answers": kind, "messages": counts[kind], "bytes": sizes[kind]} for kind in sorted(counts)]


def _members(evidence: Evidence) -> list[dict[str, Any]]:
    taken = Counter(name for record in evidence.committed for name in record.members)
    return [
        {"name": member.name, "key": public_key.as_text(member.key), "rounds": taken[member.name]}
        for member in evidence.manifest.members
    ]


def _privacy(evidence: Evidence) -> dict[str, Any] | None:
    """Return this organisation's last statement of the differential privacy that it has spent; None without one.

    What it noted when it gave something comes before what it told, and that before what the log says of it.
    """
    me = evidence.organisation.name
    logged = [record.privacy[me] for record in evidence.committed if me in record.privacy]
    noted = [receipt.spent or receipt.privacy for receipt in evidence.receipts if receipt.spent or receipt.privacy]
    try:
        told = json.loads((noted or logged or [""])[-1] or "null")
    except ValueError:
        return None
    return cast("dict[str, Any]", told) if isinstance(told, dict) else None


def _policy(evidence: Evidence) -> dict[str, Any]:
    policy = evidence.organisation.policy
    return {
        "sha256": evidence.organisation.policy_sha256,
        "privacy": policy.privacy,
        "min_members": policy.min_members,
        "metrics_that_may_leave": list(policy.metrics),
        "counts_of_held_out_answers_may_leave": policy.evaluate,
    }


def _hashes(evidence: Evidence) -> dict[str, str]:
    first, last = evidence.chain.lines[0], evidence.chain.lines[-1]
    return {
        "end of the round log": last.head,
        "manifest": evidence.manifest.sha256,
        "settings": first.record.config,
        "base model": first.record.base_model,
        "adapter at the beginning": first.record.adapter_before,
        "adapter at the end": last.record.adapter_after,
        "server's code": last.record.app,
        "policy": evidence.organisation.policy_sha256,
        "model's name": str(first.record.settings.get("model.name", "")),
    }


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
