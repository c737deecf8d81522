"""What a server sees of a sum, accomplices included, does not tell which of two honest members had which vector.

Two worlds: the pair's vectors, and the same swapped, so that the sum is the same. Everything that reaches the server is
compared between the worlds, byte position by byte position, after removing every mask that the server and its
accomplices can remove. The comparison is a chi-square test of two samples for each part of the view, at levels that add
up to FALSE_ALARMS: that is how often it would say that the worlds differ where they do not. With one mask left out it
must say so, in every run.
"""

from statistics import NormalDist

import numpy as np
import pytest
from fedgrpo.client.learner.masking import masker
from fedgrpo.common.secagg import boxes, shamir
from fedgrpo.common.secagg.masks import add_mask, add_masks
from fedgrpo.common.secagg.statements import Bundle, roster_hash, unsigned
from masked_federation import Federation, Sum

pytestmark = pytest.mark.e2e

FALSE_ALARMS = 1e-6
RUNS, SIZE = 20, 256
ONE, OTHER = "org-00", "org-01"
"""The honest pair."""


class View:
    """One sum, and what the server makes of it.

    `survive`: four members, of whom one is an accomplice and one is gone. The pair survives: their own masks are
    removed, and only the mask between the two is left. `late`: seven members, of whom two are accomplices. The pair's
    vectors arrive, but the server says they are gone: their keys are opened, and only their own masks are left.
    """

    def __init__(self, scenario, swapped, left_out, monkeypatch):
        self.survive = scenario == "survive"
        self.federation = Federation(4 if self.survive else 7)
        self.accomplices = self.federation.names[2:3] if self.survive else self.federation.names[2:4]
        low, high = np.zeros(SIZE, np.uint32), np.full(SIZE, 0x9C3FA5F0, np.uint32)
        pair = (high, low) if swapped else (low, high)
        vectors = dict.fromkeys(self.federation.names, np.arange(SIZE, dtype=np.uint32))
        vectors.update(zip((ONE, OTHER), pair, strict=True))
        self.sum = Sum(self.federation, self.federation.context()).begin(vectors).share()
        self.bundles = {name: Bundle.read(unsigned(text)[0]) for name, text in self.sum.bundles.items()}
        self.roster = roster_hash(self.sum.bundles)
        skipped = {"pair": {self.pair_key()}, "self": {self.self_key(ONE), self.self_key(OTHER)}, "": set()}[left_out]

        def add(vector, keys, cipher):
            add_masks(vector, [(key, subtract) for key, subtract in keys if key not in skipped], cipher)

        monkeypatch.setattr(masker, "add_masks", add)
        self.sum.mask(lost=self.federation.names[3:] if self.survive else ())
        self.seen = dict(self.sum.words)
        if not self.survive:
            del self.sum.words[ONE], self.sum.words[OTHER]
        self.sum.agree().open()

    def session(self, name):
        return self.federation.maskers[name].sessions.get(self.sum.context.sha256)

    def pair_key(self):
        public = bytes.fromhex(self.bundles[OTHER].mask_key)
        return boxes.agreed(bytes.fromhex(self.session(ONE).mask_key), public, self.roster, boxes.mask_info(ONE, OTHER))

    def self_key(self, name):
        return boxes.derived(bytes.fromhex(self.session(name).seed), self.roster, boxes.SELF)

    def opened(self, owner):
        """The secret of a member that the members opened: a survivor's seed, or the mask key of one that is gone."""
        places = {name: place for place, name in enumerate(sorted(self.bundles), start=1)}
        threshold = self.federation.manifest.threshold
        chosen = {
            places[name]: bytes.fromhex(given[owner]) for name, given in list(self.sum.shares.items())[:threshold]
        }
        return shamir.join(chosen, shamir.lagrange_at_zero(list(chosen)))

    def rest(self, name):
        """A masked vector of the pair without the masks that the server can remove."""
        vector = self.seen[name].copy()
        gone = set(self.sum.boxes) - set(self.sum.words)
        keys = {member: self.opened(member) for member in gone}
        keys.update({member: bytes.fromhex(self.session(member).mask_key) for member in self.accomplices})
        if name in self.sum.words:
            add_mask(vector, boxes.derived(self.opened(name), self.roster, boxes.SELF), "aes-256-ctr", subtract=True)
        for member in set(self.sum.boxes) - {name}:
            owner, public_of = (member, name) if member in keys else (name, member)
            if owner in keys:
                info, public = boxes.mask_info(name, member), bytes.fromhex(self.bundles[public_of].mask_key)
                key = boxes.agreed(keys[owner], public, self.roster, info)
                add_mask(vector, key, "aes-256-ctr", subtract=name < member)
        return vector

    def parts(self):
        """Everything that is seen, as rows of bytes: the columns are byte positions that mean the same."""
        one, other = self.rest(ONE), self.rest(OTHER)
        public = [bytes.fromhex(b.mask_key + b.box_key + b.self_mask + b.commitment) for b in self.bundles.values()]
        yield "what is left of one's vector", words(one)
        yield "what is left of the other's vector", words(other)
        yield "the difference of both", words(one - other)
        yield "masked vectors", np.concatenate([words(vector) for vector in self.seen.values()], axis=1)
        yield "keys and commitments", rows(public).reshape(-1, 1)
        yield "signatures of bundles", rows(unsigned(b)[1] for b in self.sum.bundles.values()).reshape(-1, 1)
        yield "boxes", rows(bytes.fromhex(b) for own in self.sum.boxes.values() for b in own.values()).reshape(-1, 1)
        yield (
            "shares",
            rows(bytes.fromhex(s) for own in self.sum.shares.values() for s in own.values())[:, 1:].reshape(-1, 1),
        )
        held = [self.session(name).shares[member] for name in self.accomplices for member in (ONE, OTHER)]
        yield "accomplices' shares", rows(bytes.fromhex(s[2:66] + s[68:]) for s in held).reshape(-1, 1)


def words(vector):
    return np.frombuffer(vector.astype("<u4").tobytes(), np.uint8).reshape(-1, 4)


def rows(texts):
    return np.array([list(text) for text in texts], np.uint8)


def quantile(degrees, level):
    """The chi-square value that is exceeded with this probability (Wilson and Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part - NormalDist().inv_cdf(level) * part**0.5) ** 3


def differing(scenario, left_out, monkeypatch):
    """The parts of the view that differ between the worlds."""
    worlds = []
    for swapped in (False, True):
        found = {}
        for _ in range(RUNS):
            for name, part in View(scenario, swapped, left_out, monkeypatch).parts():
                found.setdefault(name, []).append(part)
        worlds.append({name: np.concatenate(parts) for name, parts in found.items()})
    tests = [(name, column) for name, part in worlds[0].items() for column in range(part.shape[1])]
    limit = quantile(255, FALSE_ALARMS / len(tests))
    differ = set()
    for name, column in tests:
        one, other = (np.bincount(world[name][:, column], minlength=256).astype(float) for world in worlds)
        both = one + other
        assert both.mean() > 10, "too few bytes for chi-square"
        if float(((one - other) ** 2 / np.maximum(both, 1)).sum()) > limit:
            differ.add(name)
    return differ


@pytest.mark.parametrize("scenario", ["survive", "late"])
def test_the_views_of_a_sum_and_of_the_same_sum_with_a_pair_swapped_do_not_differ(scenario, monkeypatch):
    assert differing(scenario, "", monkeypatch) == set()


def test_without_the_mask_between_the_two_the_views_differ(monkeypatch):
    assert differing("survive", "pair", monkeypatch) >= {
        "what is left of one's vector",
        "what is left of the other's vector",
    }


def test_without_their_own_masks_the_views_of_late_vectors_differ(monkeypatch):
    assert differing("late", "self", monkeypatch) >= {
        "what is left of one's vector",
        "what is left of the other's vector",
    }


def test_each_mask_alone_protects_in_the_other_case(monkeypatch):
    """The mask between the two is not what protects late vectors, and their own are not what protects survivors'."""
    assert differing("late", "pair", monkeypatch) == set()
    assert differing("survive", "self", monkeypatch) == set()


def test_the_quantiles_are_those_of_the_chi_square_distribution():
    assert quantile(255, 0.05) == pytest.approx(293.25, abs=0.1)
    assert quantile(255, 0.001) == pytest.approx(330.52, abs=0.3)
