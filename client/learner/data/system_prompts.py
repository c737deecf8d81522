"""System prompts by name, or from a text file. No torch."""

from __future__ import annotations

from pathlib import Path

from ....common.errors import ConfigError

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


def system_prompt(text: str) -> str:
    """Return the system prompt of a name (none, xml, think, hash), or the content of a text file.

    Raises:
        ConfigError: it is neither a name nor a text file.
    """
    if text in SYSTEM_PROMPTS:
        return SYSTEM_PROMPTS[text]
    try:
        return Path(text).expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        known = ", ".join(SYSTEM_PROMPTS)
        raise ConfigError(f"The system prompt {text!r} is neither one of {known} nor a text file: {reason}.") from error
