"""A sum of masked results: five exchanges with the clients (docs/protocol.md).

    1 train or evaluate   -> a bundle of keys
    2 share               all bundles -> boxes with shares of each member's secrets
    3 mask                boxes -> the masked vector, added up as it comes
    4 agree               the survivors -> a signature of that set
    5 open                the signatures -> shares of what has to be removed from the sum

A client that fails in a step is left out from then on. Down to the threshold that loses nothing; below it the sum
fails.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from flwr.app import RecordDict

from ...common.identity.manifest import Manifest
from ...common.messages import wire
from ...common.messages.messages import SecaggReply, SecaggRequest, Words
from ...common.secagg.statements import Context, agreement, roster_hash
from ..run import events
from ..run.events import emit
from ..secagg.opening import Roster, remove_masks
from ..secagg.sum_state import Items, SumFolder, SumState
from .sum_intake import check_boxes, check_bundle, check_shares, check_signature, read_part, read_step
from .sum_steps import Question, SumFailedError, SumSteps, SumUnopenedError


class MaskedSum:
    """One masked sum. Each step begins where the state says that it has not been done."""

    def __init__(
        self, steps: SumSteps, question: Question, state: SumState, folder: SumFolder, manifest: Manifest
    ) -> None:
        self._steps, self._question, self._state = steps, question, state
        self._folder, self._manifest = folder, manifest
        self._dtype = question.layout.grid.dtype

    def total(self) -> Words:
        """Return the sum without masks, modulo the grid's words."""
        state = self._state
        if not state.bundles:
            self._gather_bundles()
        if not state.boxes:
            self._share()
        if not state.survivors:
            self._mask()
        if not state.signatures:
            self._agree()
        if len(state.shares) < self._manifest.threshold:
            self._open()
        members = Roster(
            bundles=state.bundles,
            masked=sorted(state.boxes),
            survivors=state.survivors,
            threshold=self._manifest.threshold,
        )
        total = self._folder.total(self._dtype)
        remove_masks(total, members, state.shares, self._manifest.cipher)
        return total

    @property
    def agreed(self) -> dict[str, Any]:
        """Return what the members signed, besides who is in the sum (`statements.agreement`)."""
        state, context = self._state, asdict(self._context)
        numbers = {"numbers": list(self._context.numbers)}
        return {
            "context": {**context, **numbers},
            "roster": roster_hash(state.bundles).hex(),
            "masked": sorted(state.boxes),
        }

    @property
    def _needed(self) -> int:
        """Return the fewest members that may be left: as many as the run, the manifest and the threshold want."""
        return max(self._question.needed, self._manifest.min_members, self._manifest.threshold)

    @property
    def _context(self) -> Context:
        """Return the context as the clients know it: with the code that most of them run."""
        found = Counter(
            check_bundle(text, name, self._manifest, self._question.context).context.app
            for name, text in self._state.bundles.items()
        )
        return replace(self._question.context, app=max(found, key=lambda app: (found[app], app)))

    def _gather_bundles(self) -> None:
        question, found = self._question, Items()

        def take(name: str, content: RecordDict) -> None:
            bundle = read_part(content, question.task_ids[name], None).bundle
            check_bundle(bundle, name, self._manifest, question.context)
            found[name] = bundle

        self._steps.step(question.context.kind, question, self._state, question.tasks, take)
        self._steps.check_enough(found, self._needed)
        self._state.bundles = dict(sorted(found.items()))
        self._leave_out_other_code()
        self._folder.save(self._state)

    def _leave_out_other_code(self) -> None:
        """Leave out members that run other code than most: the others would refuse a sum with them."""
        context = self._context
        for name, text in list(self._state.bundles.items()):
            if (app := check_bundle(text, name, self._manifest, context).context.app) != context.app:
                self._steps.refused[name] = "secagg.context"
                emit(events.UpdateRefused(context.round, name, "secagg.context", f"it runs {app}, not {context.app}"))
                del self._state.bundles[name]
        self._steps.check_enough(self._state.bundles, self._needed)

    def _share(self) -> None:
        names, boxes = set(self._state.bundles), dict[str, Items]()

        def take(name: str, reply: SecaggReply) -> None:
            boxes[name] = check_boxes(reply.items, names - {name})

        self._ask("share", dict.fromkeys(names, self._state.bundles), take)
        self._steps.check_enough(boxes, self._needed)
        self._state.boxes = dict(sorted(boxes.items()))
        self._folder.save(self._state)

    def _mask(self) -> None:
        boxes = self._state.boxes
        total, survivors = np.zeros(self._question.layout.size, self._dtype), set[str]()
        received = {to: {sender: boxes[sender][to] for sender in boxes if sender != to} for to in boxes}

        def take(name: str, reply: SecaggReply) -> None:
            np.add(total, reply.words, out=total)
            self._state.arrived[name] = hashlib.sha256(reply.words.tobytes()).hexdigest()
            survivors.add(name)
            emit(events.SumGrew(self._question.context.round, self._question.context.kind, name, len(survivors)))

        self._ask("mask", received, take)
        self._steps.check_enough(survivors, self._needed)
        self._state.survivors = tuple(sorted(survivors))
        self._folder.save(self._state, total)

    def _agree(self) -> None:
        survivors, signatures, statement = self._state.survivors, Items(), self._statement()

        def take(name: str, reply: SecaggReply) -> None:
            signatures[name] = check_signature(reply.items, name, self._manifest, statement)

        self._ask("agree", dict.fromkeys(survivors, dict.fromkeys(survivors, "")), take)
        self._steps.check_enough(signatures, self._manifest.threshold)
        self._state.signatures = dict(sorted(signatures.items()))
        self._folder.save(self._state)

    def _open(self) -> None:
        """Ask those that have not sent their shares; what came is kept, should it be too few.

        Raises:
            SumUnopenedError: it is.
        """
        state, masked = self._state, sorted(self._state.boxes)

        def take(name: str, reply: SecaggReply) -> None:
            state.shares[name] = check_shares(reply.items, masked)

        missing = state.signatures.keys() - state.shares.keys()
        self._ask("open", dict.fromkeys(missing, state.signatures), take)
        self._folder.save(state)
        try:
            self._steps.check_enough(state.shares, self._manifest.threshold)
        except SumFailedError as error:
            raise SumUnopenedError(error.code, str(error)) from error

    def _ask(self, step: str, items: Mapping[str, Items], take: Callable[[str, SecaggReply], None]) -> None:
        context = self._context
        messages = {
            name: wire.record_of(
                SecaggRequest(
                    step=step, session=context.sha256, items=dict(own), config_sha256=self._question.config_sha256
                )
            )
            for name, own in items.items()
        }

        def read(name: str, content: RecordDict) -> None:
            take(name, read_step(content, step, context.sha256, self._question.layout))

        self._steps.step(step, self._question, self._state, messages, read)

    def _statement(self) -> bytes:
        state = self._state
        return agreement(self._context, roster_hash(state.bundles), state.boxes, state.survivors)
