"""An organisation's data: three file formats, the same problems; every bad row named by file and place."""

import csv
import json

import pyarrow as pa
import pytest
from fedgrpo.client.learner.data.tables import read_organisation_data
from fedgrpo.common.errors import ConfigError, DataError
from organisations import organisation_file
from pyarrow import parquet

ROWS = [{"Frage": f"What is {i}+1?", "Antwort": f"so\n#### {i + 1}", "Stufe": i % 3} for i in range(50)]
COLUMNS = {
    "data__question": "Frage",
    "data__answer": "Antwort",
    "data__answer_after": "####",
    "data__labels": ["Stufe"],
}


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet writes it
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)


def read(tmp_path, kind, rows=ROWS, **changes):
    write(tmp_path / f"train.{kind}", rows)
    return read_organisation_data(organisation_file(tmp_path, data__train=f"train.{kind}", **{**COLUMNS, **changes}))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_problems(tmp_path, kind):
    train, held_out = read(tmp_path, kind)
    problems = {p.question: p for p in [*train, *held_out]}
    assert len(problems) == 50
    assert problems["What is 7+1?"].answer == "8"
    assert problems["What is 7+1?"].labels == {"Stufe": "1"}


def test_what_is_held_out_does_not_change_when_problems_are_added(tmp_path):
    _, before = read(tmp_path, "jsonl", data__held_out_share=0.3)
    _, after = read(tmp_path, "jsonl", [*reversed(ROWS), {**ROWS[0], "Frage": "new"}], data__held_out_share=0.3)
    assert 5 <= len(before) <= 25
    assert {p.question for p in before} <= {p.question for p in after}


def test_the_template_makes_the_question(tmp_path):
    train, _ = read(tmp_path, "csv", prompt__template="Level {Stufe}: {question}")
    assert any(p.question == "Level 0: What is 0+1?" for p in train)
    with pytest.raises(ConfigError, match=r"prompt\.template cannot be filled in"):
        read(tmp_path, "csv", prompt__template="{patient}")


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("jsonl", {"Frage": "q", "Stufe": 1}, r"line 2 has no text or number in column 'Antwort'.*Frage, Stufe"),
        ("jsonl", {"Frage": None, "Antwort": "#### 1", "Stufe": 1}, "line 2 has no text or number in column 'Frage'"),
        ("jsonl", {"Frage": " ", "Antwort": "#### 1", "Stufe": 1}, "line 2 has an empty column 'Frage'"),
        ("jsonl", {"Frage": ["q"], "Antwort": "#### 1", "Stufe": 1}, "no text or number"),
        ("csv", {"Frage": "q", "Antwort": "1", "Stufe": 1}, r"line 4: the answer has no '####' followed by"),
        ("parquet", {"Frage": "q", "Antwort": None, "Stufe": 1}, "row 2 has no text or number"),
    ],
)
def test_a_bad_row_is_named_by_file_and_place(tmp_path, kind, row, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, kind, [ROWS[0], row])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\xff\xfe\x00a,b\n", b"a,b\n"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_that_is_none_is_said_to_be_none(tmp_path, kind, data):
    (tmp_path / f"train.{kind}").write_bytes(data)
    with pytest.raises((ConfigError, DataError), match="train"):
        read_organisation_data(organisation_file(tmp_path, data__train=f"train.{kind}", **COLUMNS))


def test_held_out_problems_are_not_trained_on(tmp_path):
    write(tmp_path / "held.jsonl", ROWS[:5])
    with pytest.raises(DataError, match="5 questions of held.jsonl are in train.jsonl too"):
        read(tmp_path, "jsonl", data__held_out="held.jsonl")


@pytest.mark.parametrize("source", ["nothing.jsonl", "notes.txt", "hub:", "hub:name", "."])
def test_a_source_that_is_none_says_what_one_is(tmp_path, source):
    with pytest.raises(ConfigError):
        read_organisation_data(organisation_file(tmp_path, data__train=source))
