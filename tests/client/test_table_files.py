"""Data files are read strictly: what a file means reaches the comparison, and what is not clear is refused by line."""

import datetime
import json
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from fedgrpo.client.learner.data.answers import same_answer
from fedgrpo.client.learner.data.cells import as_text
from fedgrpo.client.learner.data.tables import read_organisation_data, read_table
from fedgrpo.client.organisation.columns import RESERVED
from fedgrpo.client.organisation.settings import Data
from fedgrpo.common.errors import ConfigError, DataError
from organisations import organisation_file
from pyarrow import parquet

BOM = "\ufeff"


def problems(path, content, template="{question}", **columns):
    """What is read from a file of this content: text, or rows for Parquet."""
    if isinstance(content, str):
        path.write_bytes(content.encode())
    else:
        parquet.write_table(content if isinstance(content, pa.Table) else pa.Table.from_pylist(content), path)
    return [problem for _, problem in read_table(str(path), Data(**columns), template)]


def answers(path, content, **columns):
    return [problem.answer for problem in problems(path, content, **columns)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q1,1", "q2, or q3,2", "q4,3"], "line 3 has more cells than the header: 3, not 2"),
        (["q1,1", "", "q2"], "line 4 has fewer cells than the header: 1, not 2"),
        (["q1,1", '"q2,2', "q3,3", '"q4",4'], r'line 3 has a stray quote \("\).*read until line 5'),
        (['"a 5" pipe",6'], "line 2 has a stray quote"),
        (["q1,1", '"q2,2'], "line 3 has a stray quote"),
        (['"two', 'lines",1', '"q" 2,2'], "line 4 has a stray quote"),
        (['q1, "1"'], "line 2 has a space before a quote"),
    ],
)
def test_a_csv_row_that_is_not_clear_is_refused_by_its_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=rf"d\.csv, {message}"):
        problems(tmp_path / "d.csv", "\n".join(["question,answer", *lines]) + "\n")


def test_a_well_formed_csv_file_is_read_as_it_is(tmp_path):
    text = 'question,answer\r\n"a 5"" pipe, of\r\nsteel",6\r\n\r\nan 8" pipe,7\r\n'
    read = problems(tmp_path / "d.csv", text)
    assert [p.question for p in read] == ['a 5" pipe, of\r\nsteel', 'an 8" pipe']
    assert [p.answer for p in read] == ["6", "7"]


@pytest.mark.parametrize("name", ["d.csv", "D.CSV"])
@pytest.mark.parametrize(
    "header", ["question,answer", f"{BOM}question,answer", "question, answer", " question ,answer"]
)
def test_a_header_s_blanks_a_byte_order_mark_and_capitals_make_no_difference(tmp_path, name, header):
    read = problems(tmp_path / name, f'{header}\nq1, 42\n"q, 2",43\n')
    assert [(p.question, p.answer) for p in read] == [("q1", "42"), ("q, 2", "43")]


def test_after_a_header_with_blanks_a_quoted_cell_may_have_one_too(tmp_path):
    assert answers(tmp_path / "d.csv", 'question, answer\n"a, b", "4,000"\n') == ["4,000"]


def test_a_cell_may_be_longer_than_the_csv_module_s_limit(tmp_path):
    question = "word " * 30_000
    (problem,) = problems(tmp_path / "d.csv", f'question,answer\n"{question}",42\n')
    assert (problem.question, problem.answer) == (question, "42")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "question,answer,answer\nq,1,2\n", "line 1 has the column 'answer' twice"),
        ("d.csv", "question, answer,answer\nq,1,2\n", "line 1 has the column 'answer' twice"),
        (
            "d.jsonl",
            '{"question": "q", "answer": 1}\n{"answer": 1, "answer": 2}\n',
            "line 2 has the key 'answer' twice",
        ),
        ("d.jsonl", '{"question": "q", "a": {"b": 1, "b": 2}}\n', "line 1 has the key 'b' twice"),
        (
            "d.parquet",
            pa.table([["q"], ["1"], ["2"]], names=["question", "answer", "answer"]),
            "has the column 'answer' twice",
        ),
        ("d.csv", "question;answer\nq;1\n", "Separate the columns by commas, not by ';'"),
    ],
)
def test_a_column_or_key_given_twice_is_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        problems(tmp_path / name, content)


def test_a_file_in_another_encoding_is_refused_with_the_line(tmp_path):
    (tmp_path / "d.csv").write_bytes("question,answer\nq,1\nq,\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not CSV in UTF-8: .* on line 3"):
        read_table(str(tmp_path / "d.csv"), Data())


NUMBERS = ["0.00005", "10000000000000000", "12345678901234567", "1.0", "10000000000000000000000", "-0.1", "2.50"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_the_same_reference_in_every_format(tmp_path, number):
    exact, double = Decimal(number), float(number)
    read = [
        *answers(tmp_path / "d.csv", f"question,answer\nq,{number}\n"),
        *answers(tmp_path / "d.jsonl", f'{{"question": "q", "answer": {number}}}\n'),
        *answers(tmp_path / "e.jsonl", f'{{"question": "q", "answer": {exact:e}}}\n'),
        *answers(tmp_path / "d.parquet", [{"question": "q", "answer": exact}]),
    ]
    if Decimal(repr(double)) == exact:
        read += answers(tmp_path / "e.parquet", [{"question": "q", "answer": double}])
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for answer in read)
    assert all(same_answer(number, answer) for answer in read), read


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16()])
def test_a_short_float_of_parquet_is_the_number_that_was_written(tmp_path, kind):
    column = pa.array(np.array([0.1, 7.5], kind.to_pandas_dtype()), kind)
    nested = pa.StructArray.from_arrays([column], names=["x"])
    table = pa.table({"question": ["p", "q"], "answer": column, "nested": nested})
    assert answers(tmp_path / "d.parquet", table) == ["0.1", "7.5"]
    assert answers(tmp_path / "d.parquet", table, answer="nested.x") == ["0.1", "7.5"]


def test_text_is_never_rewritten_as_a_number(tmp_path):
    for text in ("1e3", "007", "1,000", "TRUE", "0.50"):
        cell = json.dumps(text)
        assert answers(tmp_path / "d.csv", f"question,answer\nq,{cell}\n") == [text]
        assert answers(tmp_path / "d.jsonl", f'{{"question": "q", "answer": {cell}}}\n') == [text]
        assert answers(tmp_path / "d.parquet", [{"question": "q", "answer": text}]) == [text]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (datetime.date(2026, 3, 1), "2026-03-01"),
        (datetime.datetime(2026, 3, 1, 12, 30), "2026-03-01T12:30:00"),
        (datetime.time(12, 30), "12:30:00"),
        (datetime.timedelta(hours=1), None),
        (b"bytes", None),
        (float("nan"), None),
        ([1], None),
        ({"a": 1}, None),
        (None, None),
    ],
)
def test_what_a_value_becomes(tmp_path, value, text):
    assert as_text(value) == text
    rows = [{"question": "q", "answer": value}]
    if text is not None:
        assert answers(tmp_path / "d.parquet", rows) == [text]
    else:
        with pytest.raises(DataError, match="row 1 has no text or number in column 'answer'"):
            answers(tmp_path / "d.parquet", rows)


@pytest.mark.parametrize("digits", ["1e999", "1e-999999999", "-1e999999999"])
def test_a_number_that_no_float_holds_is_refused_or_0_and_never_fills_the_memory(tmp_path, digits):
    line = f'{{"question": "q", "answer": {digits}}}\n'
    if "e-" in digits:
        assert answers(tmp_path / "d.jsonl", line) == ["0.0"]
    else:
        with pytest.raises(DataError, match="no text or number"):
            answers(tmp_path / "d.jsonl", line)


NESTED = {
    "prompt": [{"role": "system", "content": "brief"}, {"role": "user", "content": "1+1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra.index": 3,
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_nested_column_is_named_with_dots(tmp_path, kind):
    content = [NESTED] if kind == "parquet" else json.dumps(NESTED) + "\n"
    columns = {
        "question": "prompt.1.content",
        "answer": "reward_model.ground_truth",
        "labels": ("reward_model.style", "extra.index"),
    }
    (problem,) = problems(tmp_path / f"d.{kind}", content, template="{question} {reward_model.style}", **columns)
    assert (problem.question, problem.answer) == ("1+1? rule", "2")
    assert problem.labels == {"reward_model.style": "rule", "extra.index": "3"}
    with pytest.raises(DataError, match=r"'prompt'\. Name what is inside it: prompt\.0\.content\. Its columns: "):
        problems(tmp_path / f"d.{kind}", content, question="prompt", answer="reward_model.ground_truth")
    for missing in ("reward_model.nothing", "prompt.7.content", "prompt.x", "extra.index.y"):
        with pytest.raises(DataError, match="no text or number in column"):
            problems(tmp_path / f"d.{kind}", content, question=missing, answer="reward_model.ground_truth")


ORIGINAL = "\u00c9mile has 2 apples.\nHow many?"
FORMS = {
    "line ends": ORIGINAL.replace("\n", "\r\n"),
    "white space": f" {ORIGINAL.replace(' ', '  ')}\t",
    "no-break space": ORIGINAL.replace(" ", "\u00a0"),
    "decomposed": ORIGINAL.replace("\u00c9", "E\u0301"),
    "compatibility": ORIGINAL.replace("2", "\uff12"),
    "invisible": ORIGINAL.replace(" ", " \u200b"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_question_in_another_form_is_not_held_out(tmp_path, form):
    def write(name, *questions):
        lines = [json.dumps({"question": question, "answer": "2"}) for question in questions]
        (tmp_path / name).write_text("\n".join(lines) + "\n")

    write("train.jsonl", ORIGINAL, "another")
    write("held.jsonl", form, ORIGINAL.casefold())
    file = organisation_file(tmp_path, data__held_out="held.jsonl")
    with pytest.raises(DataError, match="1 questions of held.jsonl are in train.jsonl too"):
        read_organisation_data(file)
    write("train.jsonl", ORIGINAL, form, *(f"question {i}" for i in range(30)))
    for share in (0.1, 0.5, 0.9):
        train, _ = read_organisation_data(organisation_file(tmp_path, data__held_out_share=share))
        assert sum(problem.question in (ORIGINAL, form) for problem in train) in (0, 2)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_label_that_means_something_to_the_trainer_is_refused_in_one_message(name):
    with pytest.raises(ConfigError, match=f"data.labels names '{name}', which has a meaning of its own already"):
        Data(labels=("topic", name), question="q", answer="a")
    with pytest.raises(ConfigError, match="data.labels names 'q', which is the column of the question"):
        Data(labels=("q",), question="q", answer="a")


TEXTS = [
    r"{question} Put it within \boxed{}.",
    r"{question} Put it within \boxed{answer}.",
    '{question} Reply as JSON: {"answer": 5, "unit": {}}',
    r"{question} as \frac{a}{b} { or } {{x}} {0} {unknown}",
]


@pytest.mark.parametrize("template", TEXTS)
def test_other_braces_of_a_template_stay_as_they_are(tmp_path, template):
    (problem,) = problems(tmp_path / "d.csv", "question,answer\nWhat is {a} + 1?,4\n", template=template)
    assert problem.question == template.replace("{question}", "What is {a} + 1?")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{qestion}?", "there is no column 'qestion'. Did you mean 'question'"),
        ("{question} at level {level}", "the column 'level' is not in data.labels. Add it there"),
        ("{question} {answer}", "{answer} is the reference answer, which the model must not see"),
        ("Solve it.", "it names none, so that every prompt would be the same"),
        ("{patient}", "it names none, so that every prompt would be the same"),
    ],
)
def test_a_slip_in_a_template_is_refused(tmp_path, template, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        problems(tmp_path / "d.csv", "question,answer,level\nq,4,2\n", template=template)


def test_a_byte_order_mark_changes_no_text_file(tmp_path):
    file = organisation_file(tmp_path).file
    file.write_text(BOM + file.read_text())
    (tmp_path / "train.jsonl").write_text(f'{BOM}{{"question": "q", "answer": "1"}}\n' * 1)
    train, held_out = read_organisation_data(type(organisation_file(tmp_path)).read(file))
    assert [p.question for p in [*train, *held_out]] == ["q"]


def test_a_dataset_of_the_hub_is_read_as_a_file_is(monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "prompt": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "answer": datasets.Value("float32"),
            "kind": datasets.ClassLabel(names=["easy", "hard"]),
        }
    )
    rows = [{"prompt": [{"role": "user", "content": f"{i}?"}], "answer": i / 10, "kind": i % 2} for i in range(3)]
    loaded = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split: loaded if split == "train" else None)
    columns = Data(question="prompt.0.content", answer="answer", labels=("kind",))
    read = [problem for _, problem in read_table("hub:some/name:train", columns)]
    assert [(p.question, p.answer, p.labels["kind"]) for p in read] == [
        ("0?", "0.0", "0"),
        ("1?", "0.1", "1"),
        ("2?", "0.2", "0"),
    ]
