"""The talk on a terminal, through a pipe, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...common.cli.options import Format, plain_lines
from ...common.cli.tables import WholeTable
from ...common.errors import ConfigError
from .answer import BASE
from .chat import Chat, ChatReply, as_json

TITLES = {BASE: "base model", "adapter": "adapter"}


def talk(chat: Chat, ask: str | None, output: Format) -> None:
    """Answer one question, or those that are typed or piped in, until they end or say /quit.

    On a terminal a wrong command is explained; in a pipe it ends the talk.

    Raises:
        ConfigError: a command in a pipe is wrong.
    """
    console, by_hand = Console(stderr=True), ask is None and sys.stdin.isatty()
    for line in [ask] if ask is not None else _lines(by_hand):
        if not line.strip():
            continue
        if line.strip() == "/quit":
            return
        if line.startswith("/") and ask is None:
            try:
                console.print(chat.command(line), style="dim", markup=False, highlight=False)
            except ConfigError as error:
                if not by_hand:
                    raise
                console.print(str(error), style="yellow", markup=False, highlight=False)
            continue
        with console.status("answering"):
            replies = chat.ask(line)
        if output is Format.json:
            print(json.dumps(as_json(chat, line, replies)), flush=True)
        else:
            if ask is None and not by_hand:  # else nobody sees which question an answer is to
                Console().print(Text(f"▸ {line}"))
            Console().print(WholeTable(side_by_side(replies)))


def side_by_side(replies: list[ChatReply]) -> Table:
    """The answers beside each other, each with what is read out of it."""
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in replies:
        grid.add_column(ratio=1)
    grid.add_row(
        *(Panel(plain_lines(r.text.strip() or "(nothing)"), title=TITLES[r.model], title_align="left") for r in replies)
    )
    grid.add_row(*(plain_lines(read(reply)) for reply in replies))
    return grid


def read(reply: ChatReply) -> str:
    """Return one line on how an answer was read.

    >>> about = {"style": "untagged", "tokens": 9, "truncated": True}
    >>> read(ChatReply("base", "7 or", strict_answer=None, last_number="7", **about))
    'answer: none where the format wants it, last number 7 · untagged · 9 tokens, cut off'
    """
    strict = reply.strict_answer
    answer = (
        strict if strict is not None else f"none where the format wants it, last number {reply.last_number or 'none'}"
    )
    return f"answer: {answer} · {reply.style} · {reply.tokens} tokens" + (", cut off" if reply.truncated else "")


def _lines(by_hand: bool) -> Iterator[str]:
    if not by_hand:
        yield from (line.rstrip("\n").removeprefix("\ufeff") for line in sys.stdin)  # a file's byte order mark
        return
    import readline  # noqa: F401  # arrow keys and history, where the system has it

    while True:
        try:
            print("you ▸ ", end="", file=sys.stderr, flush=True)
            yield input()
        except EOFError:
            print(file=sys.stderr)
            return
