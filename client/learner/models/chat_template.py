"""What a model's chat template does that training has to know: found by rendering it, mended where that is possible.

Four habits of published templates matter here. Each is found in what the template writes, not by the model's name:

- It refuses a system turn, or leaves it out (Gemma): `mend` puts the system prompt at the head of the user's turn.
- It writes today's date (Llama 3.2): `mend` pins the date, or prompts would change from one day to the next.
- It begins the answer itself, with `<think>` (DeepSeek-R1's distillations): `texts` puts that opening before each
  completion, so that rewards and the reading of answers see the whole answer.
- It ends a turn with another token than the model's end token (every base model): `adopt_turn_end` ends completions
  at both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ....common.errors import ConfigError

Chat = list[dict[str, str]]
SYSTEM, USER, ASSISTANT = "Fedgrposystemprobe", "Fedgrpouserprobe", "Fedgrpoanswerprobe"
OPENED = re.compile(r"<(think|thinking|reasoning|words|answer)>(?!.*</\1>).*\Z", re.DOTALL)
"""A block that is open where a prompt ends."""
TAGS = ("<think>", "</think>", "<reasoning>", "</reasoning>", "<answer>", "</answer>")
FOLD = (
    "{%- if messages | length > 1 and messages[0]['role'] == 'system' and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\n\n' + messages[1]['content']}]"
    " + messages[2:] -%}"
    "{%- endif -%}{{ '' }}"
)
"""Jinja before a template that takes no system turn."""
TODAY = datetime(2024, 7, 26, 12)
"""The date that dated templates write: the one that Llama 3 itself falls back on where it has no clock."""
DIRECTIVES = "aAbBcdHIjmMpSUwWxXyYZ"
"""Letters after % that strftime knows."""


def pinned(day: datetime) -> str:
    """Return Jinja that gives a template its date from here instead of from the clock."""
    filters = "".join(f" | replace('%{letter}', '{day.strftime('%' + letter)}')" for letter in DIRECTIVES)
    return "{%- macro strftime_now(format) -%}{{ format" + filters + " }}{%- endmacro -%}{{ '' }}"


def mend(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Make a template take a system turn, and render the same text on every day.

    The mended template belongs to this process; the model's files stay as they are.

    Raises:
        ConfigError: the template cannot render a question, or leaves out its text.
    """
    rendered, error = _tried(tokenizer, [_turn("user", USER)])
    if USER not in rendered:
        reason = error or "it leaves out the text of the user's turn"
        raise ConfigError(
            f"The chat template of the model in {folder} cannot render a question: {reason}. Use an instruct model, or "
            "repair chat_template.jinja in a copy of the folder."
        )
    days = [_tried(tokenizer, [_turn("user", USER)], pinned(day))[0] for day in (TODAY, datetime(2031, 1, 2, 3, 4, 5))]
    if days[0] != days[1]:
        _put_before(tokenizer, pinned(TODAY))
    if _refusal_of_system(tokenizer):
        _put_before(tokenizer, FOLD)


def as_published(template: str) -> str:
    """Return a template as the model's files have it."""
    return template.removeprefix(FOLD).removeprefix(pinned(TODAY))


def opening(tokenizer: PreTrainedTokenizerBase) -> str:
    r"""Return the beginning of each answer that the prompt holds already, such as `<think>\n`; mostly empty."""
    rendered, _ = _tried(tokenizer, [_turn("user", USER)], answers=True)
    opened = OPENED.search(rendered.rpartition(USER)[2])
    return opened[0] if opened else ""


def texts(tokenizer: PreTrainedTokenizerBase, completions: Sequence[Sequence[int]]) -> list[str]:
    """Return completions as text, each with the opening that its prompt holds."""
    start = opening(tokenizer)
    decoded = tokenizer.batch_decode([list(ids) for ids in completions], skip_special_tokens=True)
    return [start + text for text in decoded]


def with_opening(completions: Sequence[Any], start: str) -> list[Any]:
    """Return TRL's completions, texts or lists of messages, with the opening of each turn of the model."""
    if not start:
        return list(completions)
    return [
        start + completion
        if isinstance(completion, str)
        else [m | {"content": start + str(m["content"])} if m["role"] == "assistant" else m for m in completion]
        for completion in completions
    ]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that the template writes after an answer; None if what it writes is not one token."""
    rendered, _ = _tried(tokenizer, [_turn("user", USER), _turn("assistant", ASSISTANT)])
    ids: list[int] = list(tokenizer(rendered.rpartition(ASSISTANT)[2].lstrip(), add_special_tokens=False)["input_ids"])
    known = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return ids[0] if ids and ids[0] in known else None


def adopt_turn_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the token that the template writes after an answer one of those that end a completion."""
    own, config = turn_end(tokenizer), model.generation_config
    ends = _as_list(config.eos_token_id if config is not None else None)
    if config is not None and own is not None and own not in (*ends, tokenizer.eos_token_id):
        config.eos_token_id = [*ends, own]


def keep_ends(folder: Path, model: PreTrainedModel) -> None:
    """Write the tokens that end a model's completions to a folder's generation_config.json, where one is missing."""
    path, config = folder / "generation_config.json", model.generation_config
    ends = _as_list(config.eos_token_id if config is not None else None)
    written = _json(path)
    if set(ends) - set(_as_list(written.get("eos_token_id"))):
        path.write_text(json.dumps({**written, "eos_token_id": ends}, indent=2) + "\n", encoding="utf-8")


def notes(tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[str, ...]:
    """Return what a user should know of a mended template: one sentence or two for each habit."""
    template, start, end = str(tokenizer.get_chat_template()), opening(tokenizer), turn_end(tokenizer)
    ends = {*_folder_ends(folder), *_as_list(tokenizer.eos_token_id)}
    found: list[str] = []
    if FOLD in template:
        found.append(
            "The model's chat template takes no system turn: a system prompt goes to the head of the user's turn."
        )
    if pinned(TODAY) in template:
        found.append(
            f"The model's chat template writes today's date. Here it is always {TODAY:%d %b %Y}, so that prompts stay "
            "the same from day to day."
        )
    if start:
        found.append(
            f"The model's chat template begins each answer itself, with {start!r}: rewards and the reading of answers "
            "get completions with that before them. The prompt need not ask for it."
        )
    if end is None:
        found.append(
            "The model's chat template writes no end token after an answer, so only a model that learnt one otherwise "
            "ends its completions. `sft` refuses it."
        )
    elif end not in ends:
        found.append(
            f"The model's chat template ends a turn with {_word(tokenizer, end)}, which is not the model's end token "
            f"({', '.join(_word(tokenizer, each) for each in sorted(ends)) or 'it has none'}): completions end at "
            "either. A base model has not learnt to write it; teach it with `fedgrpo sft`."
        )
    lost = lost_tags(tokenizer)
    if lost:
        found.append(
            f"The model's tokenizer takes {', '.join(lost)} for control tokens, which are left out of texts: a reward "
            "for them never pays. Ask for other tags."
        )
    return tuple(found)


def lost_tags(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tags of answers that the tokenizer leaves out when it decodes a completion."""
    ids = {tag: tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS}
    return [tag for tag, each in ids.items() if tag not in str(tokenizer.decode(each, skip_special_tokens=True))]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _tried(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, before: str = "", *, answers: bool = False
) -> tuple[str, str]:
    """Return (a chat as the template renders it, the error if it refuses); code of the template can raise anything.

    Args:
        before: Jinja to put before the template.
        answers: render the beginning of the model's turn too.
    """
    try:
        template = before + str(tokenizer.get_chat_template()) if before else None
        kwargs: dict[str, Any] = {"chat_template": template, "add_generation_prompt": answers, "tokenize": False}
        return str(tokenizer.apply_chat_template(chat, **kwargs)), ""
    except Exception as error:
        return "", f"{type(error).__name__}: {error}"


def _refusal_of_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    rendered, _ = _tried(tokenizer, [_turn("system", SYSTEM), _turn("user", USER)])
    return SYSTEM not in rendered


def _put_before(tokenizer: PreTrainedTokenizerBase, jinja: str) -> None:
    template: Any = tokenizer.chat_template
    tokenizer.chat_template = (
        {name: jinja + text for name, text in template.items()} if isinstance(template, dict) else jinja + template
    )


def _word(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def _folder_ends(folder: Path) -> list[int]:
    """Return the end tokens that a model folder names: generation_config.json's, else config.json's."""
    own = _json(folder / "generation_config.json").get("eos_token_id")
    return _as_list(_json(folder / "config.json").get("eos_token_id") if own is None else own)


def _as_list(ends: Any) -> list[int]:
    return [] if ends is None else [int(end) for end in (ends if isinstance(ends, list) else [ends])]


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
