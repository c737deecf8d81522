"""An organisation's copy of the round log: every part that the server shows is checked before its head is signed.

What was signed once is on the disk, so a server that shows another history later, to this organisation or after a
restart, is refused: a line that differs (fork), or a log that ends before what was seen (rollback).
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from ....common.adapter import compression
from ....common.adapter.schema import AdapterSchema, trained_part
from ....common.audit.chain import Chain, link_complaints, read_chain, read_log, split_log
from ....common.audit.receipts import FILE, FOLDER, Receipt, privacy_statement, read_receipts, write_receipt
from ....common.audit.record import Line, canonical, head_statement
from ....common.bounds import NAME
from ....common.errors import ConfigError, PolicyError
from ....common.messages.frames import Frame
from ....common.messages.messages import TrainTask, Update
from ....common.settings.backend import Backend
from ....common.settings.run_config import RunConfig
from ....common.settings.scope import for_organisation
from ....common.storage.atomic import PRIVATE
from ....common.storage.jsonl import append_whole
from ...organisation.credentials import Credentials
from ..privacy.price import statement
from ..privacy.spent import FILE as SPENT_FILE
from ..privacy.spent import Spent


@dataclass(slots=True)
class LogKeeper:
    """What one organisation has seen of the logs of its runs."""

    credentials: Credentials
    folder: Path
    """The learner's."""
    backend: Backend = field(default_factory=Backend)
    """The organisation's, with which it applies a run's settings."""
    _logs: dict[str, list[Line]] = field(default_factory=dict[str, list[Line]])

    def sign(self, text: str) -> tuple[int, str]:
        """Check lines of a log against what has been seen, keep what is new, and sign the last line's head.

        Args:
            text: whole lines; the last one is the log's last.

        Returns:
            (index of the last line, signature in hexadecimal).

        Raises:
            PolicyError: the lines are not the continuation of the log that this organisation knows.
            OSError: they cannot be kept, so nothing is signed.
        """
        lines = _parsed(text)
        log = self._log(lines[0].record.run)
        new = [line for line in lines if line.record.index >= len(log)]
        for line in lines:
            if line.record.index < len(log) and line.data != log[line.record.index].data:
                raise PolicyError(
                    "audit.fork",
                    f"The server shows another record {line.record.index} of {line.record.run} than before: it has two "
                    f"histories. This organisation's copy is {self._path(line.record.run)}.",
                )
        if lines[-1].record.index < len(log) - 1:
            raise PolicyError(
                "audit.rollback",
                f"The server's log of {lines[-1].record.run} ends at record {lines[-1].record.index}, but this "
                f"organisation has seen record {len(log) - 1}. Has the server gone back to an older backup?",
            )
        self._keep(log, new)
        last = log[-1]
        statement = head_statement(self.credentials.manifest.sha256, last.record.run, last.record.index, last.head)
        return last.record.index, self.credentials.identity.sign(statement).hex()

    def check(self, task: TrainTask, config: RunConfig) -> None:
        """Refuse a task that does not follow from the log: another adapter, other settings, another round.

        Args:
            config: the run's settings as this organisation applies them.

        Raises:
            PolicyError: says what differs.
        """
        log = self._log(task.federation)
        if not log:
            raise PolicyError(
                "audit.missing",
                f"The server shows no round log of {task.federation}, but this organisation pins a manifest. Ask the "
                "operator to put the manifest into the server's folder.",
            )
        first, last = log[0].record, log[-1].record
        theirs = for_organisation(RunConfig().with_values(first.settings), self.backend)
        if theirs.sha256 != config.sha256:
            raise PolicyError("audit.settings", "The task's settings are not those that the round log began with.")
        if task.round != last.rounds + 1:
            raise PolicyError(
                "audit.round", f"The task is for round {task.round}, but the round log has {last.rounds} committed."
            )
        if task.adapter.schema.sha256 == first.schema and task.adapter.sha256 != last.adapter_after:
            raise PolicyError(
                "audit.adapter",
                f"The server sends the adapter {task.adapter.sha256}, but its round log says {last.adapter_after}: "
                "another organisation may have got another one.",
            )

    def receipt(self, task: TrainTask, update: Update, schema: AdapterSchema, config: RunConfig) -> None:
        """Write down what leaves in the clear for a round, before it does."""
        part = trained_part(schema, update.delta, config.method.trains_in(task.round))
        place = task.federation, task.round, task.attempt, task.adapter.sha256
        said = privacy_statement(update.metrics)
        self.note(place, compression.packed(part, config.compression.up), "clear", update.num_examples, privacy=said)

    def note(
        self, place: tuple[str, int, int, str], data: bytes, form: str, examples: int = 0, *, privacy: str = ""
    ) -> None:
        """Write down what leaves for a round, as bytes, before it does.

        Args:
            place: run, round, attempt, and hash of the adapter that was trained from.
            examples: prompts trained on; 0 where that stays here.
            privacy: what this organisation says of the privacy that it has spent.
        """
        run, round_number, attempt, adapter = place
        last = self._log(run)[-1]
        write_receipt(
            self.folder,
            Receipt(
                time=round(time.time(), 3),
                organisation=self.credentials.name,
                run=run,
                round=round_number,
                attempt=attempt,
                form=form,
                sha256=hashlib.sha256(data).hexdigest(),
                bytes=len(data),
                examples=examples,
                adapter=adapter,
                index=last.record.index,
                head=last.head,
                privacy=privacy,
                spent=self._spent(run, round_number, attempt),
            ),
        )

    def _spent(self, run: str, round_number: int, attempt: int) -> str:
        """Return what an attempt was charged; empty where it was trained without noise."""
        budget = Spent(self.folder / SPENT_FILE)
        mine = [c for c in budget.charges if (c.federation, c.round, c.attempt) == (run, round_number, attempt)]
        if not mine:
            return ""
        delta = RunConfig().with_values(self._log(run)[0].record.settings).dp.delta
        return canonical(statement(mine[-1], epsilon=budget.epsilon(delta), delta=delta)).decode()

    def _keep(self, log: list[Line], new: list[Line]) -> None:
        """Check new lines and append them to the copy, on the disk first."""
        before = log[-1] if log else None
        for line in new:
            complaint = next(link_complaints(line, before, self.credentials.manifest), "")
            if line.record.index > (before.record.index + 1 if before else 0):
                raise PolicyError("audit.gap", f"Records before {line.record.index} of {line.record.run} are missing.")
            if complaint:
                raise PolicyError("audit.record", f"Record {line.record.index} of the round log: {complaint}.")
            self._check_mine(line)
            before = line
        if new:
            path = self._path(new[0].record.run)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            append_whole(path, b"".join(line.data + b"\n" for line in new), PRIVATE)
            log += new

    def _check_mine(self, line: Line) -> None:
        """Refuse a record in which something is counted as this organisation's that it did not give."""
        record = line.record
        mine = record.members.get(self.credentials.name)
        if mine is None:
            return
        place = record.run, record.round, record.attempt
        receipts = [each for each in read_receipts(self.folder / FOLDER / FILE) if each.attempt_at == place]
        said = record.privacy.get(self.credentials.name, "")
        if mine.sha256 not in {each.sha256 for each in receipts}:
            raise PolicyError(
                "audit.contribution",
                f"The round log counts an update of this organisation in round {record.round} that it did not send.",
            )
        if said and said not in {each.privacy for each in receipts}:
            raise PolicyError(
                "audit.privacy",
                f"The round log has a statement of this organisation in round {record.round}, of the privacy that it "
                f"has spent, which it did not make: {said}",
            )

    def _log(self, run: str) -> list[Line]:
        """Return this organisation's copy of a run's log.

        Raises:
            ConfigError: the copy is damaged.
        """
        if run not in self._logs:
            path = self._path(run)
            chain = Chain()
            if path.exists():
                data = read_log(path)
                chain = read_chain(data[: data.rfind(b"\n") + 1], self.credentials.manifest)
            if chain.findings:
                raise ConfigError(
                    f"This organisation's copy of the round log, {path}, is damaged: {chain.findings[0]}. Restore it "
                    "from a backup; if you move it away, the server can show another history."
                )
            self._logs[run] = chain.lines
        return self._logs[run]

    def _path(self, run: str) -> Path:
        return self.folder / FOLDER / f"{run}.jsonl"


def signed_log(keeper: LogKeeper | None, frame: Frame) -> Frame:
    """Return the signature of the log that a frame carries; empty where no manifest is pinned."""
    index, signature = keeper.sign(frame.get("lines", str)) if keeper else (-1, "")
    return Frame({"index": index, "signature": signature})


def _parsed(text: str) -> list[Line]:
    """Return the lines of a message.

    Raises:
        PolicyError: they are not lines of one run's log, one after the other.
    """
    try:
        lines = [Line.read(data) for data in split_log(text.encode("ascii", errors="replace"))]
    except ConfigError as error:
        raise PolicyError("audit.record", f"The server's round log has a line that cannot be read: {error}.") from error
    first = lines[0].record
    places = [(line.record.run, line.record.index) for line in lines]
    if places != [(first.run, first.index + k) for k in range(len(lines))] or not NAME.fullmatch(first.run):
        raise PolicyError("audit.record", "The lines of the server's round log do not follow each other.")
    return lines
