"""`fedgrpo client status` and `egress` on a terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from ...common.cli.options import plain
from ...common.cli.tables import WholeTable
from ...common.foreign import printable
from ...common.messages.messages import Tally
from ...common.storage.jsonl import Entry
from ..organisation.policy_settings import Policy
from ..organisation.settings import OrganisationFile


def print_status(organisation: OrganisationFile, learner: dict[str, object], log: list[str], left: list[Entry]) -> None:
    """Print what the learner is doing, the end of its log, and when a message was last sent."""
    console = Console(highlight=False)
    if not learner:
        console.print(
            f"{organisation.name}: no learner answers on {organisation.socket}. "
            f"Start it: fedgrpo client up {organisation.file}"
        )
    else:
        job = cast("dict[str, Any]", learner["job"])
        doing = f"{job['kind']}, step {job['step']} of {job['steps']}, {job['seconds']} s" if job else "waiting"
        state = "model loaded" if learner["ready"] else "loading the model"
        console.print(plain(f"{organisation.name}: learner {learner['pid']}, {state}, {doing}"))
    for line in log:
        console.print(f"  {printable(line)}", style="dim", markup=False)
    left = [entry for entry in left if entry.get("sent")]
    if left:
        last = left[-1]
        when = time.strftime("%F %T", time.localtime(float(cast(float, last["time"]))))
        console.print(plain(f"{len(left)} messages have left, the last at {when} in answer to {last['answers']}"))


def print_ledger(policy: Policy, answered: Mapping[str, int]) -> None:
    """Print how much of the budgets over all runs is used."""
    trainings = f"{answered['train']} of {policy.max_trainings} trainings"
    evaluations = f"{answered['evaluate']} of {policy.max_evaluations} evaluations"
    Console(highlight=False).print(f"{trainings} and {evaluations} of the policy are used, over all runs")


def spent_epsilon(organisation: OrganisationFile) -> float | None:
    """Return the epsilon that is spent, in all runs together; None without a private one."""
    from ..learner.privacy.spent import FILE, Spent

    spent = Spent(organisation.folder / FILE)
    return spent.epsilon(organisation.policy.max_delta) if spent.charges else None


def print_budget(policy: Policy, epsilon: float | None) -> None:
    """Print how much of the privacy budget is spent."""
    if epsilon is not None or policy.max_epsilon:
        limit = f" of {policy.max_epsilon:g}" if policy.max_epsilon else ""
        spent = f"epsilon {epsilon or 0.0:.3f}{limit} is spent at delta {policy.max_delta:g}, over all runs"
        Console(highlight=False).print(spent)


def print_egress(record: Path, entries: list[Entry], last: int) -> None:
    """Print the last messages, field by field."""
    console = Console(highlight=False)
    for entry in entries[-last:] if last else []:
        when = time.strftime("%F %T", time.localtime(float(cast(float, entry["time"]))))
        way = "sent to" if entry["sent"] else "NOT SENT, would go to"
        number = f"{entry['number']}  " if "number" in entry else ""
        known = " (as configured)" if entry.get("to_known_from", "configured") == "configured" else ""
        head = f"{number}{when}  answer to {entry['answers']}  {way} {entry['to']}{known}  {entry['bytes']} bytes"
        console.rule(style="dim")
        console.print(plain(head))  # a rule would cut the destination in a narrow terminal
        console.print(WholeTable(fields_table(cast("list[dict[str, Any]]", entry["fields"]))))
    if entries and last:
        print_legend(
            console, [str(f["name"]) for e in entries[-last:] for f in cast("list[dict[str, Any]]", e["fields"])]
        )
    console.print(f"{len(entries)} messages are in {record}")


OPAQUE = re.compile("[0-9a-f]{129,}")
"""Signed keys in hexadecimal: shown by their beginning, whole in record and JSON. Every other value is shown whole."""
TALLY_FIELDS = ", ".join(f.name for f in fields(Tally))
RECORD_LEGEND = {
    "number": "of the message; a number that is missing was taken out of the record",
    "to": "address that the running SuperNode was started with; `as configured`: flower.superlink of the file, where "
    "that is not known",
    "sent": "whether the message left; a dry run sends a code instead",
    "bytes": "of the message, before transport",
    "policy_sha256": "the [policy] section it left under",
}
"""Entry of a line of the record -> what it is."""
LEGEND = {
    "header.error": "why there is no result: a code, without text of this organisation",
    "header.tallies": f"counts over held-out problems, in all and by class: [{TALLY_FIELDS}]",
    "header.bundle": "keys for one sum, signed by this organisation's identity; no update and no count",
    "header.items": "of a step of a sum: encrypted shares of keys, and signatures",
    "header.nonce": "number of this request, repeated so that an old answer cannot be replayed",
    "header": "which federation, round and settings this answers, and what the client can do",
    "metrics": "training metrics that policy.metrics lets out",
    "metrics.groups": "how many of the round's prompts had completions with different rewards",
    "metrics.reward": "mean and spread of the rewards, in this organisation's units",
    "metrics.policy": "entropy, KL, gradient norm: how sure the model is, and how far it moved",
    "metrics.completion": "lengths and habits of the completions, as means and shares",
    "metrics.tokens": "tokens sampled and read",
    "metrics.privacy": "epsilon spent, in all runs together; nothing else that was measured leaves a private run",
    "metrics.seconds": "time by phase, which tells of the machine",
    "audit": "signature of the end of the server's round log, by this organisation's identity key",
    "vector": "the update of the adapter, clipped to policy.max-delta-norm; in secure aggregation update, weight, "
    "metrics and counts in one, under masks",
}
"""Field, or the record it is in -> what it is."""


def print_legend(console: Console, names: Iterable[str]) -> None:
    """Print what the fields are, for those that were shown."""
    shown = set(names)
    shown |= {name.partition(".")[0] for name in shown} | {name.partition("/")[0] for name in shown}
    for key, meaning in RECORD_LEGEND.items():
        console.print(f"  {key}: {meaning}", style="dim", markup=False)
    for key, meaning in LEGEND.items():
        if key in shown:
            console.print(f"  {key}: {meaning}", style="dim", markup=False)


def fields_table(fields: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table with one row per field."""
    table = Table("field", "type", box=None, pad_edge=False)
    table.add_column("bytes", justify="right")
    table.add_column("SHA-256", justify="right")  # as a number, it is never folded
    table.add_column("norm or value")
    for f in fields:
        table.add_row(*map(plain, _cells(f)))
    return table


def _cells(f: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    kind = f"{f['type']}{f['shape']}" if "shape" in f else str(f["type"])
    value = f"norm {f['norm']:.4g}" if "norm" in f else str(f.get("value", "(long)"))
    if OPAQUE.fullmatch(value):
        value = f"{value[:16]}... ({len(value):,} characters)"
    return str(f["name"]), kind, str(f["bytes"]), str(f["sha256"])[:8], value
