"""Code fences in a completion, in the usual spellings."""

from __future__ import annotations

import functools
import re


def last_fence(text: str, languages: str) -> str | None:
    r"""Return the content of the last closed code fence of one of some languages, or of none; None without a fence.

    Fences are of three or more backticks or tildes; the language may be in capitals, lines may end in CRLF.

    Args:
        languages: a pattern, as in `python|py`.

    >>> last_fence("```JSON\r\n[1]\r\n```", "json"), last_fence("~~~\n[2]\n~~~", "json"), last_fence("[3]", "json")
    ('[1]\r\n', '[2]\n', None)
    """
    fences = [match["content"] for match in _pattern(languages).finditer(text)]
    return fences[-1] if fences else None


@functools.cache
def _pattern(languages: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?<![`~])(?P<mark>`{{3,}}|~{{3,}})[ \t]*(?:{languages})?[ \t]*\r?\n(?P<content>.*?)(?P=mark)",
        re.DOTALL | re.IGNORECASE,
    )
