"""A conversation with a model before and after training: both get the same questions and keep their own history."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...client.learner.data.judge import judge
from ...client.learner.data.system_prompts import system_prompt
from ...client.learner.samplers import Sampling
from ...common.errors import ConfigError
from .answer import ADAPTER, BASE

if TYPE_CHECKING:
    from ...client.learner.training.local_learner import LoadedModel

HELP = """/greedy            answer greedily
/temperature T     sample at temperature T
/tokens N          at most N tokens an answer
/system PROMPT     none, xml, think, or a text file; begins the talk anew
/new               begin the talk anew
/quit              end (so does Ctrl-D)"""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The reply of one side."""

    model: str
    """`base` or `adapter`."""
    text: str
    _: KW_ONLY
    strict_answer: str | None
    """The answer in the place that the format asks for."""
    last_number: str | None
    style: str
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How the next reply is drawn."""

    temperature: float
    max_tokens: int
    system: str
    """Text of the system prompt."""


@dataclass(slots=True)
class Chat:
    """A conversation with one or two sides."""

    model: LoadedModel
    how: How
    seed: int
    sides: tuple[str, ...] = (BASE, ADAPTER)
    turns: int = 0
    _history: dict[str, list[dict[str, str]]] = field(default_factory=dict[str, list[dict[str, str]]])

    def ask(self, question: str) -> list[ChatReply]:
        """Send a question to each side, and return the replies. Both draw the same random numbers."""
        self.turns += 1
        return [self._answer(side, question) for side in self.sides]

    def command(self, line: str) -> str:
        """Execute a /command, and return a description of its effect.

        Raises:
            ConfigError: the command does not exist, or its value is wrong; nothing has changed.
        """
        name, _, value = line.strip().partition(" ")
        match name:
            case "/greedy":
                self.how = replace(self.how, temperature=0.0)
                return "greedy"
            case "/temperature":
                self.how = replace(self.how, temperature=_number(line, value, 10.0))
                return f"temperature {self.how.temperature:g}"
            case "/tokens":
                self.how = replace(self.how, max_tokens=max(1, int(_number(line, value, 1e5))))
                return f"at most {self.how.max_tokens} tokens"
            case "/system":
                self.how = replace(self.how, system=system_prompt(value.strip()))
                self._history.clear()
                return f"a new talk, {'with' if self.how.system else 'without'} a system prompt"
            case "/new":
                self._history.clear()
                return "a new talk"
            case "/help":
                return HELP
            case _:
                raise ConfigError(f"There is no command {name}. /help lists them.")

    def _answer(self, side: str, question: str) -> ChatReply:
        from ...client.learner.models.chat_template import texts

        tokenizer, message = self.model.tokenizer, {"role": "user", "content": question}
        messages = [*self._history.get(side, []), message]
        system = [{"role": "system", "content": self.how.system}] if self.how.system else []
        prompt = str(tokenizer.apply_chat_template([*system, *messages], add_generation_prompt=True, tokenize=False))
        ids = tokenizer([prompt], add_special_tokens=False)["input_ids"]
        how = Sampling(max_tokens=self.how.max_tokens, temperature=self.how.temperature, seed=self.seed + self.turns)
        completion = self.model.trainer.sampler.sample(ids, how, base=side == BASE)[0][0]
        (text,) = texts(tokenizer, [completion.tokens])
        self._history[side] = [*messages, {"role": "assistant", "content": text}]
        judgement = judge(text, None)
        return ChatReply(
            model=side,
            text=text,
            strict_answer=judgement.strict_answer,
            last_number=judgement.last_number,
            style=judgement.style,
            tokens=len(completion.tokens),
            truncated=not completion.ended,
        )


def as_json(chat: Chat, question: str, replies: list[ChatReply]) -> dict[str, Any]:
    """Return a turn as a JSON object."""
    how = {"temperature": chat.how.temperature, "max_tokens": chat.how.max_tokens, "system_prompt": chat.how.system}
    return {"turn": chat.turns, "question": question, **how, "replies": {r.model: asdict(r) for r in replies}}


def _number(line: str, text: str, highest: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= highest:
        raise ConfigError(f"{line.strip()!r} needs a number from 0 to {highest:g}, as in {line.split()[0]} 1.")
    return value
