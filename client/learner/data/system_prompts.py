"""Named system prompts. No torch."""

from __future__ import annotations

SYSTEM_PROMPTS = {
    "none": "",
    "xml": (
        "Respond in the following format:\n<reasoning>\nyour reasoning, step by step\n</reasoning>\n"
        "<answer>\nthe final number and nothing else\n</answer>"
    ),
    "think": (
        "First reason step by step inside <think> and </think>. "
        "Then give the final number, and nothing else, inside <answer> and </answer>."
    ),
    "hash": 'Let\'s think step by step and output the final answer after "####".',
}
