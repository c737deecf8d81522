"""docs/protocol/vectors.json: the same from a second implementation that knows the page alone, and from ours."""

import json

import numpy as np
from checkout import ROOT
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fedgrpo.client.learner.masking.session import Session
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.secagg import boxes, shamir
from fedgrpo.common.secagg.digits import to_digits
from fedgrpo.common.secagg.grid import grid_of
from fedgrpo.common.secagg.masks import CIPHERS
from fedgrpo.common.secagg.statements import Bundle, Context, agreement, roster_hash, signed, unsigned
from fedgrpo.common.settings.run_config import RunConfig
from masked_federation import Federation, Sum
from protocol_by_the_page import vectors

FILE = json.loads((ROOT / "docs" / "protocol" / "vectors.json").read_text())
MEMBERS = FILE["members"]
CONTEXT = Context(**{**FILE["context"], "numbers": tuple(FILE["context"]["numbers"])})
ROSTER = bytes.fromhex(FILE["roster_sha256"])


def hexed(text):
    return bytes.fromhex(text)


def identity(name):
    return Identity(Ed25519PrivateKey.from_private_bytes(hexed(MEMBERS[name]["identity_private"])))


def test_the_file_is_what_the_second_implementation_writes():
    assert vectors() == FILE


def test_context_bundles_and_roster_are_those_of_the_file():
    assert CONTEXT.sha256 == FILE["context_sha256"]
    for name, member in MEMBERS.items():
        read = Bundle.read(unsigned(member["bundle"])[0])
        assert (read.context, read.member) == (CONTEXT, name)
        assert read.mask_key == boxes.public_of(hexed(member["mask_private"])).hex()
        assert read.box_key == boxes.public_of(hexed(member["box_private"])).hex()
        assert identity(name).public.hex() == member["identity_public"]
        assert signed(read.text(), identity(name).sign(read.text())) == member["bundle"]
    assert roster_hash({name: member["bundle"] for name, member in MEMBERS.items()}) == ROSTER


def test_derived_keys_and_streams_are_those_of_the_file():
    for label, key in FILE["keys"].items():
        purpose, one, other = [*label.split(), ""][:3]
        if purpose == "self":
            assert boxes.derived(hexed(MEMBERS[one]["seed"]), ROSTER, boxes.SELF).hex() == key
        else:
            info = boxes.mask_info(one, other) if purpose == "mask" else boxes.box_info(one, other)
            public = boxes.public_of(hexed(MEMBERS[other][f"{purpose}_private"]))
            assert boxes.agreed(hexed(MEMBERS[one][f"{purpose}_private"]), public, ROSTER, info).hex() == key
    assert len(FILE["keys"]) == 4 + 6 + 12
    for label, stream in FILE["streams"].items():
        assert CIPHERS["aes-256-ctr"](hexed(FILE["keys"][label])).update(bytes(16)).hex() == stream


def test_shares_and_box_are_those_of_the_file():
    shares, box = FILE["shares_of_clinic_a"], FILE["box_of_clinic_a_for_clinic_b"]
    for what, secret in (("seed", "seed"), ("mask_key", "mask_private")):
        for places in ((1, 2, 3), (1, 3, 4), (2, 3, 4)):
            chosen = {place: hexed(shares[what][place - 1]) for place in places}
            found = shamir.join(chosen, shamir.lagrange_at_zero(list(chosen)))
            assert found.hex() == MEMBERS["clinic-a"][secret]
    content = boxes.opened(hexed(FILE["keys"]["box clinic-a clinic-b"]), hexed(box["box"]), hexed(box["about"]))
    assert content.hex() == box["content"] == shares["seed"][1] + shares["mask_key"][1]


def test_our_members_mask_sign_and_add_up_as_in_the_file():
    federation = Federation(4)
    federation.names = tuple(MEMBERS)
    members = {name: MEMBERS[name]["identity_public"] for name in MEMBERS}
    federation.identities = {name: identity(name) for name in members}
    federation.manifest = type(federation.manifest)(
        federation="trial",
        server_key=federation.manifest.server_key,
        members=tuple(type(federation.manifest.members[0])(name, hexed(key)) for name, key in members.items()),
    )
    federation.maskers = {name: federation.masker(name) for name in federation.names}
    this = Sum(federation, CONTEXT)
    for name, member in MEMBERS.items():
        session = Session(
            context=CONTEXT,
            bundle=member["bundle"],
            mask_key=member["mask_private"],
            box_key=member["box_private"],
            seed=member["seed"],
            salt=member["salt"],
        )
        federation.maskers[name].sessions.create(session, np.array(member["vector"], np.uint32))
    this.bundles = {name: member["bundle"] for name, member in MEMBERS.items()}
    this.share().mask()
    assert {name: words.tolist() for name, words in this.words.items()} == FILE["masked_vectors"]
    this.words = {name: this.words[name] for name in FILE["survivors"]}
    this.agree()
    assert agreement(CONTEXT, ROSTER, this.boxes, this.words).decode() == FILE["agreement"]
    assert this.signatures == FILE["signatures"]
    assert this.masked_total.tolist() == FILE["masked_total"]
    assert this.open().total().tolist() == FILE["sum"]
    assert federation.manifest.threshold == FILE["threshold"]


def test_grid_and_digits_are_those_of_the_file():
    given = FILE["grid"]
    config = RunConfig().with_values({"privacy.mode": "secagg", "privacy.clip-norm": given["clip_norm"]})
    grid = grid_of(config, given["members"])
    assert (grid.step, grid.levels) == (given["step"], given["levels"])
    for number, digits in FILE["digits"].items():
        assert to_digits([float(number)]).tolist() == digits
