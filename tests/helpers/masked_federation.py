"""A federation whose members mask, in this process, and an honest server's exchanges with them, step by step."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from fedgrpo.client.learner.masking.masker import Masker
from fedgrpo.client.learner.masking.session import Sessions
from fedgrpo.client.learner.service.ledger import Ledger
from fedgrpo.client.organisation.policy_settings import Policy
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.identity.manifest import Manifest, Member
from fedgrpo.common.messages.messages import SecaggRequest
from fedgrpo.common.secagg.statements import Context
from fedgrpo.server.secagg.opening import Roster, remove_masks

SERVER = Identity.generate()
IDENTITIES = [Identity.generate() for _ in range(100)]


class MemorySessions:
    """Sessions without a disk, for thousands of sums. As those of the product, each read is a copy."""

    def __init__(self):
        self.sessions, self.vectors = {}, {}

    def create(self, session, vector):
        self.vectors[session.context.sha256] = vector.copy()
        self.save(session)

    def save(self, session):
        self.sessions[session.context.sha256] = _copy(session)

    def find(self, name):
        return _copy(self.sessions[name]) if name in self.sessions else None

    def get(self, name):
        if name not in self.sessions:
            raise ProtocolError("secagg.session", "not begun")
        return self.find(name)

    def vector(self, session):
        return self.vectors[session.context.sha256].copy()


def _copy(session):
    return replace(session, bundles=dict(session.bundles), boxes=dict(session.boxes), shares=dict(session.shares))


class Federation:
    """Members by name. With a folder they keep sessions and ledgers there, and can be started again."""

    def __init__(self, count, *, folder: Path | None = None, min_members=3, cipher="aes-256-ctr"):
        self.names = tuple(f"org-{number:02d}" for number in range(count))
        self.identities = dict(zip(self.names, IDENTITIES, strict=False))
        members = tuple(Member(name, self.identities[name].public) for name in self.names)
        self.manifest = Manifest(federation="trial", server_key=SERVER.public, members=members, cipher=cipher)
        self.folder, self.min_members = folder, min_members
        self.maskers = {name: self.masker(name) for name in self.names}

    def masker(self, name):
        """A member as it is after its learner's start."""
        own = self.folder / name if self.folder else None
        if own:
            own.mkdir(exist_ok=True)
        return Masker(
            name=name,
            identity=self.identities[name],
            manifest=self.manifest,
            sessions=Sessions(own / "sums") if own else MemorySessions(),
            ledger=Ledger(own / "ledger.jsonl" if own else None, Policy()),
            min_members=self.min_members,
        )

    def restart(self):
        """Start every member's learner again on its files."""
        assert self.folder
        self.maskers = {name: self.masker(name) for name in self.names}

    def context(self, **changes):
        values = {
            "kind": "train",
            "federation": "fed-1",
            "round": 1,
            "attempt": 1,
            "adapter": "a" * 64,
            "config": "c" * 64,
            "app": "fedgrpo test",
            "manifest": self.manifest.sha256,
            "numbers": ("weight",),
        }
        return Context(**{**values, **changes})


@dataclass
class Sum:
    """One sum as an honest server sees it. `lost` are members whose replies to a step do not arrive."""

    federation: Federation
    context: Context
    bundles: dict = field(default_factory=dict)
    boxes: dict = field(default_factory=dict)
    words: dict = field(default_factory=dict)
    signatures: dict = field(default_factory=dict)
    shares: dict = field(default_factory=dict)

    def request(self, step, items):
        return SecaggRequest(step=step, session=self.context.sha256, items=dict(items))

    def ask(self, name, step, items):
        return self.federation.maskers[name].step(self.request(step, items))

    def begin(self, vectors, lost=()):
        found = {name: self.federation.maskers[name].begin(self.context, vector) for name, vector in vectors.items()}
        self.bundles = {name: bundle for name, bundle in found.items() if name not in lost}
        return self

    def share(self, lost=()):
        found = {name: self.ask(name, "share", self.bundles).items for name in self.bundles}
        self.boxes = {name: boxes for name, boxes in found.items() if name not in lost}
        return self

    def boxes_for(self, name):
        return {sender: boxes[name] for sender, boxes in self.boxes.items() if sender != name}

    def mask(self, lost=()):
        found = {name: self.ask(name, "mask", self.boxes_for(name)).words for name in self.boxes}
        self.words = {name: words for name, words in found.items() if name not in lost}
        return self

    def agree(self, lost=()):
        survivors = dict.fromkeys(self.words, "")
        found = {name: self.ask(name, "agree", survivors).items[name] for name in self.words}
        self.signatures = {name: signature for name, signature in found.items() if name not in lost}
        return self

    def open(self, lost=()):
        found = {name: self.ask(name, "open", self.signatures).items for name in self.signatures}
        self.shares = {name: shares for name, shares in found.items() if name not in lost}
        return self

    def until(self, step, vectors=None):
        """Take all steps before this one, without losses."""
        self.begin(vectors or some_vectors(self.federation.names))
        for name in ("share", "mask", "agree", "open"):
            if name == step:
                break
            getattr(self, name)()
        return self

    @property
    def masked_total(self):
        total = np.zeros_like(next(iter(self.words.values())))
        for words in self.words.values():
            total += words
        return total

    def total(self):
        """The sum without masks."""
        total = self.masked_total
        roster = Roster(
            bundles=self.bundles,
            masked=sorted(self.boxes),
            survivors=sorted(self.words),
            threshold=self.federation.manifest.threshold,
        )
        remove_masks(total, roster, self.shares, self.federation.manifest.cipher)
        return total


def some_vectors(names, size=5, dtype=np.uint32):
    generator = np.random.default_rng(0)
    high = np.iinfo(dtype).max
    return {name: generator.integers(0, high, size, dtype=dtype, endpoint=True) for name in names}


def added(vectors):
    """The sum modulo the vectors' words."""
    vectors = list(vectors)
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total
