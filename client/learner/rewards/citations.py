"""Answers from documents that name their sources: how precise the answer is, and whether the sources bear it out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.answers import final_answer
from .columns import column, from_json

CITED = re.compile(r"\[([^\[\]\n]{1,64})\]")
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
EMPTY_WORDS = frozenset(("a", "an", "the", "of", "and", "is", "was", "are", "were"))


def answer_precision(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """How much of the answer given is in the reference: F0.5 over words, 1.0 for the same ones.

        1.25 P R / (0.25 P + R),  P = shared words / given words,  R = shared words / reference words

    Precision counts twice as much as recall (van Rijsbergen 1979); precision alone would pay one right word in full.
    Citations, case, punctuation and words such as `the` do not count.

    >>> answer_precision(["<answer>the Seine [d1]</answer>", "<answer>Seine or Rhine</answer>"], answer=["Seine"] * 2)
    [1.0, 0.3846153846153846]
    """
    return [_f_half(_words(_given(text)), _words(right)) for text, right in zip(completions, answer, strict=True)]


def citation_support(
    completions: Sequence[str],
    answer: Sequence[str],
    documents: Sequence[Any] | None = None,
    sources: Sequence[Any] | None = None,
    **_: object,
) -> list[float]:
    """The share of the documents cited, as `[id]`, that bear out the reference answer; 0 where none is cited.

    An id counts once. One that the row does not have counts as wrong, so citing everything pays little. A document
    bears the answer out if it is among the row's `sources` (a JSON list of ids), or, where the data have no such
    column, if it holds the words of the reference answer one after another. The column `documents` is JSON:
    `{id: text}` or a list of `{"id": ..., "text": ...}`.

    >>> documents = '{"d1": "Paris lies on the Seine.", "d2": "Bonn lies on the Rhine."}'
    >>> texts = ["<answer>Seine [d1]</answer>", "<answer>Seine [d1][d2]</answer>", "Seine [d9]", "Seine"]
    >>> citation_support(texts, ["the Seine"] * 4, documents=[documents] * 4)
    [1.0, 0.5, 0.0, 0.0]
    """
    texts = [_documents(each) for each in column("citation-support", "documents", documents)]
    named = [None] * len(texts) if sources is None else [_ids(each) for each in sources]
    rows = zip(completions, answer, texts, named, strict=True)
    return [_supported(text, _bearing(right, each, ids) & each.keys()) for text, right, each, ids in rows]


def _given(text: str) -> str:
    final = final_answer(text)
    return CITED.sub(" ", text if final is None else final)


def _words(text: str) -> list[str]:
    return [word for word in WORD.findall(text.casefold()) if word not in EMPTY_WORDS]


def _f_half(given: list[str], right: list[str]) -> float:
    shared = (Counter(given) & Counter(right)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(right)
    return 1.25 * precision * recall / (0.25 * precision + recall)


def _documents(value: Any) -> Mapping[str, str]:
    found = from_json("citation-support", "documents", value)
    try:
        pairs = found.items() if isinstance(found, dict) else [(each["id"], each["text"]) for each in found]
        return {str(name): str(text) for name, text in pairs}
    except (TypeError, KeyError) as error:
        raise ValueError('citation-support wants documents as {id: text} or [{"id": ..., "text": ...}]') from error


def _ids(value: Any) -> frozenset[str]:
    found = from_json("citation-support", "sources", value)
    if not isinstance(found, list):
        raise ValueError("citation-support wants a JSON list of ids in the column 'sources'")
    return frozenset(str(each) for each in found)


def _bearing(right: str, documents: Mapping[str, str], ids: frozenset[str] | None) -> frozenset[str]:
    """Ids of the documents that bear an answer out."""
    if ids is not None:
        return ids
    phrase = _phrase(right)
    return frozenset(name for name, text in documents.items() if phrase.strip() and phrase in _phrase(text))


def _phrase(text: str) -> str:
    return f" {' '.join(_words(text))} "


def _supported(text: str, bearing: frozenset[str]) -> float:
    cited = {name.strip() for group in CITED.findall(text) for name in group.split(",")}
    return len(cited & bearing) / len(cited) if cited else 0.0
