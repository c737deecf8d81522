"""What the rewards pay for a group of completions, why, and what is left of it relative to the group."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...common.errors import DataError, FedGRPOError, RewardError
from ...common.foreign import printable
from ..learner.data.cells import as_text
from ..learner.data.problems import json_lines
from ..learner.rewards import SETS, Reward, load_rewards
from ..learner.rewards.advantages import advantages
from ..learner.rewards.loading import LARGEST
from ..learner.rewards.reasons import reasons
from .presets import PRESETS

MOST_COMPLETIONS = 64
LONGEST = 20_000
"""Characters of a completion."""
MOST_SAID = 20
OWN_COLUMNS = ("completion", "question", "answer", "prompt")
JUDGED = {"decoding": "sampled", "model": "base"}
"""What `fedgrpo evaluate --save` writes beside a completion -> the completions that are shown."""
Row = dict[str, Any]


class Refused(ValueError):
    """A request that asks for something else than it may; the message says what."""


class Workbench:
    """Rewards that a page may try: built-in sets, and the specification that the command was given."""

    def __init__(self, spec: str = "", data: Path | None = None) -> None:
        """Load what the command names.

        Raises:
            ConfigError, DataError: the rewards or the data cannot be read.
        """
        self.own_spec = spec
        self.spec = spec or next(iter(PRESETS))
        """What the page begins with, and what the samples of `data` are scored by."""
        self._files = [Path(part.partition("=")[0].partition(":")[0].strip()).expanduser() for part in spec.split(",")]
        self._files = [path for path in self._files if path.suffix == ".py"]
        self._loaded: dict[str, tuple[str, tuple[Reward, ...]]] = {}
        if spec:
            self.rewards(spec)
        self.groups = _groups(data) if data else []

    @property
    def choices(self) -> list[str]:
        """Return the specifications that a request may name."""
        given = [self.own_spec] if self.own_spec else []
        return list(dict.fromkeys([*given, *PRESETS, *SETS]))

    def version(self) -> str:
        """Return a text that changes when one of the organisation's files does."""
        digest = hashlib.sha256()
        for path in self._files:
            with contextlib.suppress(OSError):
                digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def rewards(self, spec: str) -> tuple[Reward, ...]:
        """Return the rewards of a specification, read again where a file of it has changed.

        Raises:
            Refused: it is not one of `choices`.
            ConfigError: it cannot be loaded.
        """
        if spec not in self.choices:
            raise Refused(f"{spec!r:.80} is not one of the rewards that this page may use")
        version = self.version() if spec == self.own_spec else ""
        known = self._loaded.get(spec)
        if known is None or known[0] != version:
            known = self._loaded[spec] = (version, load_rewards(spec))
        return known[1]

    def start(self, spec: str) -> Row:
        """Return what the page begins with for a specification: a problem and completions."""
        if spec == self.spec and self.groups:
            return self.groups[0]
        return {"columns": {}, **PRESETS.get(spec, PRESETS["gsm8k"])}

    def score(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each completion of a group is paid, by each reward, with reasons, sums and advantages.

        Raises:
            Refused: the request is not one.
            FedGRPOError: a reward cannot be loaded or run.
        """
        spec, completions, row = _checked(request)
        chosen = self.rewards(spec)
        weights = _weights(request.get("weights"), chosen)
        found = [_paid(reward, completions, row) for reward in chosen]
        values = np.array([[math.nan if v is None else v for v in one["values"]] for one in found], dtype=np.float32)
        scale = request.get("scale_rewards", "group")
        if scale not in ("group", "batch", "none"):
            raise Refused(f"scale_rewards is {scale!r:.40}, not group, batch or none")
        result = advantages(
            values.T[None], weights, scale_rewards=scale, normalize_first=request.get("normalize_first") is True
        )
        return {
            "rewards": [
                {"name": printable(r.name), "weight": w, "source": printable(r.source), "about": _about(r), **one}
                for r, w, one in zip(chosen, weights, found, strict=True)
            ],
            "total": _plain(result.total[0]),
            "advantages": _plain(result.advantage[0]),
            "signal": bool(result.signal[0]),
        }

    def spread(self) -> dict[str, Any]:
        """Return how many groups of the data have no signal: nothing is learned from those."""
        chosen = self.rewards(self.spec)
        weights = [reward.weight for reward in chosen]
        silent = []
        for number, group in enumerate(self.groups):
            row = {"question": group["question"], "answer": group["answer"], **group["columns"]}
            paid = [_paid(reward, group["completions"], row)["values"] for reward in chosen]
            values = np.array([[math.nan if v is None else v for v in one] for one in paid], dtype=np.float32)
            if not advantages(values.T[None], weights).signal[0]:
                silent.append(number)
        return {"groups": len(self.groups), "silent": silent}


def _checked(request: Mapping[str, Any]) -> tuple[str, list[str], Row]:
    spec, completions, columns = request.get("rewards"), request.get("completions"), request.get("columns", {})
    texts = isinstance(completions, list) and all(isinstance(text, str) for text in completions)
    if not isinstance(spec, str) or not texts or not isinstance(columns, dict):
        raise Refused("a request has rewards, completions (a list of texts), answer and columns")
    assert isinstance(completions, list)
    if not 1 <= len(completions) <= MOST_COMPLETIONS or any(len(text) > LONGEST for text in completions):
        raise Refused(f"a group has 1 to {MOST_COMPLETIONS} completions of at most {LONGEST} characters")
    answer, question = request.get("answer", ""), request.get("question", "")
    if not all(isinstance(value, str) for value in (answer, question, *columns.values())):
        raise Refused("answer, question and columns are texts")
    given = {name: value for name, value in columns.items() if name.isidentifier() and value != ""}
    return spec, completions, {**given, "question": question, "answer": answer}


def _weights(given: object, chosen: Sequence[Reward]) -> list[float]:
    if given is None:
        return [reward.weight for reward in chosen]
    numbers = [w for w in cast("list[object]", given) if isinstance(w, (int, float))] if isinstance(given, list) else []
    if len(numbers) != len(chosen) or any(not abs(weight) <= LARGEST for weight in numbers):
        raise Refused(f"weights are {len(chosen)} numbers within +-{LARGEST:g}")
    return [float(weight) for weight in numbers]


def _paid(reward: Reward, completions: Sequence[str], row: Row) -> dict[str, Any]:
    """Return the values of one reward, with reasons and what its function logged; or its error in words."""
    count, said = len(completions), list[tuple[str, Any]]()
    columns = {name: [value] * count for name, value in row.items()}
    prompt = [{"role": "user", "content": row["question"]}]
    try:
        values = reward(
            completions=[[{"role": "assistant", "content": text}] for text in completions],
            prompts=[prompt] * count,
            completion_ids=[[0]] * count,
            trainer_state=None,
            log_extra=lambda name, logged: said.append((name, logged)),
            log_metric=lambda name, value: said.append((name, [value] * count)),
            **columns,
        )
        why = [_reasons(reward, text, row) for text in completions]
    except RewardError as error:
        return {"values": [None] * count, "reasons": [[] for _ in completions], "error": printable(str(error))}
    logged = [[_logged(name, all_of, at) for name, all_of in said[:MOST_SAID]] for at in range(count)]
    return {"values": _plain(values), "reasons": [[*w, *x] for w, x in zip(why, logged, strict=True)], "error": ""}


def _reasons(reward: Reward, text: str, row: Row) -> list[dict[str, Any]]:
    if reward.source != "built-in":
        return []
    try:
        found = reasons(reward.name, text, row)
    except (ValueError, FedGRPOError):  # the reward itself has said so
        return []
    return [{"code": r.code, "good": r.good, "values": _printable(r.values)} for r in found]


def _printable(values: Mapping[str, str | float]) -> dict[str, str | float]:
    return {name: printable(value) if isinstance(value, str) else value for name, value in values.items()}


def _logged(name: str, values: Any, at: int) -> dict[str, Any]:
    value = values[at] if isinstance(values, (list, tuple)) and at < len(values) else values
    return {"code": "logged", "good": True, "values": {"name": printable(str(name)), "value": printable(str(value))}}


def _about(reward: Reward) -> str:
    text = inspect.getdoc(reward.function) or ""
    return printable(text.splitlines()[0]) if text else ""


def _plain(values: Sequence[float | None] | np.ndarray) -> list[float | None]:
    return [None if v is None or math.isnan(v) else round(float(v), 7) for v in values]


def _groups(data: Path) -> list[Row]:
    """Return the completions of a file, in groups of the same question: at most MOST_COMPLETIONS of each.

    Of a file that `fedgrpo evaluate --save` wrote, those that were sampled from the base model.
    """
    found: dict[tuple[str, str], Row] = {}
    for _, line in json_lines(data):
        saved = line.keys() & JUDGED.keys()
        if not isinstance(line.get("completion"), str) or any(line[name] != JUDGED[name] for name in saved):
            continue  # a heading, or what the playground does not show
        question, answer = (as_text(line.get(name)) or "" for name in ("question", "answer"))
        columns = {} if saved else {k: v for k, v in line.items() if k not in OWN_COLUMNS and isinstance(v, str)}
        group = {"question": question, "answer": answer, "columns": columns, "completions": []}
        completions = found.setdefault((question, answer), group)["completions"]
        if len(completions) < MOST_COMPLETIONS:
            completions.append(line["completion"][:LONGEST])
    if not found:
        raise DataError(
            f"{data} has no line with a text in 'completion'. A file of fedgrpo evaluate has some if it sampled: "
            "--samples 8."
        )
    return list(found.values())
