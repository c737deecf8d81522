"""Problems, shards, and the order in which a shard is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....common.errors import ConfigError, DataError
from ....common.seeds import derived_seed


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt with a reference answer, and labels to divide and report by (`{"topic": "shop"}`)."""

    question: str
    answer: str
    labels: dict[str, str] = field(default_factory=dict[str, str])

    def row(self, system_prompt: str) -> dict[str, Any]:
        """The problem as TRL wants it; reward functions get `answer` and the labels as columns."""
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return {
            "prompt": [*system, {"role": "user", "content": self.question}],
            "answer": self.answer,
            **self.labels,
        }


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, the object) for each line of a JSON Lines file.

    Raises:
        ConfigError: the file cannot be read.
        DataError: a line is no JSON object; file and line are named.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, and no text
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} is no JSON object.")
        yield where, row


def read_jsonl(path: Path, wanted: Sequence[str]) -> list[dict[str, str]]:
    """The objects of a JSON Lines file, each of which has the text fields `wanted`.

    Raises:
        ConfigError: the file cannot be read.
        DataError: a line is no JSON object, or lacks a field; names file and line.
    """
    rows: list[dict[str, str]] = []
    for where, row in json_lines(path):
        missing = [key for key in wanted if not isinstance(row.get(key), str)]
        if missing:
            raise DataError(f"{where} has no text field {missing[0]!r}.")
        rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no problems.")
    return rows


def reading_order(size: int, position: int, count: int, *, seed: int, reader: str) -> list[int]:
    """Which problems of a shard come next: without repetition until the shard is used up, then shuffled anew.

    A function of the position alone, so a reader that was away for a round, or a process that was killed, goes on
    exactly where it was.

    Args:
        size: problems in the shard, at least 1.
        position: problems read before.
        reader: whose shard it is.
    """
    order: list[int] = []
    epoch, start = divmod(position, size)
    while len(order) < count:
        permutation = np.random.default_rng(derived_seed(seed, "order", reader, epoch)).permutation(size)
        order += permutation[start : start + count - len(order)].tolist()
        epoch, start = epoch + 1, 0
    return order
