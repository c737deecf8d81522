"""Answers from documents with citations: how precise the answer is, and whether the cited documents support it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.answers import after_thought, final_answer
from .columns import column, from_json

CITED = re.compile(r"\[([^\[\]\n]{1,64})\]")
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
EMPTY_WORDS = frozenset(("a", "an", "the", "of", "and", "is", "was", "are", "were"))


def answer_precision(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """F0.5 of the answer's words against the reference's: 1.0 for the same words.

        1.25 P R / (0.25 P + R),  P = shared words / given words,  R = shared words / reference words

    Precision counts twice as much as recall (van Rijsbergen 1979); precision alone would give one correct word the
    full reward. Citations, case, punctuation and words such as `the` do not count.

    >>> answer_precision(["<answer>the Seine [d1]</answer>", "<answer>Seine or Rhine</answer>"], answer=["Seine"] * 2)
    [1.0, 0.3846153846153846]
    """
    return [
        _f_half(content_words(answer_text(text)), content_words(right))
        for text, right in zip(completions, answer, strict=True)
    ]


def citation_support(
    completions: Sequence[str],
    answer: Sequence[str],
    documents: Sequence[Any] | None = None,
    sources: Sequence[Any] | None = None,
    **_: object,
) -> list[float]:
    """The share of the documents cited, as `[id]`, that support the reference answer; 0 without a citation.

    An id counts once. An id that the row does not have counts as wrong, so citing everything earns little. A document
    supports the answer if it is among the row's `sources` (a JSON list of ids), or, if the data have no such column,
    if it holds the words of the reference answer one after another. The column `documents` is JSON:
    `{id: text}` or a list of `{"id": ..., "text": ...}`.

    >>> documents = '{"d1": "Paris lies on the Seine.", "d2": "Bonn lies on the Rhine."}'
    >>> texts = ["<answer>Seine [d1]</answer>", "<answer>Seine [d1][d2]</answer>", "Seine [d9]", "Seine"]
    >>> citation_support(texts, ["the Seine"] * 4, documents=[documents] * 4)
    [1.0, 0.5, 0.0, 0.0]
    """
    texts = [read_documents(each) for each in column("citation-support", "documents", documents)]
    named = [None] * len(texts) if sources is None else [read_ids(each) for each in sources]
    rows = zip(completions, answer, texts, named, strict=True)
    return [_supported(text, supporting(right, each, ids) & each.keys()) for text, right, each, ids in rows]


def answer_text(text: str) -> str:
    """Return the answer in a completion, without its citations."""
    final = final_answer(text)
    return CITED.sub(" ", after_thought(text) if final is None else final)


def content_words(text: str) -> list[str]:
    """Return the words of a text that count: without case, articles and the like."""
    return [word for word in WORD.findall(text.casefold()) if word not in EMPTY_WORDS]


def _f_half(answer: list[str], right: list[str]) -> float:
    shared = (Counter(answer) & Counter(right)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(right)
    return 1.25 * precision * recall / (0.25 * precision + recall)


def read_documents(value: Any) -> Mapping[str, str]:
    """Return the documents of a row by their ids."""
    documents = from_json("citation-support", "documents", value)
    try:
        is_mapping = isinstance(documents, dict)
        pairs = documents.items() if is_mapping else [(each["id"], each["text"]) for each in documents]
        return {str(name): str(text) for name, text in pairs}
    except (TypeError, KeyError) as error:
        raise ValueError('citation-support needs documents as {id: text} or [{"id": ..., "text": ...}]') from error


def read_ids(value: Any) -> frozenset[str]:
    """Return the ids in a row's column `sources`."""
    ids = from_json("citation-support", "sources", value)
    if not isinstance(ids, list):
        raise ValueError("citation-support needs a JSON list of ids in the column 'sources'")
    return frozenset(str(each) for each in ids)


def supporting(right: str, documents: Mapping[str, str], ids: frozenset[str] | None) -> frozenset[str]:
    """Return the ids of the documents that support an answer."""
    if ids is not None:
        return ids
    phrase = _phrase(right)
    return frozenset(name for name, text in documents.items() if phrase.strip() and phrase in _phrase(text))


def _phrase(text: str) -> str:
    return f" {' '.join(content_words(text))} "


def _supported(text: str, supporting: frozenset[str]) -> float:
    cited = {name.strip() for group in CITED.findall(after_thought(text)) for name in group.split(",")}
    return len(cited & supporting) / len(cited) if cited else 0.0
