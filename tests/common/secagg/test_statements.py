"""What is signed: one statement has one text, and every other text is refused."""

import json
from dataclasses import asdict, fields, replace

import pytest
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.secagg import statements
from fedgrpo.common.secagg.statements import AGREEMENT, BUNDLE, Bundle, Context, agreement, canonical
from hypothesis import given
from hypothesis import strategies as st
from masked_federation import Federation

CONTEXT = Federation(3).context()
KEYS = {"mask_key": "1" * 64, "box_key": "2" * 64, "self_mask": "3" * 64, "commitment": "4" * 64}
MINE = Bundle(context=CONTEXT, member="org-00", **KEYS)
NAMES = st.lists(st.text("ab-0", min_size=1, max_size=3), max_size=4)


def refused(text):
    with pytest.raises(ProtocolError) as caught:
        Bundle.read(text)
    assert caught.value.code == "secagg.bundle"


def read_or_code(read, data):
    try:
        return read(data)
    except ProtocolError as error:
        return error.code


def test_a_bundle_reads_back_from_its_text_and_no_other_text_does():
    assert Bundle.read(MINE.text()) == MINE
    assert MINE.text() == BUNDLE + canonical(asdict(MINE))


@pytest.mark.parametrize("field", [field.name for field in fields(Context)])
def test_every_part_of_a_context_is_in_its_hash_and_in_the_bundle(field):
    value = getattr(CONTEXT, field)
    other = value + 1 if isinstance(value, int) else ("other",) if isinstance(value, tuple) else value + "x"
    changed = replace(CONTEXT, **{field: other})
    assert changed.sha256 != CONTEXT.sha256
    assert replace(MINE, context=changed).text() != MINE.text()
    assert statements.differences(CONTEXT, changed) == [field]


def changed(**values):
    return BUNDLE + canonical({**asdict(MINE), **values})


CONTEXT_VALUES = asdict(CONTEXT)
WRONG = {
    "another kind of statement": MINE.text().replace(BUNDLE, AGREEMENT),
    "no kind": MINE.text().removeprefix(BUNDLE),
    "nothing": b"",
    "not JSON": BUNDLE + b"{",
    "a list": BUNDLE + b"[]",
    "null": BUNDLE + b"null",
    "not UTF-8": BUNDLE + b'{"member":"\xff"}',
    "a blank": MINE.text().replace(b'"member":', b'"member": '),
    "a blank at the end": MINE.text() + b" ",
    "another order": BUNDLE + json.dumps(dict(reversed(asdict(MINE).items())), separators=(",", ":")).encode(),
    "a key twice": MINE.text()[:-1] + b',"self_mask":"' + b"3" * 64 + b'"}',
    "an escaped letter": MINE.text().replace(b"org-00", b"\\u006frg-00"),
    "one field more": changed(more=1),
    "one field less": BUNDLE + canonical({k: v for k, v in asdict(MINE).items() if k != "commitment"}),
    "a short key": changed(mask_key="1" * 63),
    "a key in capitals": changed(mask_key="A" * 64),
    "a key that is not text": changed(box_key=[1]),
    "a member that is not text": changed(member=1),
    "a context that is not one": changed(context="x"),
    "a context with one field more": changed(context={**CONTEXT_VALUES, "more": 1}),
    "a context with one field less": changed(context={k: v for k, v in CONTEXT_VALUES.items() if k != "app"}),
    "a round that is text": changed(context={**CONTEXT_VALUES, "round": "1"}),
    "a round that is true": changed(context={**CONTEXT_VALUES, "round": True}),
    "a round that is a fraction": changed(context={**CONTEXT_VALUES, "round": 1.0}),
    "numbers that are a text": changed(context={**CONTEXT_VALUES, "numbers": "weight"}),
    "a name that is a number": changed(context={**CONTEXT_VALUES, "numbers": [1]}),
    "a round beyond all digits": changed(context={**CONTEXT_VALUES, "round": 77}).replace(b"77", b"7" * 5000),
    "brackets without end": BUNDLE + b"[" * 8000,
}


@pytest.mark.parametrize("case", WRONG)
def test_a_signed_text_that_is_not_the_one_form_of_a_bundle_is_refused(case):
    refused(WRONG[case])


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_in_another_way(data):
    refused(BUNDLE + data)
    refused(data)


@given(st.integers(0, len(MINE.text()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_is_another_bundle(place, change):
    text = bytearray(MINE.text())
    text[place] ^= change
    if (read := read_or_code(Bundle.read, bytes(text))) != "secagg.bundle":
        assert read != MINE
        assert read.text() == bytes(text)


def test_a_signed_text_travels_with_its_signature_in_one_form():
    signature, text = bytes(range(64)), b"what is signed"
    travelling = statements.signed(text, signature)
    assert statements.unsigned(travelling) == (text, signature)
    for wrong in (
        travelling.upper(),
        travelling[:4] + " " + travelling[4:],
        travelling[:-1],
        travelling + "\n",
        "0x" + travelling,
        travelling[:128],
        "",
        "zz" * 100,
        "٣" * 130,
        "ab" * (statements.MAX_BUNDLE_BYTES + 65),
    ):
        with pytest.raises(ProtocolError) as caught:
            statements.unsigned(wrong)
        assert caught.value.code in ("secagg.bundle", "secagg.encoding")


@given(st.text(max_size=300))
def test_no_text_makes_the_reader_of_hexadecimal_fail_in_another_way(text):
    if (data := read_or_code(statements.from_hex, text)) != "secagg.encoding":
        assert data.hex() == text


@given(NAMES, NAMES, NAMES, NAMES)
def test_agreements_are_the_same_text_only_if_they_are_on_the_same_sets(masked, survivors, other_masked, others):
    one = agreement(CONTEXT, bytes(32), masked, survivors)
    two = agreement(CONTEXT, bytes(32), other_masked, others)
    assert (one == two) == (sorted(masked) == sorted(other_masked) and sorted(survivors) == sorted(others))


def test_an_agreement_is_on_one_sum_and_one_roster():
    texts = {
        agreement(context, roster, ["a", "b"], ["a"])
        for context in (CONTEXT, replace(CONTEXT, attempt=2))
        for roster in (bytes(32), b"\1" * 32)
    }
    assert len(texts) == 4
    assert agreement(CONTEXT, bytes(32), ["b", "a"], ["a"]) == agreement(CONTEXT, bytes(32), ["a", "b"], ["a"])


@given(st.dictionaries(st.text("ab", min_size=1, max_size=2), st.text("01", max_size=3), max_size=3), st.data())
def test_a_roster_s_hash_is_of_names_and_bundles(roster, data):
    other = data.draw(st.dictionaries(st.text("ab", min_size=1, max_size=2), st.text("01", max_size=3), max_size=3))
    assert (statements.roster_hash(roster) == statements.roster_hash(other)) == (roster == other)
