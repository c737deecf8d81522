"""One organisation's part in secure aggregation: five steps, and what each refuses (docs/protocol.md).

Double masking on a complete graph (Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine
learning", doi:10.1145/3133956.3133982), with signed keys and a round of agreement, so that a server that deviates
learns no more than the sum. Everything here runs in the learner's process; what the server sends is only checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ....common.errors import ConfigError, ProtocolError
from ....common.identity.keys import Identity, verify
from ....common.identity.manifest import Manifest
from ....common.messages.messages import NO_WORDS, SecaggReply, SecaggRequest, Words
from ....common.secagg import boxes, shamir
from ....common.secagg.masks import add_masks
from ....common.secagg.statements import (
    Bundle,
    Context,
    agreement,
    differences,
    from_hex,
    roster_hash,
    signed,
    unsigned,
)
from .session import Session, Sessions

Items = dict[str, str]


class SignatureLedger(Protocol):
    """What an organisation signs and opens once only, durably."""

    def agree(self, context: Context, statement: bytes) -> None:
        """Note that a set of survivors is signed; raises `PolicyError` if another one was."""
        ...

    def open(self, context: Context, statement: bytes) -> None:
        """Note that shares for a signed set are given away; raises `PolicyError` if that may not be."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Masker:
    """A member, its keys, and where it keeps what it must not forget."""

    name: str
    identity: Identity
    manifest: Manifest
    sessions: Sessions
    ledger: SignatureLedger
    min_members: int
    """Fewest members of a sum that this organisation accepts; the manifest may ask for more."""

    def begin(self, context: Context, vector: Words) -> str:
        """Keep a vector for a sum, and return this member's signed bundle.

        If the sum has begun, both are what they were: this vector is not used.
        """
        session = self.sessions.find(context.sha256)
        if session is not None:
            return session.bundle
        mask_key, box_key, seed, salt = (os.urandom(32) for _ in range(4))
        bundle = Bundle(
            context=context,
            member=self.name,
            mask_key=boxes.public_of(mask_key).hex(),
            box_key=boxes.public_of(box_key).hex(),
            self_mask=hashlib.sha256(seed).hexdigest(),
            commitment=hashlib.sha256(salt + vector.tobytes()).hexdigest(),
        )
        session = Session(
            context=context,
            bundle=signed(bundle.text(), self.identity.sign(bundle.text())),
            mask_key=mask_key.hex(),
            box_key=box_key.hex(),
            seed=seed.hex(),
            salt=salt.hex(),
            itemsize=vector.itemsize,
        )
        self.sessions.create(session, vector)
        return session.bundle

    def step(self, request: SecaggRequest) -> SecaggReply:
        """Answer one of the four steps after the first.

        Raises:
            ProtocolError, PolicyError: the step is refused; the code says why, and nothing leaves.
        """
        session = self.sessions.get(request.session)
        steps: Mapping[str, Callable[[Session, Items], Items]] = {
            "share": self._share,
            "agree": self._agree,
            "open": self._open,
        }
        words, items = NO_WORDS, Items()
        if request.step == "mask":
            words = self._mask(session, request.items)
        elif request.step in steps:
            items = steps[request.step](session, request.items)
        else:
            raise ProtocolError("secagg.step", "there is no such step of a sum")
        return SecaggReply(words=words, step=request.step, session=request.session, items=items)

    def _share(self, session: Session, bundles: Items) -> Items:
        """Check all members' bundles, and return a box for each other member with its shares of this one's secrets."""
        if session.bundles:
            if session.bundles != bundles:
                raise ProtocolError("secagg.roster", "this sum has another roster: it cannot be changed")
            return session.boxes
        self._check_enough(len(bundles))
        if bundles.get(self.name) != session.bundle:
            raise ProtocolError("secagg.own-bundle", "this client's own bundle is missing, or was altered")
        read = {name: self._checked(session.context, name, text) for name, text in sorted(bundles.items())}
        keys = [key for bundle in read.values() for key in (bundle.mask_key, bundle.box_key)]
        if len(set(keys)) != len(keys):
            raise ProtocolError("secagg.key", "two bundles hold the same key")
        roster, threshold = roster_hash(bundles), self.manifest.threshold
        seeds = shamir.split(bytes.fromhex(session.seed), threshold, len(read))
        mask_keys = shamir.split(bytes.fromhex(session.mask_key), threshold, len(read))
        session.bundles = dict(bundles)
        for name, seed, mask_key in zip(read, seeds, mask_keys, strict=True):
            if name == self.name:
                session.shares = {name: (seed + mask_key).hex()}
                continue
            key = self._box_key(session, roster, read[name], self.name, name)
            session.boxes[name] = boxes.sealed(key, seed + mask_key, _about(roster, self.name, name)).hex()
        self.sessions.save(session)
        return session.boxes

    def _mask(self, session: Session, received: Items) -> Words:
        """Open the others' boxes, and return this member's vector under all masks."""
        members = tuple(sorted({*received, self.name}))
        roster = roster_hash(session.bundles)
        self._check_part("secagg.members", members, session.bundles)
        if self.name in received:
            raise ProtocolError("secagg.members", "a box of this client's own came back")
        read = {name: Bundle.read(unsigned(session.bundles[name])[0]) for name in members}
        if not session.masked:
            for name, box in received.items():
                key = self._box_key(session, roster, read[name], name, self.name)
                content = boxes.opened(key, from_hex(box), _about(roster, name, self.name))
                if len(content) != 2 * shamir.SHARE_BYTES:
                    raise ProtocolError("secagg.box", f"{name}'s box does not hold two shares")
                session.shares[name] = content.hex()
            session.masked = members
            self.sessions.save(session)
        elif session.masked != members:
            raise ProtocolError("secagg.members", "this vector is masked for other members already")
        vector, cipher = self.sessions.vector(session), self.manifest.cipher
        masks = [(boxes.derived(bytes.fromhex(session.seed), roster, boxes.SELF), False)]
        for name in received:
            public, info = bytes.fromhex(read[name].mask_key), boxes.mask_info(self.name, name)
            masks.append((boxes.agreed(bytes.fromhex(session.mask_key), public, roster, info), self.name > name))
        add_masks(vector, masks, cipher)
        return vector

    def _agree(self, session: Session, survivors: Items) -> Items:
        """Sign the set of members whose vectors arrived; once only."""
        names = tuple(sorted(survivors))
        self._check_part("secagg.survivors", names, session.masked)
        if session.survivors and session.survivors != names:
            raise ProtocolError("secagg.survivors", "this client has agreed to another set of survivors")
        statement = agreement(session.context, roster_hash(session.bundles), session.masked, names)
        self.ledger.agree(session.context, statement)
        session.survivors = names
        self.sessions.save(session)
        return {self.name: self.identity.sign(statement).hex()}

    def _open(self, session: Session, signatures: Items) -> Items:
        """Return a share of each survivor's seed, and of each other masked member's key: never both of one member."""
        if not session.survivors:
            raise ProtocolError("secagg.survivors", "this client has not agreed to a set of survivors")
        roster, survivors = roster_hash(session.bundles), set(session.survivors)
        statement = agreement(session.context, roster, session.masked, session.survivors)
        if len(signatures) < self.manifest.threshold:
            raise ProtocolError("secagg.signatures", f"{len(signatures)} signatures are fewer than the threshold")
        for name, signature in signatures.items():
            sound = name in survivors and verify(self.manifest.key_of(name), from_hex(signature), statement)
            if not sound:
                raise ProtocolError("secagg.signatures", f"{name}'s signature is not of this set of survivors")
        self.ledger.open(session.context, statement)
        half = 2 * shamir.SHARE_BYTES  # hexadecimal digits of one share
        return {
            name: session.shares[name][:half] if name in survivors else session.shares[name][half:]
            for name in session.masked
        }

    def _checked(self, context: Context, name: str, travelling: str) -> Bundle:
        """Return a member's bundle, whose signature is its own and whose context is ours."""
        text, signature = unsigned(travelling)
        try:
            public = self.manifest.key_of(name)
        except ConfigError as error:
            raise ProtocolError("secagg.manifest", str(error)) from error
        if not verify(public, signature, text):
            raise ProtocolError("secagg.signature", f"the bundle of {name} does not have its signature")
        bundle = Bundle.read(text)
        if bundle.member != name:
            raise ProtocolError("secagg.bundle", f"the bundle of {name} is another member's")
        if different := differences(context, bundle.context):
            raise ProtocolError("secagg.context", f"{name} was asked for something else: {', '.join(different)} differ")
        return bundle

    def _check_part(self, code: str, names: tuple[str, ...], of: Iterable[str]) -> None:
        """Check that names are some of others, that this member is among them, and that they are enough."""
        if not set(names) <= set(of):
            raise ProtocolError(code, "these are not all members of this sum, or an earlier step is missing")
        if self.name not in names:
            raise ProtocolError(code, "this client is not among them")
        self._check_enough(len(names))

    def _check_enough(self, members: int) -> None:
        """Check that a sum has as many members as this organisation and the manifest want, and as can open it.

        The threshold counts the manifest's members, not those of the sum: the server chooses the latter, and could
        choose one organisation and its own accomplices.
        """
        least = max(self.min_members, self.manifest.min_members, self.manifest.threshold)
        if members < least:
            raise ProtocolError("secagg.members", f"a sum of {members} members is refused: it needs at least {least}")

    def _box_key(self, session: Session, roster: bytes, other: Bundle, sender: str, receiver: str) -> bytes:
        private, public = bytes.fromhex(session.box_key), bytes.fromhex(other.box_key)
        return boxes.agreed(private, public, roster, boxes.box_info(sender, receiver))


def _about(roster: bytes, sender: str, receiver: str) -> bytes:
    return b"\0".join([roster.hex().encode(), sender.encode(), receiver.encode()])
