"""The round log in the federation's messages and rounds: who is shown what, whose signature came, what is recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import RecordDict
from flwr.serverapp import Grid

from ...common import __version__
from ...common.audit.receipts import privacy_statement
from ...common.audit.record import Contribution, Line, Record
from ...common.audit.shown import take_signature, with_lines
from ...common.errors import ConfigError, ProtocolError, RunError
from ...common.identity.keys import Identity
from ...common.identity.manifest import Manifest
from ...common.messages import wire
from ...common.settings.run_config import RunConfig
from ..aggregation.state import State
from ..audit.round_log import Outcome, RoundLog
from ..run.layout import RunFolder
from .attempt import Attempt
from .bundle import submitted_bundle

KINDS = ("train", "query.audit")
"""Messages that the log travels with."""
LOST = "policy.audit.gap"
"""A client's refusal: it lacks lines before those that it was sent."""
FORM_OF = {"none": "clear", "sum": "summed", "secagg": "masked"}


@dataclass(frozen=True, slots=True)
class Audited:
    """The round log beside the messages of a run. Without a manifest there is no log, and messages stay as they are."""

    log: RoundLog | None
    nodes: Mapping[str, int]
    """Organisation -> node, as they have joined."""

    def sent(self, messages: Mapping[int, RecordDict], kind: str) -> dict[int, RecordDict]:
        """Return messages with the lines of the log that each receiver has not signed yet."""
        if self.log is None or kind not in KINDS:
            return dict(messages)
        names = {node: name for name, node in self.nodes.items()}
        return {node: with_lines(content, self.log.unseen(names[node])) for node, content in messages.items()}

    def take(self, node: int, content: RecordDict) -> str:
        """Take the signature out of a reply; returns what is wrong with it, or an empty text."""
        try:
            signed = take_signature(content)
        except ProtocolError as error:
            return str(error)
        name = next((name for name, its_node in self.nodes.items() if its_node == node), "")
        if self.log is None or not name:
            return ""
        header = content.config_records.get(wire.HEADER)
        if header is not None and header.get("error") == LOST:
            self.log.forget(name)
        return self.log.countersigned(name, signed.index, signed.signature) if signed else ""


def open_log(config: RunConfig, folder: Path, grid: Grid) -> RoundLog | None:
    """Return the log of a run whose settings name the server's identity; None for one without.

    Raises:
        ConfigError: manifest and identity do not fit, or the run began with a log, or without one, and does not now.
        RunError: the log is damaged.
    """
    output, files = config.output, RunFolder(folder)
    if not output.identity:
        if files.audit.exists():
            raise ConfigError(
                f"{folder} has a round log, but output.identity is empty. Name the server's key that it began with."
            )
        return None
    if not output.manifest:
        raise ConfigError(
            "output.identity is set, but output.manifest is empty: without a manifest no organisation knows the key "
            "that signs the round log."
        )
    manifest, identity = Manifest.read(Path(output.manifest)), Identity.read(Path(output.identity))
    log = RoundLog(files.audit, manifest, identity, app=f"fedgrpo {__version__} {submitted_bundle(grid)}")
    if files.begun and not log.begun:
        raise ConfigError(f"{folder} began without a round log. Resume it without output.identity, or begin a new run.")
    return log


def begin(log: RoundLog | None, state: State, config: RunConfig, *, resumed: bool) -> None:
    """Write that a run begins, or goes on."""
    if log is None:
        return
    if resumed:
        log.resume(state.round, state.adapter.sha256)
        return
    agreed = log.manifest.base_model_sha256
    if agreed not in ("", state.base_model_sha256):
        raise RunError(
            f"The clients have the base model {state.base_model_sha256[:16]}..., the manifest says {agreed[:16]}.... "
            "Every member has to use the federation's model."
        )
    log.create(
        Record(
            index=0,
            event="created",
            previous="",
            federation="",
            run=state.federation,
            time=0,
            round=0,
            attempt=0,
            config=config.sha256,
            manifest="",
            app="",
            base_model=state.base_model_sha256,
            schema=state.adapter.schema.sha256,
            adapter_before=state.adapter.sha256,
            adapter_after=state.adapter.sha256,
            mode=config.privacy.mode,
            settings=settings_of(config),
        )
    )


def settings_of(config: RunConfig) -> dict[str, object]:
    """Return the settings that decide a run's result, as the log shows them: none of `output`, which are the
    operator's own."""
    return {key: value for key, value in config.flat().items() if not key.startswith("output.")}


def prepared(log: RoundLog | None, this: Attempt, event: str, adapter: str, reason: str = "") -> Line | None:
    """Sign an attempt's record and put it aside, before the journal says how the attempt ended."""
    if log is None:
        return None
    members = _contributions(this, FORM_OF[log.last.mode]) if event == "committed" else {}
    outcome = Outcome(
        event=event,
        round=this.number,
        attempt=this.attempt,
        adapter=adapter,
        asked=this.cohort,
        members=members,
        agreement=this.agreement if members else {},
        agreed=this.agreed if members else {},
        privacy={name: said for name in members if (said := _privacy(this, name))},
        reason=reason,
    )
    return log.prepare(outcome)


def settle(log: RoundLog | None, line: Line | None) -> None:
    """Append a record that was prepared, once the journal has its attempt."""
    if log is not None and line is not None:
        log.append(line)


def _privacy(this: Attempt, name: str) -> str:
    """Return what a member said of the privacy that it has spent; empty where only the sum of metrics is seen."""
    return privacy_statement(this.updates[name].metrics) if name in this.updates else ""


def _contributions(this: Attempt, form: str) -> dict[str, Contribution]:
    """Return what came from each member; of sums, all that is seen of one is its vector's hash."""
    found: dict[str, Contribution] = {}
    for name in this.members or this.updates:
        sha256, size = this.arrived[name]
        found[name] = Contribution(sha256=sha256, bytes=size, form=form)
        if update := this.updates.get(name):
            about = {"steps": update.steps, "examples": update.examples, "weight": float(update.weight)}
            found[name] = replace(found[name], rank=update.schema.rank, **about)
    return found


def arrived(content: RecordDict) -> tuple[str, int]:
    """Return SHA-256 and length of the array of a reply, as it travelled."""
    data = content.array_records[wire.VECTOR][wire.VECTOR].data
    return hashlib.sha256(data).hexdigest(), len(data)
