"""A run folder is read as it is written: typed lines, both formats, damage named by file and line, nothing changed."""

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest
from checkout import ROOT
from federation import fail, misbehave_in, play, settings
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.messages.messages import Tally
from fedgrpo.common.messages.metric_names import TRAIN_METRICS
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.server.federation.evaluation import due
from fedgrpo.server.operator.journal_lines import JournalLines
from fedgrpo.server.run import journal as events
from fedgrpo.server.run.journal import EVENTS, FORMAT, Created, Finished, Journal, Planned, Resumed, Void
from fedgrpo.server.run.layout import RunFolder
from fedgrpo.server.run.metrics import ClientMetrics, EvaluationMetrics, RoundMetrics, read_metrics
from fedgrpo.server.run.reader import Run
from fedgrpo.server.run.status import RunStatus, result_line
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.engine.replay import Replay
from fedgrpo.simulations.evaluation import target
from fedgrpo.simulations.export import source
from fedgrpo.simulations.planning.traffic import evaluations
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

FORMAT_1 = Path(__file__).parent / "format_1"
"""A run of two rounds that fedgrpo 0.1 wrote; of the metrics, two clients and some classes."""
SERVER_METRICS = {"seconds", "bytes_up", "bytes_down", "update_norm", "share", "steps", "examples", "norm", "clipped"}


@pytest.fixture
def folder(tmp_path):
    return play(settings(tmp_path)).folder


def edited(path, number, change):
    """Change the JSON object in a line; the first is 1."""
    lines = path.read_text().splitlines()
    entry = json.loads(lines[number - 1])
    change(entry)
    lines[number - 1] = json.dumps(entry)
    path.write_text("".join(line + "\n" for line in lines))


# Typed lines

NAMES = st.text("abc-é", min_size=1, max_size=5)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 10**9)
CLIENTS = st.builds(
    ClientMetrics,
    share=NUMBERS,
    steps=COUNTS,
    examples=COUNTS,
    norm=NUMBERS,
    clipped=st.booleans(),
    bytes_up=COUNTS,
    bytes_down=COUNTS,
    reported=st.dictionaries(st.sampled_from(TRAIN_METRICS), NUMBERS),
)
ROUNDS = st.builds(
    RoundMetrics,
    round=COUNTS,
    attempt=COUNTS,
    seconds=NUMBERS,
    bytes_up=COUNTS,
    bytes_down=COUNTS,
    update_norm=NUMBERS,
    aggregation_error=st.none() | NUMBERS,
    refused=st.dictionaries(NAMES, NAMES),
    clients=st.dictionaries(NAMES, CLIENTS, max_size=3),
)
TALLIES = st.builds(Tally, **{f.name: COUNTS for f in fields(Tally)})
EVALUATIONS = st.builds(
    EvaluationMetrics,
    round=COUNTS,
    decoding=st.sampled_from(["sampled", "greedy"]),
    clients=st.lists(NAMES).map(tuple),
    total=TALLIES,
    classes=st.dictionaries(NAMES, TALLIES, max_size=3),
)


@hypothesis_settings(deadline=None)
@given(st.lists(ROUNDS | EVALUATIONS, max_size=4))
def test_metrics_are_read_as_they_were_written(tmp_path_factory, lines):
    store = Store(tmp_path_factory.mktemp("run"))
    for line in lines:
        store.add_metrics(line)
    assert read_metrics(store.files.metrics) == lines


def a_value(hint):
    known = {
        "int": COUNTS,
        "float": NUMBERS,
        "str": NAMES,
        "tuple[str, ...]": st.lists(NAMES).map(tuple),
        "dict[str, str]": st.dictionaries(NAMES, NAMES),
        "dict[str, int]": st.dictionaries(NAMES, COUNTS),
        "dict[str, int] | None": st.none() | st.dictionaries(NAMES, COUNTS),
        "dict[str, tuple[int, int]]": st.dictionaries(NAMES, st.tuples(COUNTS, COUNTS)),
        "dict[str, tuple[float, ...]]": st.dictionaries(NAMES, st.lists(NUMBERS).map(tuple)),
    }
    return known[hint]


LINES = st.one_of(
    [
        st.builds(kind, **{f.name: a_value(f.type) for f in fields(kind) if f.name not in ("time", "format")})
        for kind in EVENTS.values()
    ]
)


@hypothesis_settings(deadline=None)
@given(st.lists(LINES, max_size=6))
def test_a_journal_is_read_as_it_was_written_with_the_time_of_each_line(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    for number, line in enumerate(lines):
        events.append(path, line, 1000.0004 + number)
    found = Journal.read(path).lines
    assert [line.time for line in found] == [1000.0 + number for number in range(len(lines))]
    assert [type(line) for line in found] == [type(line) for line in lines]
    for one, other in zip(found, lines, strict=True):
        assert {f.name: getattr(one, f.name) for f in fields(one) if f.name != "time"} == {
            f.name: getattr(other, f.name) for f in fields(other) if f.name != "time"
        }


def test_every_metric_is_written_as_area_and_name(folder):
    for line in read_lines(folder / "metrics.jsonl"):
        if line["kind"] == "round":
            assert {key for key in line if "/" not in key} == {"kind", "round", "attempt", "refused", "clients"}
            assert all("/" in key for client in line["clients"].values() for key in client)
    (created,) = [line for line in read_lines(folder / "journal.jsonl") if line["event"] == "CREATED"]
    assert created["format"] == FORMAT == 2


def test_a_file_of_a_run_folder_is_named_in_one_place():
    names = [f'"{name}"' for name in ("journal.jsonl", "metrics.jsonl", "config.resolved.toml", "samples.jsonl")]
    names += [
        '"answers.jsonl"',
        '"inputs.sha256"',
        '"adapters"',
        '"inbox"',
        '"stopped.json"',
        '"report.html"',
        '".lock"',
    ]
    places = {
        str(path.relative_to(ROOT))
        for layer in ("common", "server", "client", "simulations", "benchmarks")
        for path in (ROOT / layer).rglob("*.py")
        if any(name in path.read_text() for name in names)
    }
    assert places == {"server/run/layout.py"}


# Damage


@pytest.mark.parametrize(
    ("file", "line", "change", "says"),
    [
        (
            "journal.jsonl",
            2,
            lambda e: e.update(event="PLANED"),
            "line 2 is damaged: event is 'PLANED', not one of C",
        ),
        ("journal.jsonl", 2, lambda e: e.pop("event"), "line 2 is damaged: event is None"),
        ("journal.jsonl", 2, lambda e: e.pop("cohort"), "line 2 is damaged: cohort is missing"),
        ("journal.jsonl", 3, lambda e: e.update(round="1"), "line 3 is damaged: round is '1', not a whole number"),
        ("journal.jsonl", 3, lambda e: e.update(round=True), "line 3 is damaged: round is True, not a whole number"),
        ("journal.jsonl", 3, lambda e: e.update(positions=[1]), r"line 3 is damaged: positions is \[1\]"),
        ("journal.jsonl", 3, lambda e: e.update(counted={"a": [1]}), "line 3 is damaged: a in counted is"),
        (
            "metrics.jsonl",
            1,
            lambda e: e.update(kind="what"),
            "line 1 is damaged: kind is 'what', not one of round",
        ),
        (
            "metrics.jsonl",
            1,
            lambda e: e["total"].update(problems=1.5),
            "line 1 is damaged: problems is 1.5, not a",
        ),
        ("metrics.jsonl", 3, lambda e: e.pop("round/seconds"), "line 3 is damaged: round/seconds is missing"),
        ("metrics.jsonl", 3, lambda e: e.pop("clients"), "line 3 is damaged: clients is missing"),
        (
            "metrics.jsonl",
            3,
            lambda e: e["clients"]["client-0"].update({"reward/mean": "much"}),
            "line 3 is damaged: reward/mean in a metric is 'much', not a number",
        ),
    ],
)
def test_a_damaged_line_is_named_with_its_field_by_every_reader(folder, file, line, change, says):
    edited(folder / file, line, change)
    readers = [Run.read, RunStatus.read, Replay]
    readers += [lambda path: JournalLines(path, print)] if file == "journal.jsonl" else [result_line]
    for reader in readers:
        with pytest.raises(RunError, match=f"{file}, {says}.*Restore the file from a copy") as error:
            reader(folder)
        assert str(folder) in str(error.value)


def test_a_blank_line_does_not_shift_the_number_of_a_damaged_one(folder):
    file = folder / "journal.jsonl"
    file.write_text("\n" + file.read_text())
    edited(file, 3, lambda entry: entry.pop("cohort"))
    with pytest.raises(RunError, match="line 3 is damaged: cohort is missing"):
        Run.read(folder)


def test_a_run_of_a_later_format_is_not_read_at_a_guess(folder):
    edited(folder / "journal.jsonl", 1, lambda entry: entry.update(format=3))
    with pytest.raises(RunError, match=r"has format 3, this fedgrpo reads up to 2. Read it with a newer version"):
        Run.read(folder)


def snapshot(folder):
    """Bytes and time of change of all that is in a folder, and of the folders themselves."""
    paths = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in paths}


def torn(folder):
    """What a crash leaves: a line cut off, metrics that no line of the journal makes count, an update in the inbox."""
    store = Store(folder)
    journal = store.files.journal.read_bytes().splitlines(keepends=True)
    store.files.journal.write_bytes(b"".join(journal[:-3]) + journal[-3][:40])  # PLANNED 3 | COMM
    store.files.metrics.write_bytes(store.files.metrics.read_bytes()[:-20])
    store.files.inbox.mkdir()
    store.files.update("client-0").write_bytes(b"half")
    old = 1_700_000_000_000_000_000
    for path in (folder, *folder.rglob("*")):
        os.utime(path, ns=(old, old))


def test_reading_a_run_that_a_crash_has_torn_changes_nothing_in_it(folder):
    config = Run.read(folder).config
    torn(folder)
    before = snapshot(folder)
    run = Run.read(folder)
    assert run.journal.round == 2
    run.result(), run.warnings(), run.outcomes("sampled"), run.contributions()
    assert Store(folder).recover(config).round == 2
    assert RunStatus.read(folder).round == 2
    result_line(folder)
    Replay(folder).catch_up()
    JournalLines(folder, print).catch_up()
    assert target.locate(folder, None).folder == folder / "adapters" / "0002"
    assert source.locate(folder, None, best=False).round == 2
    assert snapshot(folder) == before


def test_the_writer_that_resumes_repairs_it_and_comes_to_the_same_end(folder, tmp_path):
    whole = Run.read(folder).result()["adapter_sha256"]
    torn(folder)
    again = play(settings(tmp_path))
    assert again.result()["adapter_sha256"] == whole
    assert [line.round for line in again.rounds] == [1, 2, 3]
    assert [(line.round, line.format) for line in again.journal.of(Resumed)] == [(2, FORMAT)]


# Format 1


def test_a_run_of_format_1_is_read():
    run = Run.read(FORMAT_1)
    assert (run.journal.created.format, run.journal.round, run.journal.finished) == (1, 2, True)
    assert [type(line) for line in run.journal.lines[:2]] == [Created, Planned]
    first = run.rounds[0]
    assert (first.round, first.attempt, first.seconds) == (1, 1, 1.958)
    assert (first.bytes_up, first.bytes_down) == (336472, 331700)
    assert first.update_norm == 0.9223665284826128
    assert first.aggregation_error == 2.3507402906957143e-08
    client = first.clients["client-0"]
    assert (client.share, client.steps, client.examples, client.norm) == (0.25, 4, 16, 1.4066190765094775)
    assert (client.clipped, client.bytes_up, client.bytes_down) == (False, 84118, 82925)
    assert client.reported["reward/mean"] == client.reward == 1.1455078125
    assert not {key for key in client.reported if "/" not in key or key.startswith("update/")}
    result = run.result()
    assert result["adapter_sha256"].startswith("d31be188fc45")
    assert (result["accuracy"]["problems"], result["accuracy"]["after"]) == (20, 0.35)
    assert [row["bytes_up"] for row in result["ledger"]] == [168236, 168236]
    assert RunStatus.read(FORMAT_1).state == "finished"


def in_format_1(folder):
    """Rewrite a folder's lines as fedgrpo 0.1 wrote them."""
    names = {"round/": "", "update/": ""}

    def old(entry):
        found = {}
        for key, value in entry.items():
            area = next((area for area in names if key.startswith(area)), None)
            name = key if area is None else key.removeprefix(area).replace("-", "_")
            found[name] = {who: old(told) for who, told in value.items()} if key == "clients" else value
        return found

    lines = read_lines(folder / "metrics.jsonl")
    lines = [old(line) if line["kind"] == "round" else line for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edited(folder / "journal.jsonl", 1, lambda entry: entry.pop("format"))


def test_a_run_of_format_1_is_resumed_in_the_present_format_and_comes_to_the_same_end(tmp_path):
    whole = play(settings(tmp_path / "whole"))
    with pytest.raises(RunError, match="Round 3 was void"):
        play(settings(tmp_path), misbehave_in("train", {0, 1, 2, 3}, fail, round_number=3))
    folder = tmp_path / "run"
    written = Run.read(folder)
    in_format_1(folder)
    assert any(SERVER_METRICS & set(line) for line in read_lines(folder / "metrics.jsonl"))
    assert Run.read(folder).rounds == written.rounds
    again = play(settings(tmp_path))
    assert again.result()["adapter_sha256"] == whole.result()["adapter_sha256"]
    assert again.rounds[:2] == written.rounds
    assert not any(SERVER_METRICS & set(line) for line in read_lines(folder / "metrics.jsonl"))
    assert [line.format for line in again.journal.lines if isinstance(line, Created | Resumed)] == [1, FORMAT]


# The rest


def test_a_journal_says_how_far_a_run_is():
    def committed(number, adapter):
        return events.Committed(round=number, attempt=1, adapter=adapter, positions={}, strikes={})

    journal = Journal((committed(1, "a"), committed(2, "b"), committed(2, "c"), Void(round=3, attempt=1, reason="x")))
    assert (journal.round, journal.adapters, journal.finished) == (2, {1: "a", 2: "c"}, False)
    assert journal.created is None
    assert len(journal.of(Void)) == 1
    assert Journal((*journal.lines, Finished(round=2, adapter="c"))).finished


def test_a_folder_without_a_journal_holds_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run folder: journal.jsonl is missing"):
        Run.read(tmp_path)
    assert not RunFolder(tmp_path).begun
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("every", "gate", "expected"),
    [(0, False, 4), (1, False, 8), (2, False, 6), (3, False, 5), (0, True, 8), (2, True, 8)],
)
def test_the_plan_counts_the_evaluations_that_a_run_has(tmp_path, every, gate, expected):
    config = settings(tmp_path, federation__rounds=5, evaluation__every=every, gate__enabled=gate)
    assert evaluations(config) == expected
    run = play(config)
    assert len(run.sampled) + len(run.greedy) == expected
    done = {(line.round, decoding) for decoding in ("greedy", "sampled") for line in getattr(run, decoding)}
    assert {(number, decoding) for number in range(6) for decoding in due(config, number)} <= done
