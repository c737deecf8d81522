"""Examples to begin with: a problem for each set of rewards, with completions as a policy may write them."""

from __future__ import annotations

import json
from typing import Any

XML = "<reasoning>\n{}\n</reasoning>\n<answer>\n{}\n</answer>"
APPLES = {"question": "A box holds 6 apples. How many apples are in 4 boxes?", "answer": "24"}
PERSON = {"type": "object", "required": ["name", "age"], "properties": {"age": {"type": "integer"}}}
ADD = {"function": "add", "tests": [{"args": [1, 2], "result": 3}, {"args": [-1, 1], "result": 0}]}
RIVERS = {"d1": "Paris lies on the Seine.", "d2": "Bonn lies on the Rhine."}
FOR_GSM8K: list[str] = [
    XML.format("6 * 4 = 24", "24"),
    XML.format("6 + 4 = 10", "10"),
    "<reasoning>6 * 4 = 24</reasoning><answer>24</answer> I hope that this helps!",
    "The answer is 24.",
]
FOR_THINK = [
    "<think>6 * 4 = 24</think>24",
    "<think>6 + 4</think>10",
    "<think></think>24",
    "<think>It is 24, or is it",
]
FOR_HASH = ["6 * 4 = 24\n#### 24", "6 + 4 = 10\n#### 10", "#### 24 #### 24", "#### 24 apples"]
PRESETS: dict[str, dict[str, Any]] = {
    "gsm8k": {**APPLES, "completions": FOR_GSM8K},
    "think": {**APPLES, "completions": FOR_THINK},
    "weighted": {**APPLES, "completions": FOR_GSM8K},
    "hash-correctness,number-present": {**APPLES, "completions": FOR_HASH},
    "extraction": {
        "question": "Ann, who is four, came in with a cough. Give her name and age as JSON.",
        "answer": '{"name": "Ann", "age": 4}',
        "columns": {"schema": json.dumps(PERSON)},
        "completions": [
            '{"name": "Ann", "age": 4}',
            '```json\n{"name": "ann", "age": "four"}\n```',
            '{"name": "Ann"}',
            "Ann is four.",
        ],
    },
    "multiple-choice": {
        "question": "Which river flows through Paris? (A) Rhine (B) Seine",
        "answer": "B",
        "completions": ["<answer>(B) Seine</answer>", "So the answer is **A**.", "A or B", "(B)"],
    },
    "citations": {
        "question": "Which river is Paris on?",
        "answer": "the Seine",
        "columns": {"documents": json.dumps(RIVERS)},
        "completions": [
            "<answer>the Seine [d1]</answer>",
            "<answer>the Seine [d1][d2]</answer>",
            "<answer>the Rhine [d2]</answer>",
            "the Seine",
        ],
    },
    "code-tests": {
        "question": "Write a Python function add(a, b) that returns the sum.",
        "answer": json.dumps(ADD),
        "completions": [
            "```python\ndef add(a, b):\n    return a + b\n```",
            "```python\ndef add(a, b):\n    return 3\n```",
            "```python\ndef add(a, b):\n    return a +\n```",
            "return a + b",
        ],
    },
    "gsm8k,guards": {**APPLES, "completions": [*FOR_GSM8K[:3], "24 " * 60]},
}
"""Rewards, as `--rewards` takes them -> question, answer, further columns, completions."""
