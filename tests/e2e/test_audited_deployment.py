"""The round log of a whole deployment on loopback: every organisation checks the operator's log with its own file."""

import json

import pytest
from fedgrpo.common.audit.record import Line
from test_simulate import fedgrpo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_every_organisation_finds_the_log_of_masked_rounds_right(tmp_path):
    values = {"privacy.mode": "secagg", "evaluation.every": 0, "train.steps-per-round": 1, "evaluation.problems": 20}
    words = [f"--set={name}={value}" for name, value in values.items()]
    engine = ("--engine", "superlink", "--clients=3", "--rounds=2", "--out", tmp_path, "--run", "run")
    fedgrpo("simulate", "builtin", *engine, *words, timeout=900)
    log = tmp_path / "run" / "audit.jsonl"
    records = [Line.read(data).record for data in log.read_bytes().splitlines()]
    assert [(r.event, r.round, r.mode) for r in records] == [
        ("created", 0, "secagg"),
        ("committed", 1, "secagg"),
        ("committed", 2, "secagg"),
        ("finished", 2, "secagg"),
    ]
    for number in range(3):
        file = tmp_path / "run" / "loopback" / f"client-{number}" / "organisation.toml"
        out = fedgrpo("audit", "verify", log, file, "--format", "json").stdout
        checks = {check["name"]: (check["status"], check["text"]) for check in json.loads(out)["checks"]}
        assert {name for name, (status, _) in checks.items() if status == "ok"} == checks.keys() - {"aggregates"}
        assert "all 3 members that were asked signed the first 3 records" in checks["counter-signatures"][1]
        assert "2 updates are counted, each as in its receipts and egress record" in checks["own contributions"][1]
