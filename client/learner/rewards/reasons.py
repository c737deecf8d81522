"""Why a built-in reward pays what it pays: what it read, as codes that a page can put into any language.

A reason is good where it earns, or does not cost. A reward that pays all or nothing pays exactly where all of its
reasons are good; a test holds that for every one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..data.answers import after_thought, final_answer
from ..data.judge import judge
from ..data.numbers import as_number, last_numbers
from ..sandbox import Raised, Returned, call
from .choice import chosen_letter
from .citations import CITED, answer_text, content_words, read_documents, read_ids, supporting
from .columns import from_json, same_value
from .extraction import NoJSON, leaves, read_json, same_leaf, schema_validator
from .gsm8k import HASHES, LAST_NUMBERS, MARKS, STRICT, TAGS, among_the_last, correctness, hash_correctness, trailing
from .guards import FREE_SHARE, LONG, repeated_share
from .program import read_code, read_tests

SHOWN = 6
"""Of many reasons of one kind, how many are given."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that a reward saw."""

    code: str
    good: bool
    values: Mapping[str, str | float]


def reasons(name: str, text: str, row: Row) -> list[Reason]:
    """Return why a built-in reward pays what it does.

    Args:
        name: of the reward.
        text: the completion.
        row: `answer` and the columns that the reward needs.

    Returns:
        An empty list for a reward that is not built in.

    Raises:
        ValueError: a column holds something else than the reward needs.
    """
    why = WHY.get(name)
    return why(text, row) if why else []


def _why(code: str, good: bool, **values: str | float) -> Reason:
    return Reason(code, good, values)


def _read_answer(text: str) -> tuple[str | None, Reason | None]:
    """Return the answer, or why there is none."""
    found = final_answer(text)
    if found is not None:
        return found, None
    unclosed = "<answer>" in after_thought(text)
    number = judge(text, None).last_number or ""
    return None, _why("answer-unclosed" if unclosed else "answer-none", False, number=number)


def _correctness(text: str, row: Row) -> list[Reason]:
    found, missing = _read_answer(text)
    if missing or found is None:
        return [missing] if missing else []
    return [_compared(found, row, good=correctness([text], [_reference(row)])[0] > 0)]


def _reference(row: Row) -> str:
    return str(row.get("answer", ""))


def _compared(found: str, row: Row, *, good: bool) -> Reason:
    reference = _reference(row)
    return _why("answer-equal" if good else "answer-differs", good, read=found, reference=reference)


def _hash_correctness(text: str, row: Row) -> list[Reason]:
    marks = HASHES.findall(text)
    if marks != ["####"]:
        return [_why("hash-marks", False, count=len(marks))]
    after = after_thought(text).rpartition("####")[2].strip()
    if as_number(after) is None:
        return [_why("hash-after", False, read=after)]
    return [_compared(after, row, good=hash_correctness([text], [_reference(row)])[0] > 0)]


def _number_present(text: str, row: Row) -> list[Reason]:
    right = as_number(str(row.get("answer", "")))
    good = among_the_last(text, right)
    numbers = ", ".join(last_numbers(text, LAST_NUMBERS))
    return [_why("number-there" if good else "number-missing", good, numbers=numbers, reference=str(right or ""))]


def _integer(text: str, row: Row) -> list[Reason]:
    found, missing = _read_answer(text)
    if missing or found is None:
        return [missing] if missing else []
    number = as_number(found)
    good = number is not None and number == number.to_integral_value()
    return [_why("whole" if good else "not-whole", good, read=found)]


def _strict_format(text: str, row: Row) -> list[Reason]:
    wrong = [_why("tag-count", False, tag=tag, count=text.count(tag)) for tag in TAGS if text.count(tag) != 1]
    good = bool(STRICT.fullmatch(text))
    return wrong or [_why("layout" if good else "layout-wrong", good)]


def _soft_format(text: str, row: Row) -> list[Reason]:
    start = 0
    for tag in TAGS:
        place = text.find(tag, start)
        if place < 0:
            return [_why("tag-missing", False, tag=tag)]
        start = place + len(tag)
    return [_why("tags-in-order", True)]


def _tag_count(text: str, row: Row) -> list[Reason]:
    counts = [(tag, text.count(mark)) for tag, mark in zip(TAGS, MARKS, strict=True)]
    return [_why("line-once" if n == 1 else "line-count", n == 1, tag=tag, count=n) for tag, n in counts]


def _xml_count(text: str, row: Row) -> list[Reason]:
    return [*_tag_count(text, row), *_trailing(text, row)]


def _trailing(text: str, row: Row) -> list[Reason]:
    return [_why("trailing" if trailing(text) else "trailing-none", not trailing(text), count=trailing(text))]


def _think_format(text: str, row: Row) -> list[Reason]:
    begun, ended = text.count("<think>"), text.count("</think>")
    if (begun, ended) != (1, 1):
        return [_why("think-count", False, begun=begun, ended=ended)]
    before, _, rest = text.partition("<think>")
    thought, _, after = rest.partition("</think>")
    found = [
        (before.strip() == "", "think-before"),
        (thought.strip() != "", "think-empty"),
        (after.strip() != "", "think-nothing-after"),
    ]
    return [_why(code, False) for good, code in found if not good] or [_why("think-once", True)]


def _math_verify(text: str, row: Row) -> list[Reason]:
    return []  # math-verify says equal or not, in a process of its own


def _valid_json(text: str, row: Row) -> list[Reason]:
    try:
        value = read_json(text)
    except NoJSON as error:
        return [_why("json-none", False, error=str(error))]
    return [_why("json-read", True, count=len(value))]


def _json_schema(text: str, row: Row) -> list[Reason]:
    try:
        value = read_json(text)
    except NoJSON as error:
        return [_why("json-none", False, error=str(error))]
    validator = schema_validator(json.dumps(from_json("json-schema", "schema", row.get("schema"))))
    wrong = sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.path])
    found = [
        _why("schema-error", False, path=_path(tuple(error.path)), error=error.message[:200]) for error in wrong[:SHOWN]
    ]
    return found or [_why("schema-fits", True)]


def _json_fields(text: str, row: Row) -> list[Reason]:
    try:
        values = dict(leaves(read_json(text)))
    except NoJSON as error:
        return [_why("json-none", False, error=str(error))]
    right = dict(leaves(from_json("json-fields", "answer", row.get("answer"))))
    found = []
    for path in sorted(values.keys() | right.keys(), key=str):
        if path not in right:
            found.append(_why("field-invented", False, path=_path(path), read=_short(values[path])))
        elif path not in values:
            found.append(_why("field-missing", False, path=_path(path), reference=_short(right[path])))
        else:
            good = same_leaf(values[path], right[path])
            given = {"path": _path(path), "read": _short(values[path]), "reference": _short(right[path])}
            found.append(_why("field-right" if good else "field-wrong", good, **given))
    return found[: 4 * SHOWN]


def _multiple_choice(text: str, row: Row) -> list[Reason]:
    chosen, reference = chosen_letter(text), _reference(row)
    if chosen is None:
        return [_why("letter-none", False)]
    return [_compared(chosen, row, good=chosen == chosen_letter(f"<answer>{reference}</answer>"))]


def _answer_precision(text: str, row: Row) -> list[Reason]:
    given, right = content_words(answer_text(text)), content_words(str(row.get("answer", "")))
    extra = [word for word in dict.fromkeys(given) if word not in right]
    lacking = [word for word in dict.fromkeys(right) if word not in given]
    found = [_why("words-extra", False, words=", ".join(extra[:SHOWN]))] if extra else []
    found += [_why("words-lacking", False, words=", ".join(lacking[:SHOWN]))] if lacking else []
    return found or [_why("words-equal", True)]


def _citation_support(text: str, row: Row) -> list[Reason]:
    documents = read_documents(row.get("documents"))
    ids = None if row.get("sources") is None else read_ids(from_json("citation-support", "sources", row["sources"]))
    right = supporting(str(row.get("answer", "")), documents, ids) & documents.keys()
    cited = {name.strip() for group in CITED.findall(after_thought(text)) for name in group.split(",")}
    found = [
        _why("cited-right" if name in right else "cited-wrong", name in right, name=name) for name in sorted(cited)
    ]
    return found[: 2 * SHOWN] or [_why("cited-none", False)]


def _code_tests(text: str, row: Row) -> list[Reason]:
    code, tests = read_code(text), read_tests(row.get("answer"))
    if code is None:
        return [_why("code-none", False)]
    outcomes = call(code, tests.function, tests.arguments, unsafe=False)
    found = []
    for arguments, right, outcome in zip(tests.arguments, tests.results, outcomes, strict=True):
        called = f"{tests.function}({arguments[1:-1]})"
        if isinstance(outcome, Returned):
            good = same_value(outcome.value, right)
            given = {"call": called, "read": _short(outcome.value), "reference": _short(right)}
            found.append(_why("test-passed" if good else "test-failed", good, **given))
        elif isinstance(outcome, Raised):
            found.append(_why("test-raised", False, call=called, error=str(outcome)[:200]))
    return found[: 2 * SHOWN]


def _length_penalty(text: str, row: Row) -> list[Reason]:
    return [_why("length", not text, count=len(text), limit=LONG)]


def _repetition(text: str, row: Row) -> list[Reason]:
    share = repeated_share(text)
    return [_why("repeated", share <= FREE_SHARE, share=round(100 * share, 1), free=100 * FREE_SHARE)]


def _truncation(text: str, row: Row) -> list[Reason]:
    if "truncated" not in row:
        return []
    return [_why("cut-off" if row["truncated"] else "ended", not row["truncated"])]


def _path(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path)) or "(all)"


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]


WHY: Mapping[str, Callable[[str, Row], list[Reason]]] = {
    "correctness": _correctness,
    "hash-correctness": _hash_correctness,
    "number-present": _number_present,
    "integer": _integer,
    "strict-format": _strict_format,
    "soft-format": _soft_format,
    "xml-count": _xml_count,
    "tag-count": _tag_count,
    "think-format": _think_format,
    "math-verify": _math_verify,
    "valid-json": _valid_json,
    "json-schema": _json_schema,
    "json-fields": _json_fields,
    "multiple-choice": _multiple_choice,
    "answer-precision": _answer_precision,
    "citation-support": _citation_support,
    "code-tests": _code_tests,
    "code-tests-unsafe": _code_tests,
    "length-penalty": _length_penalty,
    "trailing-text": _trailing,
    "repetition-penalty": _repetition,
    "truncation-penalty": _truncation,
}
"""Reward -> its reasons."""
