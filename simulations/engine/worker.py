"""Worker processes: each loads one model and answers the messages of its share of the clients."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Error, Message

from ...common.flower_private import identify_process
from .grid import CRASHED, LocalWorker, NodeConfig, SerializedMessage

GRACE_S = 2.0


class ProcessWorker:
    """A worker in a separate process. If it dies, the current message fails, and it is started again."""

    def __init__(
        self, node_configs: Mapping[int, NodeConfig], run_config: Mapping[str, object], threads: int = 1
    ) -> None:
        """Start the worker.

        Args:
            threads: of its arithmetic on a CPU, unless OMP_NUM_THREADS is set.
        """
        self._arguments = (dict(node_configs), dict(run_config), threads)
        self._closed = False
        self._start()

    def answer(self, serialized: SerializedMessage) -> SerializedMessage:
        """Let the worker answer a message; log records that it sends meanwhile are logged here."""
        item = self._exchange(serialized)
        while isinstance(item, dict):
            logging.getLogger(item["name"]).handle(logging.makeLogRecord(item))
            item = self._exchange(None)
        if item is not None:
            return item
        self._end()
        if not self._closed:
            self._start()
        return SerializedMessage.pack(
            Message(Error(CRASHED, "the worker process died"), reply_to=serialized.open()), ""
        )

    def close(self) -> None:
        """End the worker: an idle one by a message, a busy one by a signal."""
        self._closed = True
        self._end()

    def _exchange(self, serialized: SerializedMessage | None) -> Any:
        """Send a message, if there is one, and receive the next item: a message, a log record, or None if the worker
        died."""
        try:
            if serialized is not None:
                self._pipe.send(serialized)
            return self._pipe.recv()
        except (EOFError, OSError):
            return None

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(timeout=GRACE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(timeout=GRACE_S)
        if self._process.is_alive():
            self._process.kill()
        with contextlib.suppress(OSError):
            self._pipe.close()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # fork is unsafe beside threads and CUDA
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()


class _SendRecords(logging.Handler):
    """A log handler that sends records to the parent as plain dictionaries."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe
        self.client = ""
        """Whose message is being answered: several clients speak through this process."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)  # fills in exc_text
        plain = {k: v for k, v in record.__dict__.items() if isinstance(v, (str, int, float, type(None)))}
        text = record.getMessage()
        if record.levelno >= logging.WARNING and not text.startswith(self.client):
            text = f"{self.client}: {text}"
        self._pipe.send({**plain, "msg": text, "args": None, "exc_info": None})


def _work(
    pipe: Connection, node_configs: Mapping[int, NodeConfig], run_config: Mapping[str, object], threads: int
) -> None:
    """Run a worker: answer messages until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides who ends
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logger = logging.getLogger("fedgrpo")
    logger.setLevel(logging.INFO)
    sender = _SendRecords(pipe)
    logger.addHandler(sender)
    logger.propagate = False
    identify_process()
    from ...client.main import app
    from .simulated_clients import client_name

    worker = LocalWorker(app, node_configs, run_config)
    with contextlib.suppress(EOFError, OSError):
        while (serialized := pipe.recv()) is not None:
            sender.client = client_name(int(node_configs[serialized.node]["partition-id"]))
            pipe.send(worker.answer(serialized))
