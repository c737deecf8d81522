"""Texts that come from another party, before they are stored, logged or shown: the one rule for all of them.

What such a text may do is be read. It is cut to a length, and every character that does not print is escaped: a line
break would forge a line of a log, an escape sequence would give orders to a terminal, and a mark of direction would
show another text than the one that is there.
"""

from __future__ import annotations

import logging

LABEL_CHARACTERS = 80
"""A name among others: a class of held-out problems, a value that is quoted."""
LINE_CHARACTERS = 2000
"""A line of a log."""


def printable(text: str, limit: int = LINE_CHARACTERS) -> str:
    r"""Return a text on one line, of at most `limit` characters; what is printable already stays as it is.

    >>> printable("a\nb\x1b[2J"), printable("abcdef", 4)
    ('a\\nb\\x1b[2J', 'abc…')
    """
    if len(text) <= limit and text.isprintable():
        return text
    escaped = "".join(c if c.isprintable() else _escaped(c) for c in text[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def quoted(value: object) -> str:
    """Return a value for a message: as Python writes it, at most LABEL_CHARACTERS characters."""
    return repr(value)[:LABEL_CHARACTERS]


def safe_logger(name: str) -> logging.Logger:
    """Return a logger whose messages are printable, whoever listens: other parties' texts are in them."""
    logger = logging.getLogger(name)
    if not any(isinstance(each, _Printable) for each in logger.filters):
        logger.addFilter(_Printable())
    return logger


class _Printable(logging.Filter):
    """Makes a record's message one printable line, and its traceback lines that cannot be taken for messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            lines = logging.Formatter().formatException(record.exc_info).split("\n")
            record.exc_text = "\n".join(f"  | {printable(line)}" for line in lines)
        return True


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
