"""Problems, shards, and the order in which a shard is read."""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....common.errors import ConfigError, DataError
from ....common.seeds import derived_seed
from .cells import WrittenNumber


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt with a reference answer, and labels to partition and report by (`{"topic": "shop"}`)."""

    question: str
    answer: str
    labels: dict[str, str] = field(default_factory=dict[str, str])
    unit: str = ""
    """Whom it is about (`data.unit-id`): differential privacy protects all problems of one unit together."""

    def row(self, system_prompt: str) -> dict[str, Any]:
        """Return the problem as a row for TRL; reward functions get `answer` and the labels as columns."""
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return {
            "prompt": [*system, {"role": "user", "content": self.question}],
            "answer": self.answer,
            **self.labels,
        }


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, for messages; the object) for each line of a JSON Lines file, with or without a byte order mark.

    Numbers with a fraction or exponent are `WrittenNumber`s, which keep the file's digits.

    Raises:
        ConfigError: the file cannot be read.
        DataError: a line is not a JSON object, or has a key twice; names file and line.
    """
    try:
        lines = path.read_bytes().removeprefix(BOM_UTF8).splitlines()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, parse_float=WrittenNumber, object_pairs_hook=_object)
            json.dumps(row, ensure_ascii=False).encode()  # lone surrogates are valid JSON, but not valid UTF-8
        except _RepeatedKeyError as error:
            raise DataError(
                f"{where} has the key {error.args[0]!r} twice, so its value is not clear. Remove one."
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} is not a JSON object.")
        yield where, row


class _RepeatedKeyError(ValueError):
    """A JSON object has a key twice; the argument is the key."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return result


def read_jsonl(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read the objects of a JSON Lines file, each with the text fields `required`.

    Raises:
        ConfigError: the file cannot be read.
        DataError: a line is not a JSON object, or lacks a field; names file and line.
    """
    rows: list[dict[str, str]] = []
    for where, row in json_lines(path):
        missing = [key for key in required if not isinstance(row.get(key), str)]
        if missing:
            raise DataError(f"{where} has no text field {missing[0]!r}.")
        rows.append(row)
    if not rows:
        raise DataError(f"{path} does not contain any problems.")
    return rows


def in_blocks(problems: Sequence[Problem], lengths: Sequence[int], block: int, limit: int) -> list[Problem]:
    """Return the problems of at most `limit` tokens that make whole blocks, block after block.

    A block is `block` different prompts of similar length. Which prompts it holds depends on the shard alone, not on
    `limit` nor on the order of the shard: a block with a prompt that is too long is left out as a whole, as are the
    longest prompts that do not fill a block, and repetitions. With blocks of 1 the shard keeps its order.

    Args:
        lengths: tokens of each problem's prompt.
    """
    if block == 1:
        return [problem for problem, length in zip(problems, lengths, strict=True) if length <= limit]
    distinct: dict[str, tuple[int, Problem]] = {}
    for problem, length in zip(problems, lengths, strict=True):
        distinct.setdefault(problem.question, (length, problem))
    order = sorted(distinct.values(), key=lambda each: (each[0], _digest(each[1])))
    whole = [order[start : start + block] for start in range(0, len(order) - block + 1, block)]
    return [problem for one in whole if one[-1][0] <= limit for _, problem in one]


def _digest(problem: Problem) -> bytes:
    return hashlib.sha256(problem.question.encode()).digest()


def reading_order(size: int, position: int, count: int, *, seed: int, reader: str, block: int = 1) -> list[int]:
    """Return the indices of the next problems of a shard: each once per epoch, in a new random order each epoch.

    The order depends on the position alone, so a client that missed a round, or a process that was killed, continues
    exactly where it was.

    Args:
        size: problems in the shard, at least 1.
        position: problems read before.
        count: problems to return.
        reader: name of the client whose shard it is.
        block: problems that are read together; the others are multiples of it.
    """
    if block > 1:
        blocks = reading_order(size // block, position // block, -(-count // block), seed=seed, reader=reader)
        return [index * block + offset for index in blocks for offset in range(block)][:count]
    order: list[int] = []
    epoch, start = divmod(position, size)
    while len(order) < count:
        permutation = np.random.default_rng(derived_seed(seed, "order", reader, epoch)).permutation(size)
        order += permutation[start : start + count - len(order)].tolist()
        epoch, start = epoch + 1, 0
    return order
