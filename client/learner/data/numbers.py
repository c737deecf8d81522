r"""Reading numbers: one that a text is, and those that a text mentions.

The rule (docs/rewards.md lists it): an answer is a number if nothing but mark-up, a sign for money, percent or degrees,
and a final full stop surround its digits. Words do, and so do a second number or a bracket, make it a text.

Digits may be in groups: of three after a comma, `{,}`, `\,`, an apostrophe, an underscore or a space (`1,000`,
`1 000`), or Indian ones (`1,00,000`). Other runs of digits and such marks (`1,00`, `1.2.3`, `1e3`) are not numbers, nor
are parts of them. In running text a plain space also separates numbers, so there it joins only a group that begins with
0, as no number does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

MAX_DIGITS = 60
"""Longer numbers are treated as text: no problem has such an answer, and a model can write a million digits."""
MAX_TEXT = 200
"""Characters of a number with all that may surround it."""
MINUS = "-\u2212\u2013"
SIGN = rf"[+\{MINUS}]"
MONEY = r"\\?[$\u00a2-\u00a5\u0e3f\u20a0-\u20c0\uff04\uffe0\uffe1\uffe5\uffe6]"
UNIT = rf"(?:{MONEY}|\\?%|\uff05|\u00b0)"
JOIN = r"(?:,\\!|\{,\}|\\,|[,'\u2019_\u00a0\u2009\u202f])"
"""What stands between groups of digits, but for a plain space, which also stands between two numbers."""

GOES_ON = rf"(?:\.|{JOIN})?\d|[eE][+-]?\d"
RUN = rf"\d+(?:(?:\.|{JOIN})\d+)*(?:[eE][+-]?\d+)?"


def _digits(space: str) -> str:
    """Return a pattern for the digits of a number, given what a plain space between its groups looks like."""
    grouped = rf"[1-9]\d{{0,2}}(?P<join>{JOIN}|{space})\d{{3}}(?:(?P=join)\d{{3}})*|[1-9]\d?(?:,\d\d)+,\d{{3}}"
    return rf"(?:(?:{grouped}|\d+)(?!\d)(?:\.\d+)?|(?<![\w.])\.\d+)"


MENTIONED = re.compile(
    # A hyphen after a digit, a letter or a closing bracket is no sign (`10-20`, `x-5`), and no number begins with 00.
    rf"(?P<number>(?:(?<![\w)\]}}%]){SIGN}{MONEY}?|(?<!\d){MONEY}{SIGN}?)?(?!00){_digits(' (?=0)')}(?!{GOES_ON}))|{RUN}"
)
WHOLE = re.compile(
    rf"(?:(?P<sign>{SIGN})?(?P<money>{MONEY}\s?)?|(?P<money_first>{MONEY})(?P<sign_second>{SIGN}))"
    rf"(?P<digits>{_digits(' ')})(?P<unit>\s?{UNIT})?"
)
COMMANDS = "boxed|fbox|mbox|text|textbf|textit|textrm|mathbf|mathit|mathrm|mathsf|boldsymbol|bm"
MARKUP = re.compile(
    r"\*\*(?P<bold>.+)\*\*|\*(?P<italic>.+)\*|__(?P<bold_>.+)__|_(?P<italic_>.+)_|`(?P<code>.+)`"
    r"|\$\$(?P<display>.+)\$\$|\$(?P<math>.+)\$|\\\((?P<inline>.+)\\\)|\\\[(?P<block>.+)\\\]"
    rf"|\\(?:{COMMANDS})\s*\{{(?P<command>.+)\}}|\{{(?P<group>.+)\}}",
    re.DOTALL,
)


def as_number(text: str) -> Decimal | None:
    r"""Return a text as a number; None if it is not one by the rule above.

    >>> as_number("-1,000.50"), as_number(r"**$\$7$**."), as_number("7 apples")
    (Decimal('-1000.50'), Decimal('7'), None)
    """
    if len(text) > MAX_TEXT:
        text = text.strip()
    match = WHOLE.fullmatch(_bare(text)) if len(text) <= MAX_TEXT else None
    if match is None or (match["unit"] and (match["money"] or match["money_first"])):
        return None
    digits = re.sub(rf"{JOIN}| ", "", match["digits"])
    if len(digits) > MAX_DIGITS:
        return None
    negative = (match["sign"] or match["sign_second"] or "+") in MINUS
    return -Decimal(digits) if negative else Decimal(digits)


def mentioned(text: str) -> Iterator[re.Match[str]]:
    """Yield each number that a text mentions, with its sign and its sign for money.

    >>> [number[0] for number in mentioned("5 apples at $3, or 10-20 for -$1,000, in 1.2.3")]
    ['5', '$3', '10', '20', '-$1,000']
    """
    return (match for match in MENTIONED.finditer(text) if match["number"])


def last_numbers(text: str, count: int) -> list[str]:
    """Return the last numbers that a text mentions, of which only the end is read: at most `count`."""
    length = (count + 1) * (MAX_DIGITS + 4)
    end = text[-length:]
    cut = MAX_DIGITS if len(text) > length else 0  # what stands at the cut may be the end of a longer number
    return [match[0] for match in mentioned(end) if match.start() >= cut][-count:]


def _bare(text: str) -> str:
    """Return a text without the mark-up around all of it, and without one final full stop in each layer."""
    while True:
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        match = MARKUP.fullmatch(text)
        if match is None or match.lastgroup is None:
            return text
        text = match[match.lastgroup]
