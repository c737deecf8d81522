"""The lines of a journal as sentences."""

from __future__ import annotations

from ...server.run.journal import Committed, Created, Finished, JournalLine, Planned, Resumed, Void, Warned, Withheld


def sentence(line: JournalLine) -> str:
    """Return what happened, in words."""
    match line:
        case Created():
            return "the run began"
        case Resumed(round=number):
            return f"resumed after round {number}"
        case Planned(round=number, attempt=attempt, cohort=cohort):
            again = f", attempt {attempt}" if attempt > 1 else ""
            return f"round {number}{again}: {len(cohort)} clients were asked to train"
        case Committed(round=number, adapter=adapter):
            return f"round {number} committed, adapter {adapter[:12]}"
        case Void(round=number, attempt=attempt, reason=reason):
            return f"round {number}, attempt {attempt} was void: {reason}"
        case Warned(round=number, text=text):
            return f"round {number}: {text}"
        case Withheld():
            return str(line)
        case Finished(round=number):
            return f"finished after round {number}"
        case _:
            raise TypeError(f"a journal line has no sentence: {type(line).__name__}")
