"""Rewards for extracting records: the completion is JSON, fits a schema, and has the values of the reference."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.answers import ANSWER, after_thought, same_answer
from .columns import column, from_json, library, same_value
from .fences import last_fence

MAX_TEXT = 64_000
"""Characters; a longer text is not parsed."""


class NoJSON(ValueError):
    """A completion without a JSON document in its place."""


def valid_json(completions: Sequence[str], **_: object) -> list[float]:
    """1.0 where a completion holds a JSON object or list: after its thoughts, in `<answer>`, a code fence, or both.

    >>> valid_json(['{"age": 4}', '<think>?</think>```json\\n[1]\\n```', "<answer>{}</answer>", "{'age': 4}", "4"])
    [1.0, 1.0, 1.0, 0.0, 0.0]
    """
    return [1.0 if _holds_json(text) else 0.0 for text in completions]


def json_schema(completions: Sequence[str], schema: Sequence[Any] | None = None, **_: object) -> list[float]:
    """1.0 where the JSON in a completion fits the JSON Schema in the column `schema`; needs the library `jsonschema`.

    References to other documents are not followed, so nothing is downloaded.

    >>> json_schema(['{"age": 4}', '{"age": "four"}'], schema=['{"properties": {"age": {"type": "integer"}}}'] * 2)
    [1.0, 0.0]
    """
    library("json-schema", "jsonschema")
    schemas = [json.dumps(from_json("json-schema", "schema", each)) for each in column("json-schema", "schema", schema)]
    return [1.0 if _fits(text, each) else 0.0 for text, each in zip(completions, schemas, strict=True)]


def json_fields(completions: Sequence[str], answer: Sequence[Any], **_: object) -> list[float]:
    """The share of fields that are right, of all that the completion or the reference (JSON, in `answer`) has.

        |fields equal in both| / |fields of either|

    A field is a path to a value, list items by their place; one that is missing or invented counts as wrong. Texts are
    compared without case, numbers as numbers.

    >>> json_fields(['{"name": "ann", "age": 4}', '{"name": "Ann", "sex": "f"}'], ['{"name": "Ann", "age": 4}'] * 2)
    [1.0, 0.3333333333333333]
    """
    references = [from_json("json-fields", "answer", each) for each in answer]
    return [_share(text, right) for text, right in zip(completions, references, strict=True)]


def read_json(text: str) -> Any:
    """Return the JSON object or list in a completion.

    Raises:
        NoJSON: the completion has none, or it is malformed.
    """
    text = after_thought(text)
    if len(text) > MAX_TEXT:
        raise NoJSON(f"{len(text)} characters")
    for document in _places(text):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(document, parse_constant=_refuse)
            if isinstance(value, (dict, list)):
                return value
    raise NoJSON("it has neither an object nor a list")


def _places(text: str) -> Iterator[str]:
    """Yield what may be the document: all of it, then what its tags, fence or mark enclose.

    All of it comes first, as a text inside the document may look like a mark.
    """
    yield text
    blocks = ANSWER.findall(text)
    inside = blocks[-1] if blocks else text
    fenced = last_fence(inside, "json[a-z0-9]*")
    if fenced is not None:
        yield fenced
    elif blocks:
        yield inside
    elif "####" in text:
        yield text.rpartition("####")[2]


def _refuse(constant: str) -> None:
    raise NoJSON(f"{constant} is not JSON")


def _holds_json(text: str) -> bool:
    try:
        read_json(text)
    except NoJSON:
        return False
    return True


def _fits(text: str, schema: str) -> bool:
    validator = schema_validator(schema)
    try:
        return validator.is_valid(read_json(text))
    except (NoJSON, RecursionError):
        return False


@functools.lru_cache(maxsize=64)
def schema_validator(schema: str) -> Any:
    """Return the validator of a JSON Schema, which follows no references to other documents."""
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    parsed = json.loads(schema)
    kind: Any = validator_for(parsed, default=Draft202012Validator)
    try:
        kind.check_schema(parsed)
    except SchemaError as error:
        raise ValueError(f"the column 'schema' is not a JSON Schema: {error.message[:200]}") from error
    return kind(parsed, registry=Registry())


def _share(text: str, right: Any) -> float:
    try:
        values = dict(leaves(read_json(text)))
    except NoJSON:
        return 0.0
    references = dict(leaves(right))
    equal = sum(same_leaf(values[path], references[path]) for path in values.keys() & references.keys())
    return equal / len(values.keys() | references.keys())


def same_leaf(one: Any, other: Any) -> bool:
    """Return whether two values of a field are equal: texts without case, numbers as numbers."""
    texts = isinstance(one, str) and isinstance(other, str)
    return same_value(one, other) or (texts and same_answer(one, other))


def leaves(document: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield (path, value) of each leaf; an empty object or list is a leaf. Not recursive: models nest deeply."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while todo:
        path, value = todo.pop()
        below = _below(value)
        todo += [((*path, key), each) for key, each in below]
        if not below:
            yield path, value


def _below(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []
