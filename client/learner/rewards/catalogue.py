"""Reward functions by name, built in and of plug-ins, and named sets of them with weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from ....common.plugins import Table
from .choice import multiple_choice
from .citations import answer_precision, citation_support
from .expressions import math_verify
from .extraction import json_fields, json_schema, valid_json
from .gsm8k import (
    correctness,
    hash_correctness,
    integer,
    number_present,
    soft_format,
    strict_format,
    tag_count,
    think_format,
    xml_count,
)
from .guards import length_penalty, repetition_penalty, trailing_text, truncation_penalty
from .program import code_tests, code_tests_unsafe

RewardFunction = Callable[..., Sequence[float | None]]
REWARDS: dict[str, RewardFunction] = {
    "correctness": correctness,
    "hash-correctness": hash_correctness,
    "number-present": number_present,
    "integer": integer,
    "strict-format": strict_format,
    "soft-format": soft_format,
    "xml-count": xml_count,
    "tag-count": tag_count,
    "think-format": think_format,
    "math-verify": math_verify,
    "valid-json": valid_json,
    "json-schema": json_schema,
    "json-fields": json_fields,
    "multiple-choice": multiple_choice,
    "answer-precision": answer_precision,
    "citation-support": citation_support,
    "code-tests": code_tests,
    "code-tests-unsafe": code_tests_unsafe,
}
"""Built-in rewards, each from 0 to 2."""
PENALTIES: dict[str, RewardFunction] = {
    "length-penalty": length_penalty,
    "trailing-text": trailing_text,
    "repetition-penalty": repetition_penalty,
    "truncation-penalty": truncation_penalty,
}
"""Built-in rewards, each from -1 to 0."""
BUILT_IN = {**REWARDS, **PENALTIES}
FIVE: dict[str, float] = dict.fromkeys(("correctness", "integer", "strict-format", "soft-format", "xml-count"), 1.0)
THINK = {"correctness": 1.0, "think-format": 1.0, "integer": 0.5}
SETS: dict[str, dict[str, float]] = {
    "gsm8k": FIVE,
    "think": THINK,
    "weighted": {"correctness": 0.25, "soft-format": 0.4, "xml-count": 0.6},
    "qwen0.5b-five-rewards": FIVE,
    "qwen0.5b-think": THINK,
    "qwen0.5b-verl": {"hash-correctness": 1.0},
    "qwen3b-unsloth": {"correctness": 1.0, "soft-format": 1.0},
    "qwen14b-weighted": {"correctness": 0.25, "soft-format": 0.4, "tag-count": 0.6, "trailing-text": 1.0},
    "guards": {"repetition-penalty": 0.5, "truncation-penalty": 0.5, "length-penalty": 0.1},
    "extraction": {"json-fields": 1.0, "json-schema": 0.5, "valid-json": 0.25},
    "citations": {"answer-precision": 1.0, "citation-support": 0.5},
}
"""Weights, which multiply what the functions return. `think` yields up to 2.0 / 0.5 / 0.25; `weighted` 50 %
correctness, 20 % format, 30 % structure; `qwen14b-weighted` the same and 0.001 less per character after the answer;
`guards` is meant to be combined with another set."""


def _complaint(entry: object) -> str:
    """A plug-in's reward is a function in a file: its text is part of what a result depends on."""
    is_function = inspect.isfunction(entry) and inspect.getsourcefile(entry) is not None
    return "" if is_function else "is not a Python function in TRL's signature"


FUNCTIONS: Table[RewardFunction] = Table("fedgrpo.rewards", BUILT_IN, _complaint, reserved=tuple(SETS))
"""Reward functions by name: the built-in ones, which are given texts, and those of plug-ins, which are given
conversations as an organisation's own functions are."""
