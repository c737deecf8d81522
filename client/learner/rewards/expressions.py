"""Mathematical answers, compared by `math-verify` in a separate process that may hang or die without harm."""

from __future__ import annotations

import atexit
import functools
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ..data.answers import after_thought, final_answer
from .columns import library

SCRIPT = Path(__file__).parent / "math_worker.py"
MAX_TEXT = 2000
"""Characters that are read, of a completion's end and of a reference."""
LIMIT_S = 3.0
"""Time for one pair; the worker ends itself then, and is killed a little later."""
START_S = 60.0
"""Time for the worker's imports, which are slow on a busy machine."""
GRACE_S = 1.0


def math_verify(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    r"""1.0 where the answer is mathematically the reference's: fractions, LaTeX, sets, intervals; by math-verify.

    Read from `<answer>` (or after `</think>`, `####`), else from the last 2,000 characters, `\boxed{}` first. A pair
    that takes over 3 s, or much memory, earns 0 and needs a new worker process. Needs the library `math-verify`.

    >>> math_verify([r"so \boxed{\frac{2}{4}}", "<answer>0.6</answer>"], answer=["1/2"] * 2)
    [1.0, 0.0]
    """
    library("math-verify", "math_verify")
    return [1.0 if _worker().equal(text, right) else 0.0 for text, right in zip(completions, answer, strict=True)]


class MathWorker:
    """A process that compares answers one at a time, and is replaced when it dies. Safe for any number of threads."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, text: str, right: str) -> bool:
        """Return whether a completion's answer equals the reference; False too if that takes too long."""
        request = json.dumps({"given": _answer_text(text), "right": right[:MAX_TEXT], "limit_s": self.limit_s}) + "\n"
        with self._lock:
            reply = self._ask(request.encode())
            if reply is None:
                self._end()
        return reply == b"true\n"

    def end(self) -> None:
        """End the process; the next comparison starts another."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> bytes | None:
        """Return the worker's reply to a request; None if it died or did not reply in time."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        return _line(process, self.limit_s + GRACE_S)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-B", str(SCRIPT)]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, env={}, cwd="/", bufsize=0)
        _line(self._process, START_S)  # the worker reports that it is ready; if it does not, the first request fails
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _answer_text(text: str) -> str:
    """Return the end of the answer; if it has its own place in the completion, all of it is mathematics."""
    final = final_answer(text)
    if final is None or "$" in final or "\\boxed" in final:
        return (final or after_thought(text))[-MAX_TEXT:]
    return f"${final[-MAX_TEXT:]}$"


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Return the next line a process writes; None if it ends or takes too long."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = process.stdout.read(64) if ready else b""
        if not chunk:
            return None
        line += chunk
    return line


@functools.cache
def _worker() -> MathWorker:
    worker = MathWorker()
    atexit.register(worker.end)
    return worker
