"""A clinic's own rewards: the urgency that a completion gives, and whether it says why.

fedgrpo rewards score examples/rewards/triage.py --data examples/rewards/triage.jsonl
fedgrpo simulate --rewards "examples/rewards/triage.py,guards"
"""

import re

LEVELS = ("routine", "soon", "urgent")
SAID = re.compile(r"urgency:\s*(\w+)", re.IGNORECASE)


def urgency(completions, answer, **kwargs):
    """1.0 for the right level, 0.25 for one level too urgent, nothing for one that is not urgent enough."""
    return [_urgency(_level(_text(each)), right) for each, right in zip(completions, answer, strict=True)]


def names_a_finding(completions, findings, **kwargs):
    """0.5 where a finding of the note is named; None, which leaves it out, where the note has none."""
    rows = [[word.strip() for word in listed.split(";") if word.strip()] for listed in findings]
    pairs = zip(completions, rows, strict=True)
    return [0.5 * any(word in _text(each) for word in words) if words else None for each, words in pairs]


def _text(completion):
    return completion[-1]["content"].lower()


def _level(text):
    found = {level.lower() for level in SAID.findall(text)}
    return found.pop() if len(found) == 1 else None  # two levels are no decision


def _urgency(level, right):
    if level == right:
        return 1.0
    return 0.25 if level in LEVELS and LEVELS.index(level) == LEVELS.index(right) + 1 else 0.0
