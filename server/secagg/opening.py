"""From the sum of masked vectors to the sum: secrets are put together from shares, checked, and their masks removed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...common.errors import ProtocolError
from ...common.messages.messages import Words
from ...common.secagg import boxes, shamir
from ...common.secagg.masks import add_masks
from ...common.secagg.statements import Bundle, roster_hash, unsigned

MOST_TRIES = 200
"""Sets of shares tried for one secret: a member that sends wrong ones is found out, and does not end the round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The members of one sum, by what they signed."""

    bundles: Mapping[str, str]
    """By member, signed."""
    masked: Sequence[str]
    """Members whose masks are in every survivor's vector."""
    survivors: Sequence[str]
    """Members whose vectors are in the sum."""
    threshold: int
    """How many members must open it, of the manifest."""

    @property
    def read(self) -> dict[str, Bundle]:
        """Return the bundles, read."""
        return {name: Bundle.read(unsigned(text)[0]) for name, text in sorted(self.bundles.items())}


def remove_masks(total: Words, roster: Roster, shares: Mapping[str, Mapping[str, str]], cipher: str) -> None:
    """Turn the sum of the survivors' masked vectors into that of their vectors, in place.

    Args:
        shares: by the member that sent them, then by the member whose secret they are of; hexadecimal.

    Raises:
        ProtocolError: there are too few shares of a secret, or they are not of the secret that its owner committed to.
    """
    read, salt = roster.read, roster_hash(roster.bundles)
    places = {name: place for place, name in enumerate(read, start=1)}
    secrets = {name: _secret(read[name], name in roster.survivors, places, shares, roster) for name in roster.masked}
    masks = [(boxes.derived(secrets[name], salt, boxes.SELF), True) for name in roster.survivors]
    for gone in sorted(set(roster.masked) - set(roster.survivors)):
        for name in roster.survivors:
            info = boxes.mask_info(gone, name)
            key = boxes.agreed(secrets[gone], bytes.fromhex(read[name].mask_key), salt, info)
            masks.append((key, name < gone))  # a survivor adds where its name comes first
    add_masks(total, masks, cipher)


def _secret(
    owner: Bundle, survived: bool, places: Mapping[str, int], shares: Mapping[str, Mapping[str, str]], roster: Roster
) -> bytes:
    """Return a survivor's seed, or the mask key of a member that is gone, from any shares that give the right one."""
    sent = {name: bytes.fromhex(given[owner.member]) for name, given in sorted(shares.items()) if owner.member in given}
    threshold = roster.threshold
    if len(sent) < threshold:
        raise ProtocolError("secagg.shares", f"{len(sent)} shares of {owner.member}'s secret are fewer than needed")
    choice, generator = list(sent)[:threshold], random.Random(0)
    for _ in range(MOST_TRIES):
        chosen = {places[name]: sent[name] for name in choice}
        if (secret := _joined(chosen)) and _is_right(secret, owner, survived):
            return secret
        choice = generator.sample(list(sent), threshold)
    raise ProtocolError("secagg.shares", f"the shares of {owner.member}'s secret do not give what it committed to")


@lru_cache(maxsize=8)
def _coefficients(places: tuple[int, ...]) -> list[int]:
    """Return the Lagrange coefficients of some places: nearly all secrets are joined from the same members' shares."""
    return shamir.lagrange_at_zero(places)


def _joined(chosen: Mapping[int, bytes]) -> bytes:
    """Return the secret of which these are shares; empty if they are not of one."""
    try:
        return shamir.join(chosen, _coefficients(tuple(chosen)))
    except ProtocolError:
        return b""


def _is_right(secret: bytes, owner: Bundle, survived: bool) -> bool:
    if survived:
        return hashlib.sha256(secret).hexdigest() == owner.self_mask
    return boxes.public_of(secret).hex() == owner.mask_key
