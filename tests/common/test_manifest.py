"""The federation manifest: one fingerprint for one content, and a clear refusal of everything else."""

import random

import pytest
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.identity import public_key
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.identity.manifest import Manifest, Member
from test_identity import SMALL_ORDER

HEX = "ab" * 32
FIXED = [  # public keys of RFC 8032's tests 1, 2, 3, and of test 1024
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
]


def key():
    return Identity.generate().public


def manifest(count=3, **changes):
    members = tuple(Member(f"clinic-{i:02}", key()) for i in range(count))
    return Manifest(**{"federation": "fed", "server_key": key(), "members": members, **changes})


def written(tmp_path, text):
    path = tmp_path / "manifest.toml"
    path.write_text(text)
    return path


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    made = manifest(4, min_members=4, base_model_sha256=HEX)
    made.write(tmp_path / "manifest.toml")
    assert Manifest.read(tmp_path / "manifest.toml") == made
    assert made.key_of("clinic-01") == made.members[1].key
    assert made.has("clinic-01")
    assert not made.has("clinic-1")
    with pytest.raises(ConfigError, match="'clinic-x' is not a member of the federation fed"):
        made.key_of("clinic-x")


def test_the_fingerprint_is_the_documented_one():
    server, *members = (bytes.fromhex(each) for each in FIXED)
    made = Manifest(
        federation="fed",
        server_key=server,
        members=tuple(Member(n, k) for n, k in zip("cab", members, strict=True)),
    )
    assert made.sha256 == "8d9915c08fb0f5a479e1e3656f56fe5cb4c12364af7d732244c229f8770380f9"


def test_order_comments_and_spaces_do_not_change_the_fingerprint(tmp_path):
    made = manifest(5)
    blocks = made.text.split("\n[[member]]\n")
    head, members = blocks[0], blocks[1:]
    random.Random(0).shuffle(members)
    text = "# another comment\n" + "".join(f"[[member]] # one\n{m}" for m in members) + head.replace(" = ", "=")
    assert Manifest.read(written(tmp_path, text)).sha256 == made.sha256


def test_every_change_of_content_changes_the_fingerprint():
    made = manifest(4)
    members = made.members
    others = [
        {"federation": "fed2"},
        {"server_key": key()},
        {"min_members": 4},
        {"base_model_sha256": HEX},
        {"members": members[:3]},
        {"members": (*members[:3], Member("clinic-3", members[3].key))},
        {"members": (*members[:3], Member("clinic-03", key()))},
        {"members": (*members[:2], Member(members[2].name, members[3].key), Member(members[3].name, members[2].key))},
    ]
    fields = {"federation": made.federation, "server_key": made.server_key, "members": members}
    assert len({made.sha256, *(Manifest(**{**fields, **change}).sha256 for change in others)}) == 9


@pytest.mark.parametrize(
    ("count", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (16, 11), (64, 43), (100, 67)]
)
def test_the_threshold_is_more_than_two_thirds(count, threshold):
    assert manifest(count).threshold == threshold


@pytest.mark.parametrize("count", [0, 1, 2, 101])
def test_three_to_a_hundred_members(count):
    with pytest.raises(ConfigError, match=f"it has {count} members, but a federation has 3 to 100"):
        manifest(count)


@pytest.mark.parametrize("fewest", [0, 1, 2, 4, -3, True, 3.0, "3"])
def test_min_members_is_from_three_to_the_number_of_members(fewest):
    with pytest.raises(ConfigError, match="min-members is .* must be from 3 to the number of members, 3"):
        manifest(3, min_members=fewest)


def test_a_name_or_key_that_is_there_twice_is_refused():
    members = manifest(3).members
    with pytest.raises(ConfigError, match="name clinic-00 is there twice"):
        manifest(members=(*members, Member("clinic-00", key())))
    with pytest.raises(ConfigError, match="differs from .* in upper and lower case only"):
        manifest(members=(*members, Member("Clinic-00", key())))
    with pytest.raises(ConfigError, match="clinic-z has the key of clinic-01"):
        manifest(members=(*members, Member("clinic-z", members[1].key)))
    with pytest.raises(ConfigError, match="clinic-02 has the key of the server"):
        manifest(members=members, server_key=members[2].key)


@pytest.mark.parametrize("name", ["", "-a", "a b", "ä", "a" * 65, "a/b", "a\n"])
def test_names_follow_the_rule_of_organisations(name):
    with pytest.raises(ConfigError, match="must be at most 64 English letters"):
        manifest(members=(*manifest(3).members, Member(name, key())))


@pytest.mark.parametrize("encoded", [*SMALL_ORDER, "02" + "00" * 31, "00"])
def test_keys_that_are_not_sound_are_refused(encoded):
    with pytest.raises(ConfigError, match="the key of clinic-z"):
        manifest(members=(*manifest(3).members, Member("clinic-z", bytes.fromhex(encoded))))
    with pytest.raises(ConfigError, match="server-key"):
        manifest(server_key=bytes.fromhex(encoded))


def changed(before, after):
    def change(text):
        assert before in text
        return text.replace(before, after, 1)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "[manifest", "is not TOML"),
        (lambda text: "", "needs one .manifest. section"),
        (lambda text: text + "[extra]\n", "no section 'extra'"),
        (changed("version = 1", "version = 2"), "version is 2; this fedgrpo reads manifests of version 1"),
        (changed("version = 1\n", ""), "version is None"),
        (changed("version = 1", "version = true"), "version is True"),
        (
            changed('cipher = "aes-256-ctr"', 'cipher = "none"'),
            "cipher is 'none', but must be one of: aes-256-ctr, chacha20",
        ),
        (changed('cipher = "aes', 'ciphers = "aes'), "lacks cipher"),
        (changed("min-members", "threshold = 1\nmin-members"), "has 'threshold', which is not known"),
        (changed("min-members = 3", "min-members = 2"), "min-members is 2"),
        (changed('base-model-sha256 = ""', 'base-model-sha256 = "abc"'), "base-model-sha256 is 'abc'"),
        (changed('base-model-sha256 = ""', f'base-model-sha256 = "{HEX.upper()}"'), "lower case"),
        (changed('base-model-sha256 = ""', "base-model-sha256 = 1"), "base-model-sha256 is 1"),
        (changed('server-key = "ssh-ed25519 AAAA', 'server-key = "ssh-ed25519 AAAB'), "server-key is not a public"),
        (changed('name = "clinic-01"', 'name = "clinic/01"'), "the name of member 2 is 'clinic/01'"),
        (changed('name = "clinic-01"', "name = 1"), "the name of member 2 is 1"),
        (changed('name = "clinic-01"', 'nome = "clinic-01"'), "member 2 lacks name"),
        (
            changed('name = "clinic-01"\nkey = "', 'name = "clinic-01"\nkey = "x'),
            "the key of member 2, clinic-01, is not",
        ),
        (changed('name = "clinic-01"\nkey =', 'name = "clinic-01"\nkey = 5\nold ='), "member 2 has 'old'"),
        (changed('name = "clinic-01"', 'name = "clinic-00"'), "the name clinic-00 is there twice"),
        (lambda text: "member = [1]\n" + text, "member 1 is not a section"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_place(tmp_path, change, message):
    text = manifest(4).text
    if message.startswith("member 1 is not"):
        text = text.split("\n[[member]]")[0]
    path = written(tmp_path, change(text))
    with pytest.raises(ConfigError, match=message) as caught:
        Manifest.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read the manifest .*manifest.toml: No such file"):
        Manifest.read(tmp_path / "manifest.toml")


def test_a_key_has_one_line_in_the_manifest_and_in_its_file(tmp_path):
    identity = Identity.generate()
    public = identity.write(tmp_path / "clinic-a.identity")
    made = manifest(members=(*manifest(3).members, Member("clinic-a", public_key.read(public))))
    assert f'"{public.read_text().removesuffix(" clinic-a" + chr(10))}"' in made.text
