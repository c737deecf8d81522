"""What `server submit` prints while it follows a run, and its last line."""

import json
from dataclasses import replace

import pytest
from fedgrpo.common.messages.messages import Tally
from fedgrpo.server.operator.journal_lines import JournalLines
from fedgrpo.server.run.metrics import ClientMetrics, EvaluationMetrics, RoundMetrics, metrics_entry
from fedgrpo.server.run.status import result_line

CLIENTS = {
    "a": ClientMetrics(share=0.5, reported={"reward/mean": 0.2, "groups/zero-variance-share": 0.5}),
    "b": ClientMetrics(share=0.5, reported={"reward/mean": 0.4, "groups/zero-variance-share": 0.3}),
}
ROUND = RoundMetrics(
    round=1,
    seconds=3.5,
    bytes_up=2_000_000,
    bytes_down=1_000_000,
    update_norm=1.0,
    refused={"c": "late"},
    clients=CLIENTS,
)


PLANNED = {"event": "PLANNED", "round": 1, "attempt": 1, "cohort": ["a", "b", "c"], "adapter": "00"}
COMMITTED = {
    "event": "COMMITTED",
    "round": 1,
    "attempt": 1,
    "adapter": "0123456789abcdef",
    "positions": {},
    "strikes": {},
}


def evaluation(number, decoding, strict):
    total = Tally(problems=10, correct=strict, lenient=strict)
    return metrics_entry(EvaluationMetrics(round=number, decoding=decoding, clients=("a",), total=total, classes={}))


def write(path, *lines):
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_committed_round_is_one_line_with_its_figures(tmp_path):
    said = []
    lines = JournalLines(tmp_path, said.append)
    write(tmp_path / "metrics.jsonl", metrics_entry(ROUND), evaluation(1, "greedy", 4))
    write(tmp_path / "journal.jsonl", PLANNED, COMMITTED)
    lines.catch_up()
    lines.catch_up()
    assert len(said) == 3
    for figure in ("2 of 3 updates", "reward mean 0.300", "60% of groups", "3.5 s", "up 2.00 MB", "from c (late)"):
        assert figure in said[1]
    assert "after round 1: greedy accuracy" in said[2]


def test_a_sum_counts_its_members_and_not_its_one_line(tmp_path):
    said = []
    lines = JournalLines(tmp_path, said.append)
    one = {"(sum)": CLIENTS["a"]}
    write(tmp_path / "metrics.jsonl", metrics_entry(replace(ROUND, clients=one, members=("a", "b"))))
    write(tmp_path / "journal.jsonl", PLANNED, COMMITTED)
    lines.catch_up()
    assert "round 1 committed: 2 of 3 updates in one sum, " in said[-1]


def test_a_policy_that_keeps_metrics_back_leaves_them_out(tmp_path):
    said = []
    lines = JournalLines(tmp_path, said.append)
    write(tmp_path / "metrics.jsonl", metrics_entry(replace(ROUND, clients={"a": ClientMetrics(share=1.0)})))
    write(tmp_path / "journal.jsonl", COMMITTED)
    lines.catch_up()
    assert "reward" not in said[0]
    assert "signal" not in said[0]


@pytest.mark.parametrize(("greedy", "change"), [(3, "down from"), (7, "up from"), (5, "unchanged from")])
def test_the_summary_names_both_decodings_and_says_which_fell(tmp_path, greedy, change):
    write(tmp_path / "metrics.jsonl", evaluation(0, "sampled", 2), evaluation(0, "greedy", 5))
    write(tmp_path / "metrics.jsonl", evaluation(3, "sampled", 6), evaluation(3, "greedy", greedy))
    sampled, _, after = result_line(tmp_path).partition("Greedy")
    assert sampled.startswith("Sampled held-out accuracy after round 3")
    assert f"{change} 50.0%" in after
