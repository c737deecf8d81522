"""A reward: a function in TRL's signature, like those of a reward file (docs/rewards.md)."""


def brief(completions, **columns):
    """1.0 for an empty completion, less for a longer one, 0.0 from 400 characters on.

    Args:
        completions: conversations; the last message is the model's.
        columns: `answer`, `truncated` and the data's further columns, one value per completion.
    """
    return [max(0.0, 1 - len(completion[-1]["content"]) / 400) for completion in completions]
