"""What a hostile server may try in a sum, alone or with dishonest members, and with which code a client refuses it.

Seven members, so that five must agree. The victim is org-03; org-01 does what the server wants where a case says so.
"""

import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
from fedgrpo.client.relay.error_codes import code_of
from fedgrpo.common.errors import FedGRPOError
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.secagg import boxes
from fedgrpo.common.secagg.statements import BUNDLE, Bundle, Context, agreement, roster_hash, signed, unsigned
from masked_federation import Federation, Sum, some_vectors

VICTIM, ACCOMPLICE, THIRD = "org-03", "org-01", "org-05"
SMALL_ORDER = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
CASES = {}


def case(name, code):
    """Register a case. Its function does what the server does; its last request is what must be refused."""

    def register(function):
        assert name not in CASES
        CASES[name] = (function, code)
        return function

    return register


@pytest.fixture
def this(tmp_path):
    """A sum of a federation that keeps its files, so that its members can be started again."""
    federation = Federation(7, folder=tmp_path)
    return Sum(federation, federation.context())


def another(this, **changes):
    """Another sum of the same members."""
    return Sum(this.federation, replace(this.context, **changes))


def bundle_of(this, name):
    return Bundle.read(unsigned(this.bundles[name])[0])


def resigned(this, name, **changes):
    """A member's bundle, changed and signed by this member, who is dishonest."""
    text = replace(bundle_of(this, name), **changes).text()
    return signed(text, this.federation.identities[name].sign(text))


def box_by(this, sender, content):
    """A box for the victim that a dishonest sender fills with this."""
    session = this.federation.maskers[sender].sessions.get(this.context.sha256)
    roster, public = roster_hash(this.bundles), bytes.fromhex(bundle_of(this, VICTIM).box_key)
    key = boxes.agreed(bytes.fromhex(session.box_key), public, roster, boxes.box_info(sender, VICTIM))
    about = b"\0".join([roster.hex().encode(), sender.encode(), VICTIM.encode()])
    return boxes.sealed(key, content, about).hex()


def share(this, **bundles):
    """Show the victim the roster with some bundles changed; None leaves one out."""
    items = {**this.bundles, **{key.replace("_", "-"): value for key, value in bundles.items()}}
    this.ask(VICTIM, "share", {key: value for key, value in items.items() if value is not None})


def mask(this, **items):
    boxes_there = {**this.boxes_for(VICTIM), **{key.replace("_", "-"): value for key, value in items.items()}}
    return this.ask(VICTIM, "mask", {key: value for key, value in boxes_there.items() if value is not None})


def agree(this, names):
    return this.ask(VICTIM, "agree", dict.fromkeys(names, ""))


def open_with(this, signatures):
    return this.ask(VICTIM, "open", signatures)


def but(names, *without):
    return [name for name in names if name not in without]


def flipped(text, place=-1):
    """A hexadecimal text with one digit changed."""
    place %= len(text)
    return text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]


# ---- the roster ------------------------------------------------------------------------------------------------------


@case("a member's key for masks swapped under its old signature", "secagg.signature")
def _(this):
    text, signature = unsigned(this.until("share").bundles[ACCOMPLICE])
    read = replace(Bundle.read(text), mask_key=boxes.public_of(bytes(range(32))).hex())
    share(this, org_01=signed(read.text(), signature))


@case("a member's key for boxes swapped under its old signature", "secagg.signature")
def _(this):
    text, signature = unsigned(this.until("share").bundles[ACCOMPLICE])
    read = replace(Bundle.read(text), box_key=boxes.public_of(bytes(range(32))).hex())
    share(this, org_01=signed(read.text(), signature))


@case("a bundle that somebody else signed", "secagg.signature")
def _(this):
    text, _ = unsigned(this.until("share").bundles[ACCOMPLICE])
    share(this, org_01=signed(text, Identity.generate().sign(text)))


@case("a bundle with a signature of zeros", "secagg.signature")
def _(this):
    text, _ = unsigned(this.until("share").bundles[ACCOMPLICE])
    share(this, org_01=signed(text, bytes(64)))


@case("a bundle without a signature", "secagg.signature")
def _(this):
    text, _ = unsigned(this.until("share").bundles[ACCOMPLICE])
    share(this, org_01=text.hex())


@case("one member's bundle shown as another's", "secagg.signature")
def _(this):
    share(this.until("share"), org_05=this.bundles[ACCOMPLICE])


@case("a bundle that a member signed in another's name", "secagg.bundle")
def _(this):
    this.until("share")
    share(this, org_01=resigned(this, ACCOMPLICE, member=THIRD))


@case("one's own bundle missing from the roster", "secagg.own-bundle")
def _(this):
    share(this.until("share"), org_03=None)


@case("one's own bundle altered", "secagg.own-bundle")
def _(this):
    share(this.until("share"), org_03=flipped(this.bundles[VICTIM]))


@case("one's own bundle of an earlier attempt", "secagg.own-bundle")
def _(this):
    earlier = this.until("share").bundles[VICTIM]
    share(another(this, attempt=2).until("share"), org_03=earlier)


@case("a roster without enough members to open a sum", "secagg.members")
def _(this):
    share(this.until("share"), org_00=None, org_02=None, org_05=None)


@case("a roster of the victim and the server's accomplices alone", "secagg.members")
def _(this):
    share(this.until("share"), org_00=None, org_02=None, org_05=None, org_06=None)


@case("a roster smaller than the organisation's own policy wants", "secagg.members")
def _(this):
    this.federation.min_members = 6
    this.federation.restart()
    share(this.until("share"), org_00=None, org_02=None)


@case("a member that is not in the manifest", "secagg.manifest")
def _(this):
    this.until("share")
    this.bundles["org-99"] = this.bundles[ACCOMPLICE]
    share(this)


@case("a threshold of 1 beside the bundles", "secagg.encoding")
def _(this):
    this.until("share")
    this.bundles["threshold"] = "1"
    share(this)


@case("a name that is a path", "secagg.manifest")
def _(this):
    this.until("share")
    this.bundles["../../org-01"] = this.bundles[ACCOMPLICE]
    share(this)


@case("a member with another's key for masks", "secagg.key")
def _(this):
    this.until("share")
    share(this, org_01=resigned(this, ACCOMPLICE, mask_key=bundle_of(this, THIRD).mask_key))


@case("a member with the victim's own key for boxes", "secagg.key")
def _(this):
    this.until("share")
    share(this, org_01=resigned(this, ACCOMPLICE, box_key=bundle_of(this, VICTIM).box_key))


@case("a member with one key for both purposes", "secagg.key")
def _(this):
    this.until("share")
    share(this, org_01=resigned(this, ACCOMPLICE, box_key=bundle_of(this, ACCOMPLICE).mask_key))


@case("a key for boxes of small order", "secagg.key")
def _(this):
    this.until("share")
    share(this, org_01=resigned(this, ACCOMPLICE, box_key=SMALL_ORDER))


@case("a key for masks of small order", "secagg.key")
def _(this):
    this.until("share")
    this.bundles[ACCOMPLICE] = resigned(this, ACCOMPLICE, mask_key=SMALL_ORDER)
    share(this)
    this.boxes = {name: {VICTIM: box_by(this, name, bytes(66))} for name in but(this.federation.names, VICTIM)}
    mask(this)


@case("a second roster for a sum that has one", "secagg.roster")
def _(this):
    share(this.until("mask"), org_00=None)


@case("a second roster for a sum that has one, after a restart", "secagg.roster")
def _(this):
    this.until("mask").federation.restart()
    share(this, org_00=None)


@case("a bundle of an earlier round", "secagg.context")
def _(this):
    earlier = this.until("share").bundles[ACCOMPLICE]
    share(another(this, round=2).until("share"), org_01=earlier)


@case("a bundle that is not hexadecimal", "secagg.encoding")
def _(this):
    share(this.until("share"), org_01="zz" + this.bundles[ACCOMPLICE][2:])


@case("a bundle in capitals, which would make another roster", "secagg.encoding")
def _(this):
    share(this.until("share"), org_01=this.bundles[ACCOMPLICE].upper())


@case("a bundle with blanks, which would make another roster", "secagg.encoding")
def _(this):
    share(this.until("share"), org_01=this.bundles[ACCOMPLICE][:10] + "  " + this.bundles[ACCOMPLICE][10:])


@case("a bundle of a megabyte", "secagg.bundle")
def _(this):
    share(this.until("share"), org_01="ab" * 1_000_000)


@case("an empty bundle", "secagg.bundle")
def _(this):
    share(this.until("share"), org_01="")


@case("a signed text with a key twice", "secagg.bundle")
def _(this):
    text = unsigned(this.until("share").bundles[ACCOMPLICE])[0][:-1] + b',"member":"org-01"}'
    share(this, org_01=signed(text, this.federation.identities[ACCOMPLICE].sign(text)))


@case("a signed text that is not a bundle", "secagg.bundle")
def _(this):
    text = BUNDLE + b"[1,2,3]"
    share(this.until("share"), org_01=signed(text, this.federation.identities[ACCOMPLICE].sign(text)))


@case("an agreement's text and signature in place of a bundle", "secagg.bundle")
def _(this):
    text = agreement(this.context, bytes(32), this.federation.names, this.federation.names)
    share(this.until("share"), org_01=signed(text, this.federation.identities[ACCOMPLICE].sign(text)))


for different in fields(Context):

    @case(f"one member asked for another {different.name}", "secagg.context")
    def _(this, name=different.name):
        value = getattr(this.until("share").context, name)
        wrong = value + 1 if isinstance(value, int) else ("x",) if isinstance(value, tuple) else value + "x"
        share(this, org_01=resigned(this, ACCOMPLICE, context=replace(this.context, **{name: wrong})))


# ---- boxes and masks -------------------------------------------------------------------------------------------------


@case("a masked vector before the roster", "secagg.members")
def _(this):
    this.ask(VICTIM, "mask", dict.fromkeys(but(this.until("share").federation.names, VICTIM), "00"))


@case("a box that was altered", "secagg.box")
def _(this):
    mask(this.until("mask"), org_01=flipped(this.boxes[ACCOMPLICE][VICTIM]))


@case("a box that was cut", "secagg.box")
def _(this):
    mask(this.until("mask"), org_01=this.boxes[ACCOMPLICE][VICTIM][:20])


@case("an empty box", "secagg.box")
def _(this):
    mask(this.until("mask"), org_01="")


@case("a box that is not hexadecimal", "secagg.encoding")
def _(this):
    mask(this.until("mask"), org_01="box!")


@case("a box for another member", "secagg.box")
def _(this):
    mask(this.until("mask"), org_01=this.boxes[ACCOMPLICE][THIRD])


@case("a box of another sender", "secagg.box")
def _(this):
    mask(this.until("mask"), org_01=this.boxes[THIRD][VICTIM])


@case("a box that the victim itself had sent", "secagg.box")
def _(this):
    mask(this.until("mask"), org_01=this.boxes[VICTIM][ACCOMPLICE])


@case("a box of an earlier sum", "secagg.box")
def _(this):
    earlier = this.until("mask").boxes[ACCOMPLICE][VICTIM]
    mask(another(this, round=2).until("mask"), org_01=earlier)


@case("a box with one share instead of two", "secagg.box")
def _(this):
    this.until("mask")
    mask(this, org_01=box_by(this, ACCOMPLICE, bytes(33)))


@case("one's own name among the boxes", "secagg.members")
def _(this):
    mask(this.until("mask"), org_03=this.boxes[ACCOMPLICE][VICTIM])


@case("a box of a member that is not in the roster", "secagg.members")
def _(this):
    mask(this.until("mask"), org_99=this.boxes[ACCOMPLICE][VICTIM])


@case("boxes of too few members", "secagg.members")
def _(this):
    mask(this.until("mask"), org_00=None, org_02=None, org_05=None)


@case("a second masked vector, for other members", "secagg.members")
def _(this):
    mask(this.until("agree"), org_00=None)


@case("a second masked vector, for other members, after a restart", "secagg.members")
def _(this):
    this.until("agree").federation.restart()
    mask(this, org_00=None)


# ---- the survivors ---------------------------------------------------------------------------------------------------


@case("survivors before a vector is masked", "secagg.survivors")
def _(this):
    agree(this.until("mask"), this.federation.names)


@case("survivors without the victim", "secagg.survivors")
def _(this):
    agree(this.until("agree"), but(this.federation.names, VICTIM))


@case("survivors that were not masked", "secagg.survivors")
def _(this):
    this.until("mask").boxes.pop("org-00")
    this.mask()
    agree(this, this.federation.names)


@case("survivors that are not members", "secagg.survivors")
def _(this):
    agree(this.until("agree"), [*this.federation.names, "org-99"])


@case("too few survivors", "secagg.members")
def _(this):
    agree(this.until("agree"), [VICTIM, ACCOMPLICE, "org-00", "org-02"])


@case("no survivors", "secagg.survivors")
def _(this):
    agree(this.until("agree"), [])


@case("a second set of survivors", "secagg.survivors")
def _(this):
    agree(this.until("open"), but(this.federation.names, "org-00"))


@case("a second set of survivors, after a restart", "secagg.survivors")
def _(this):
    this.until("open").federation.restart()
    agree(this, but(this.federation.names, "org-00"))


@case("a second set of survivors, after a crash that lost the session's note of the first", "policy.ledger.survivors")
def _(this):
    this.until("agree")
    folder = this.federation.folder / VICTIM / "sums"
    shutil.copytree(folder, folder.with_name("before"))
    agree(this, this.federation.names)
    shutil.rmtree(folder)
    folder.with_name("before").rename(folder)
    this.federation.restart()
    agree(this, but(this.federation.names, "org-00"))


@case("an earlier attempt's survivors after a later attempt's", "policy.ledger.attempt")
def _(this):
    later = another(this, attempt=2).until("agree")
    agree(later, this.federation.names)
    agree(this.until("agree"), this.federation.names)


@case("a later attempt's survivors after the earlier sum was opened", "policy.ledger.opened")
def _(this):
    this.until("open").open()
    agree(another(this, attempt=2).until("agree"), this.federation.names)


@case("a later attempt's survivors after the earlier sum was opened, after a restart", "policy.ledger.opened")
def _(this):
    this.until("open").open().federation.restart()
    agree(another(this, attempt=2).until("agree"), this.federation.names)


@case("the same round over another adapter after its sum was opened", "policy.ledger.opened")
def _(this):
    this.until("open").open()
    agree(another(this, attempt=2, adapter="b" * 64).until("agree"), this.federation.names)


@case("another sum under the number of an attempt that is signed", "policy.ledger.survivors")
def _(this):
    this.until("open")
    agree(another(this, app="other code").until("agree"), this.federation.names)


# ---- opening ---------------------------------------------------------------------------------------------------------


@case("shares before survivors are agreed on", "secagg.survivors")
def _(this):
    open_with(this.until("agree"), {})


@case("shares for too few signatures", "secagg.signatures")
def _(this):
    this.until("open")
    open_with(this, {name: this.signatures[name] for name in this.federation.names[:4]})


@case("shares for no signatures", "secagg.signatures")
def _(this):
    open_with(this.until("open"), {})


@case("an empty signature", "secagg.signatures")
def _(this):
    open_with(this.until("open"), {**this.signatures, ACCOMPLICE: ""})


@case("a signature of zeros", "secagg.signatures")
def _(this):
    open_with(this.until("open"), {**this.signatures, ACCOMPLICE: "00" * 64})


@case("a signature that is not hexadecimal", "secagg.encoding")
def _(this):
    open_with(this.until("open"), {**this.signatures, ACCOMPLICE: "signed"})


@case("one member's signature in the names of all", "secagg.signatures")
def _(this):
    this.until("open")
    open_with(this, dict.fromkeys(this.signatures, this.signatures[ACCOMPLICE]))


@case("signatures by a key of the server's", "secagg.signatures")
def _(this):
    this.until("open")
    statement = agreement(this.context, roster_hash(this.bundles), this.boxes, this.words)
    open_with(this, dict.fromkeys(this.signatures, Identity.generate().sign(statement).hex()))


@case("a signature of a member that is not in the manifest", "secagg.signatures")
def _(this):
    open_with(this.until("open"), {**this.signatures, "org-99": this.signatures[ACCOMPLICE]})


@case("a signature of a member that did not survive", "secagg.signatures")
def _(this):
    this.until("agree").words.pop(ACCOMPLICE)
    this.agree()
    statement = agreement(this.context, roster_hash(this.bundles), this.boxes, this.words)
    own = this.federation.identities[ACCOMPLICE].sign(statement).hex()
    open_with(this, {**this.signatures, ACCOMPLICE: own})


def signed_sets(this, survivors=None, masked=None, roster=None, context=None):
    """Signatures of all members of a statement that differs from the victim's in one part."""
    statement = agreement(
        context or this.context,
        roster or roster_hash(this.bundles),
        masked or this.boxes,
        survivors or this.words,
    )
    return {name: this.federation.identities[name].sign(statement).hex() for name in this.words}


@case("signatures of another set of survivors", "secagg.signatures")
def _(this):
    open_with(this.until("open"), signed_sets(this, survivors=but(this.words, "org-00")))


@case("signatures of another set of masked members", "secagg.signatures")
def _(this):
    this.until("mask").boxes.pop("org-00")
    this.mask().agree()
    open_with(this, signed_sets(this, masked=this.federation.names))


@case("signatures on another roster", "secagg.signatures")
def _(this):
    open_with(this.until("open"), signed_sets(this, roster=bytes(32)))


@case("signatures of another round", "secagg.signatures")
def _(this):
    earlier = this.until("open").signatures
    open_with(another(this, round=2).until("open"), earlier)


@case("signatures of a void attempt", "secagg.signatures")
def _(this):
    earlier = this.until("open").signatures
    open_with(another(this, attempt=2).until("open"), earlier)


@case("an earlier attempt's sum after a later set of survivors was signed", "policy.ledger.survivors")
def _(this):
    this.until("open")
    another(this, attempt=2).until("open")
    open_with(this, this.signatures)


@case("an earlier attempt's sum after a later one was signed, after a restart", "policy.ledger.survivors")
def _(this):
    this.until("open")
    another(this, attempt=2).until("open").federation.restart()
    open_with(this, this.signatures)


@case("an earlier attempt's sum after a later one was opened", "policy.ledger.survivors")
def _(this):
    this.until("open")
    another(this, attempt=2).until("open").open()
    open_with(this, this.signatures)


# ---- steps and sums --------------------------------------------------------------------------------------------------

for wrong in ("begin", "train", "unmask", "", "OPEN", "__class__"):

    @case(f"the step {wrong!r}", "secagg.step")
    def _(this, step=wrong):
        this.until("open").ask(VICTIM, step, {})


@case("a sum that has not begun", "secagg.session")
def _(this):
    share(another(this.until("share"), round=9))


for wrong in ("", ".", "..", "../org-01", "/etc", "A" * 64, "a" * 63, "a" * 64 + "/..", "\0" * 64):

    @case(f"the sum {wrong[:12]!r} of {len(wrong)} characters", "secagg.session")
    def _(this, name=wrong):
        this.until("share")
        request = replace(this.request("share", this.bundles), session=name)
        this.federation.maskers[VICTIM].step(request)


@case("a sum whose secrets were removed since four others began", "secagg.session")
def _(this):
    this.until("open")
    for number in range(2, 6):
        another(this, round=number).begin(some_vectors(this.federation.names))
    open_with(this, this.signatures)


@pytest.mark.parametrize("name", CASES)
def test_a_client_refuses(name, this):
    attempt, code = CASES[name]
    with pytest.raises(FedGRPOError) as caught:
        attempt(this)
    assert code_of(caught.value) == code
    assert len(str(caught.value)) > 20


def test_there_are_many_more_than_thirty_cases():
    assert len(CASES) >= 80


def test_what_is_refused_changes_nothing_and_the_sum_can_go_on(this):
    """After every kind of refusal, the honest requests are answered as if nothing had been."""
    vectors = some_vectors(this.federation.names)
    this.begin(vectors)
    for step in ("share", "mask", "agree", "open"):
        for items in ({}, {"org-99": "00"}, dict.fromkeys(but(this.federation.names, VICTIM), "zz")):
            with pytest.raises(FedGRPOError):
                this.ask(VICTIM, step, items)
        getattr(this, step)()
    assert np.array_equal(this.total(), sum(vectors.values()))


def test_each_step_asked_again_has_the_same_answer_also_after_a_restart(this):
    this.until("open").open()
    own = {
        "share": (this.bundles, this.boxes[VICTIM]),
        "agree": (dict.fromkeys(this.words, ""), {VICTIM: this.signatures[VICTIM]}),
        "open": (this.signatures, this.shares[VICTIM]),
    }
    for _ in range(2):
        for step, (items, answer) in own.items():
            assert this.ask(VICTIM, step, items).items == answer
        assert np.array_equal(mask(this).words, this.words[VICTIM])
        changed = some_vectors(this.federation.names, 9)
        assert this.federation.maskers[VICTIM].begin(this.context, changed[VICTIM]) == this.bundles[VICTIM]
        this.federation.restart()


def test_of_each_member_one_secret_s_share_is_given_and_never_the_other(this):
    this.until("agree").words.pop("org-00")
    this.agree().open()
    for giver, given in this.shares.items():
        session = this.federation.maskers[giver].sessions.get(this.context.sha256)
        assert given.keys() == set(this.federation.names)
        for owner, share_given in given.items():
            seed, key = session.shares[owner][:66], session.shares[owner][66:]
            assert share_given == (key if owner == "org-00" else seed)
            assert seed != key


def test_a_void_attempt_does_not_block_the_next_one(this):
    """Nobody opened the first: the second is signed and opened."""
    vectors = some_vectors(this.federation.names)
    this.until("open")
    later = another(this, attempt=2).begin(vectors).share().mask().agree().open()
    assert np.array_equal(later.total(), sum(vectors.values()))


def test_rounds_kinds_and_runs_are_opened_each_for_itself(this):
    this.until("open").open()
    for change in ({"round": 2}, {"kind": "evaluate", "asked": "greedy"}, {"federation": "fed-2"}):
        assert another(this, **change).until("open").open().shares
