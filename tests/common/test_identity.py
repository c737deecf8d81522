"""Identity keys and the encoding of what they sign."""

import contextlib
import hashlib
import os
import stat

import pytest
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.identity import public_key
from fedgrpo.common.identity.encoding import encode
from fedgrpo.common.identity.keys import Identity, verify
from hypothesis import given
from hypothesis import strategies as st

SMALL_ORDER = [  # the eight points of order 1, 2, 4 and 8
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
RFC_8032 = [  # section 7.1, tests 1 to 3: public key, message, signature
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
        "24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302a"
        "eeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed2"
        "8dc027beceea1ec40a",
    ),
]
PARTS = st.recursive(
    st.text(max_size=4) | st.binary(max_size=4) | st.integers(), lambda inner: st.lists(inner, max_size=3).map(tuple)
)


@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(public, message, signature):
    key, data, signed = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert verify(key, signed, data)
    assert not verify(key, signed, data + b"x")
    assert not verify(key, signed[:-1], data)
    assert not verify(key[:-1], signed, data)


def test_a_key_is_written_once_for_its_owner_and_read_back(tmp_path):
    identity = Identity.generate()
    public = identity.write(tmp_path / "clinic-a.identity")
    assert public == tmp_path / "clinic-a.identity.pub"
    assert stat.S_IMODE(os.stat(tmp_path / "clinic-a.identity").st_mode) == 0o600
    again = Identity.read(tmp_path / "clinic-a.identity")
    assert verify(public_key.read(public), again.sign(b"hello"), b"hello")
    assert public.read_text() == f"{public_key.as_text(identity.public)} clinic-a\n"
    before = (tmp_path / "clinic-a.identity").read_bytes()
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        Identity.generate().write(tmp_path / "clinic-a.identity")
    (tmp_path / "clinic-b.identity.pub").write_text("somebody else's")
    with pytest.raises(ConfigError, match=r"clinic-b\.identity\.pub exists already"):
        Identity.generate().write(tmp_path / "clinic-b.identity")
    assert not (tmp_path / "clinic-b.identity").exists()
    assert (tmp_path / "clinic-a.identity").read_bytes() == before


def test_a_private_key_that_cannot_be_used_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "a.identity"
    with pytest.raises(ConfigError, match=r"Cannot read the identity key .*keys identity. makes one"):
        Identity.read(path)
    Identity.generate().write(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 640.*chmod 600"):
        Identity.read(path)
    path.write_text("-----BEGIN PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not an unencrypted private key in PEM"):
        Identity.read(path)


def test_another_kind_of_key_is_no_identity(tmp_path):
    from fedgrpo.common.cli import keys

    keys.make_authority(tmp_path)
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        Identity.read(tmp_path / "ca.key")
    public = keys.make_node(tmp_path / "node.key")
    with pytest.raises(ConfigError, match=r"node\.key\.pub is not a public identity key"):
        public_key.read(public)


def test_a_private_key_in_place_of_the_public_one_is_named(tmp_path):
    Identity.generate().write(tmp_path / "a.identity")
    with pytest.raises(ConfigError, match="private key, which must not leave"):
        public_key.read(tmp_path / "a.identity")


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_keys_of_small_order_are_refused(encoded):
    with pytest.raises(ConfigError, match="small order"):
        public_key.check(bytes.fromhex(encoded))


@pytest.mark.parametrize(
    "encoded",
    [
        "0200000000000000000000000000000000000000000000000000000000000000",  # no x for this y
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # y = p + 1, another writing of 1
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # y = p
        "ff" * 32,
    ],
)
def test_keys_that_are_no_points_or_not_canonical_are_refused(encoded):
    with pytest.raises(ConfigError, match="not a point of the curve"):
        public_key.check(bytes.fromhex(encoded))


def test_keys_that_were_generated_are_accepted():
    for _ in range(50):
        public = Identity.generate().public
        public_key.check(public)
        assert public_key.from_text(public_key.as_text(public) + "  clinic-a\n") == public


@given(st.data())
def test_a_changed_line_is_never_read_as_the_same_key(data):
    text = public_key.as_text(Identity.generate().public)
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != text[place]))
    changed = text[:place] + letter + text[place + 1 :]
    with contextlib.suppress(ConfigError):
        assert public_key.from_text(changed) != public_key.from_text(text)


def test_the_encoding_is_the_documented_one():
    assert encode("x", 7) == b"t" + b"\0" * 7 + b"\x02" + b"s" + b"\0" * 7 + b"\x01x" + b"i" + b"\0" * 7 + b"\x017"
    golden = hashlib.sha256(encode("fedgrpo test", "né", b"\x00\xff", -12, ("a", (), b""))).hexdigest()
    assert golden == "b058c4c9eb8a5bb531261db39528fa42d40320ca902a4524b9a347a72204823e"


@given(PARTS, PARTS)
def test_no_two_values_share_an_encoding(one, other):
    same = repr(one) == repr(other)
    assert (encode("x", one) == encode("x", other)) == same


@pytest.mark.parametrize("part", [True, 1.5, None, ["a"], ("a", None)])
def test_other_types_have_no_encoding(part):
    with pytest.raises(TypeError):
        encode("x", part)
