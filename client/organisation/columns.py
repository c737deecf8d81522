"""Names that a column of the data must not have, because the trainer or a reward's signature uses them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ...common.errors import ConfigError

_PASSED = "every reward gets an argument of that name from the trainer"
_PICTURE = "TRL reads it as a picture"
RESERVED = {
    "prompt": "it is the prompt",
    "completion": "TRL reads it as a completion",
    "answer": "rewards get the reference answer under it",
    "question": "it is the question",
    "self": "Python uses it for the reward itself",
    "image": _PICTURE,
    "images": _PICTURE,
    **dict.fromkeys(("prompts", "completions", "completion_ids", "truncated"), _PASSED),
    **dict.fromkeys(("trainer_state", "log_extra", "log_metric", "environment", "environments"), _PASSED),
}


def check_columns(where: str, names: Iterable[str], allowed: Collection[str] = ()) -> None:
    """Refuse a column whose name means something to the trainer or to a reward.

    Args:
        where: the place that names the columns, for the message: a setting, an option, a file's line.
        allowed: reserved names that mean the same there.

    Raises:
        ConfigError: names the first such column and what its name means.
    """
    taken = sorted((RESERVED.keys() - set(allowed)) & set(names))
    if taken:
        raise ConfigError(
            f"{where} names {taken[0]!r}, which has a meaning of its own already: {RESERVED[taken[0]]}. Rename the "
            "column in the data."
        )
