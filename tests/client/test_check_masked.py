"""`client check` and `client egress --dry-run` with the file that `client init` writes: secure aggregation only."""

import json

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def clinic(run, tmp_path):
    """An organisation's file and data, as after `client init`; no manifest yet."""
    rows = [{"question": f"What is {k} + {k + 1}?", "answer": str(2 * k + 1)} for k in range(1, 120)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "clinic.toml"
    status, _, err = run("client", "init", file, "--name", "clinic-a", "--data", "questions.jsonl")
    assert status == 0, err
    return file


@pytest.fixture
def member(run, clinic):
    """The same, and a manifest of three members whose fingerprint is pinned."""
    place = clinic.parent
    for name in ("server", "clinic-b", "clinic-c"):
        assert run("keys", "identity", place / f"{name}.identity")[0] == 0
    manifest = place / "manifest.toml"
    init = ("--federation", "thyroid", "--server-key", place / "server.identity.pub")
    assert run("manifest", "init", manifest, *init)[0] == 0
    for name in ("clinic-a", "clinic-b", "clinic-c"):
        assert run("manifest", "add", manifest, place / f"{name}.identity.pub")[0] == 0
    fingerprint = json.loads(run("manifest", "fingerprint", manifest, "--format", "json")[1].splitlines()[-1])["sha256"]
    clinic.write_text(clinic.read_text().replace('manifest-sha256 = ""', f'manifest-sha256 = "{fingerprint}"'))
    return clinic


def checked(run, file, *more):
    _, out, _ = run("client", "check", file, "--samples", "1", "--format", "json", *more)
    return json.loads(out.splitlines()[-1])


def test_without_a_manifest_everything_but_the_messages_is_tried(run, clinic):
    found = checked(run, clinic)
    assert "learning signal" in found["steps"]
    assert found["steps"]["messages"] == "not tried: nothing says yet who the other members of a sum are"
    assert any("manifest" in problem for problem in found["problems"])
    assert found["leaving"] == {}


def test_a_member_sees_that_no_update_and_no_count_leaves_unmasked(run, member):
    (member.parent / "scenario.toml").write_text('[privacy]\nmode = "secagg"\n[train]\nsteps-per-round = 2\n')
    for more in ((), ("--scenario", member.parent / "scenario.toml")):
        found = checked(run, member, *more)
        assert not any("privacy" in problem or "manifest" in problem for problem in found["problems"])
        names = {kind: {field["name"] for field in fields} for kind, fields in found["leaving"].items()}
        assert set(names) == {"query.join", "train", "evaluate"}
        for kind in ("train", "evaluate"):
            assert "header.bundle" in names[kind]
            assert not any(name.startswith("vector") or "tallies" in name for name in names[kind])
        assert found["steps"]["masked vector"].startswith("not made: update and counts leave under masks")
    assert not (member.parent / "state" / "sums").exists()  # where real sums keep what they must remember


def test_a_run_that_does_not_mask_is_refused_by_name(run, member):
    (member.parent / "plain.toml").write_text("[train]\nsteps-per-round = 2\n")
    found = checked(run, member, "--scenario", member.parent / "plain.toml")
    assert any("privacy.mode is none" in problem for problem in found["problems"])


def test_a_dry_run_records_the_same_and_prints_long_values_short(run, member):
    status, out, err = run("client", "egress", member, "--dry-run")
    assert status == 0, err
    assert "header.bundle" in out
    assert "characters)" in out
