r"""The user's turn, made from a template.

`{question}`, and `{COLUMN}` for the columns in data.labels, are filled in. All other braces are text and stay as they
are: `\boxed{}`, `{"answer": 5}`, `\frac{a}{b}`. The reference answer is never filled in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from ....common.errors import ConfigError

PLACE = re.compile(r"\{([^{}]*)\}")
NAME = re.compile(r"(?P<command>\\[A-Za-z]+(?:\{[^{}]*\})*)?\{(?P<name>[^\W\d][\w.-]*)\}")
ALIKE = 0.8


def filled(template: str, columns: Mapping[str, str]) -> str:
    r"""Return a template with its columns filled in.

    >>> filled(r"{question} Use \boxed{}.", {"question": "1+1?"})
    '1+1? Use \\boxed{}.'
    """
    return PLACE.sub(lambda match: columns.get(match[1], match[0]), template)


def check_template(template: str, known: Collection[str], answer: str, others: Collection[str]) -> None:
    """Refuse a template in which nothing is filled in, or that names a column which is not.

    Args:
        known: what is filled in: `question`, and the columns in data.labels.
        answer: the column of the reference answer.
        others: all columns of the data.

    Raises:
        ConfigError: names the place in the template, and what to do.
    """
    places = PLACE.findall(template)
    text = "prompt.template cannot be filled in"
    may = "It may name {question} and the columns in data.labels"
    # Braces after a LaTeX command hold its argument: \boxed{answer} is text.
    for name in (match["name"] for match in NAME.finditer(template) if not match["command"]):
        if name in known:
            continue
        if name == answer:
            raise ConfigError(f"{text}: {{{name}}} is the reference answer, which the model must not see. {may}.")
        if name.split(".")[0] in others:
            raise ConfigError(f"{text}: the column {name!r} is not in data.labels. Add it there.")
        near = difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)
        if near:
            raise ConfigError(f"{text}: there is no column {name!r}. Did you mean {near[0]!r}? {may}.")
    if not any(name in known for name in places):
        raise ConfigError(f"{text}: it names none, so that every prompt would be the same. {may}.")
