"""`fedgrpo manifest` and `fedgrpo keys identity`, and whether an organisation's file fits a manifest."""

import json

import pytest
from fedgrpo.client.organisation.credentials import read_credentials
from fedgrpo.client.organisation.settings import OrganisationFile
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.identity.keys import Identity
from fedgrpo.common.identity.manifest import Manifest
from organisations import organisation_file

pytestmark = pytest.mark.e2e


def answer(run, *words):
    status, out, err = run(*words, "--format", "json")
    assert status == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def made(run, tmp_path):
    """A manifest of three clinics, made by the commands."""
    server = answer(run, "keys", "identity", tmp_path / "server.identity")["public"]
    file = tmp_path / "manifest.toml"
    answer(run, "manifest", "init", file, "--federation", "thyroid", "--server-key", server)
    for name in ("clinic-b", "clinic-a", "clinic-c"):
        public = answer(run, "keys", "identity", tmp_path / f"{name}.identity")["public"]
        added = answer(run, "manifest", "add", file, public)
    assert added["members"] == ["clinic-b", "clinic-a", "clinic-c"]
    return file


def test_a_manifest_is_made_member_by_member(run, made):
    found = answer(run, "manifest", "fingerprint", made)
    manifest = Manifest.read(made)
    assert found["sha256"] == manifest.sha256
    assert [member.name for member in manifest.members] == found["members"] == ["clinic-a", "clinic-b", "clinic-c"]
    assert (found["threshold"], found["min_members"], found["federation"]) == (3, 3, "thyroid")
    verified = answer(
        run, "manifest", "verify", made, "--sha256", manifest.sha256, "--identity", made.parent / "clinic-b.identity"
    )
    assert verified["you"] == "clinic-b"


def test_members_are_missing_until_there_are_as_many_as_a_round_needs(run, made, tmp_path):
    made.write_text(made.read_text().replace("min-members = 3", "min-members = 5"))
    for name, says in (("clinic-d", "It needs 1 more."), ("clinic-e", "It can be used.")):
        public = answer(run, "keys", "identity", tmp_path / f"{name}.identity")["public"]
        assert says in run("manifest", "add", made, public)[1]


def test_what_is_added_leaves_the_rest_of_the_file_as_it_is(run, made, tmp_path):
    made.write_text("# ours\n" + made.read_text() + "# the end")
    answer(run, "keys", "identity", tmp_path / "clinic-d.identity")
    answer(run, "manifest", "add", made, tmp_path / "clinic-d.identity.pub", "--name", "north")
    text = made.read_text()
    assert text.startswith("# ours\n")
    assert "# the end" in text
    assert Manifest.read(made).has("north")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["init", "manifest.toml", "--federation", "x", "--server-key", "server.identity.pub"], "exists already"),
        (["init", "m", "--federation", "a b", "--server-key", "server.identity.pub"], "federation is 'a b'"),
        (["init", "m", "--federation", "x", "--server-key", "no.pub"], "Cannot read no.pub"),
        (
            ["init", "m", "--federation", "x", "--server-key", "server.identity.pub", "--min-members", "2"],
            "--min-members is 2",
        ),
        (["add", "manifest.toml", "clinic-a.identity.pub"], "the name clinic-a is there twice"),
        (["add", "manifest.toml", "clinic-a.identity.pub", "--name", "x"], "x has the key of clinic-a"),
        (["add", "manifest.toml", "server.identity.pub"], "server has the key of the server"),
        (["add", "manifest.toml", "clinic-a.identity"], "private key, which must not leave"),
        (["add", "nothing.toml", "clinic-a.identity.pub"], "Cannot read the manifest nothing.toml"),
        (["fingerprint", "nothing.toml"], "Cannot read the manifest nothing.toml"),
        (["verify", "manifest.toml", "--sha256", "00"], "It is another manifest than the one that was compared"),
        (["verify", "manifest.toml", "--identity", "server.identity"], "no member has the key of server.identity"),
    ],
)
def test_what_cannot_be_is_refused(run, made, monkeypatch, words, says):
    monkeypatch.chdir(made.parent)
    before = made.read_bytes()
    status, _, err = run("manifest", *words)
    assert status == 1
    assert says in err
    assert err.count("\n") == 1
    assert made.read_bytes() == before
    assert not (made.parent / "m").exists()


def test_a_manifest_of_two_members_is_refused_but_may_grow(run, tmp_path):
    for name in ("server", "a", "b", "c"):
        answer(run, "keys", "identity", tmp_path / f"{name}.identity")
    file = tmp_path / "m.toml"
    answer(run, "manifest", "init", file, "--federation", "x", "--server-key", tmp_path / "server.identity.pub")
    for name in ("a", "b"):
        answer(run, "manifest", "add", file, tmp_path / f"{name}.identity.pub")
    assert "it has 2 members, but a federation has 3 to 100" in run("manifest", "fingerprint", file)[2]
    answer(run, "manifest", "add", file, tmp_path / "c.identity.pub")
    assert run("manifest", "fingerprint", file)[0] == 0


def clinic(made, **changes):
    sha256 = Manifest.read(made).sha256
    values = {
        "organisation__name": "clinic-a",
        "federation__manifest": "manifest.toml",
        "federation__identity": "clinic-a.identity",
        "policy__manifest_sha256": sha256,
        **changes,
    }
    return organisation_file(made.parent, **values)


def test_an_organisation_that_fits_has_its_credentials(made):
    found = read_credentials(clinic(made))
    assert (found.name, found.manifest.federation) == ("clinic-a", "thyroid")
    assert found.identity.public == found.manifest.key_of("clinic-a")


def test_an_organisation_that_neither_pins_nor_wants_secure_aggregation_has_none(made):
    assert read_credentials(clinic(made, policy__manifest_sha256="")) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"federation__manifest": "no.toml"}, "Cannot read the manifest"),
        ({"federation__manifest": ""}, "federation.manifest is empty"),
        ({"policy__manifest_sha256": "0" * 64}, "is another manifest than the one you compared"),
        (
            {"policy__manifest_sha256": "", "policy__privacy": "secagg"},
            "policy.manifest-sha256 is empty. The fingerprint",
        ),
        (
            {"organisation__name": "clinic-z"},
            "is clinic-z, which is not in the manifest. Its members are clinic-a, cli",
        ),
        ({"federation__identity": ""}, "federation.identity is empty"),
        ({"federation__identity": "no.identity"}, "Cannot read the identity key"),
        ({"federation__identity": "clinic-b.identity"}, "the manifest has another key for clinic-a"),
    ],
)
def test_what_does_not_fit_is_named_with_its_remedy(made, changes, says):
    organisation = clinic(made, **changes)
    with pytest.raises(ConfigError) as caught:
        read_credentials(organisation)
    assert says in str(caught.value)


def test_another_base_model_than_the_federations_is_named(made):
    made.write_text(made.read_text().replace('base-model-sha256 = ""', f'base-model-sha256 = "{"1" * 64}"'))
    assert read_credentials(clinic(made, model__sha256="1" * 64)) is not None
    with pytest.raises(ConfigError, match="model.sha256 is 222.*but the federation's manifest says 111"):
        read_credentials(clinic(made, model__sha256="2" * 64))


def test_a_pin_that_is_no_fingerprint_is_refused(made):
    with pytest.raises(ConfigError, match="manifest-sha256 is not 64 hexadecimal digits"):
        clinic(made, policy__manifest_sha256="abc")


def test_client_init_makes_an_identity_and_asks_for_secure_aggregation(run, tmp_path):
    status, out, _ = run("client", "init", tmp_path / "c.toml", "--name", "clinic-a", "--data", "x.jsonl")
    assert status == 0
    assert "clinic-a.identity.pub to who writes the manifest" in out
    organisation = OrganisationFile.read(tmp_path / "c.toml")
    assert organisation.policy.privacy == "secagg"
    assert organisation.policy.manifest_sha256 == ""
    assert Identity.read(organisation.path(organisation.settings.federation.identity)).public
    run("client", "init", tmp_path / "d.toml", "--name", "clinic-d", "--data", "x.jsonl", "--privacy", "none")
    assert OrganisationFile.read(tmp_path / "d.toml").policy.privacy == "none"


def test_server_init_makes_an_identity(run, tmp_path):
    found = answer(run, "server", "init", tmp_path / "fed")
    assert found["identity"] == str(tmp_path / "fed" / "keys" / "server.identity.pub")
    assert Identity.read(tmp_path / "fed" / "keys" / "server.identity").public
