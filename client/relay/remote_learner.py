"""The learner behind its socket, as the relay sees it: a `Learner` that waits, reconnects, and lets go in time."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import httpx

from ...common.errors import LearnerGoneError, PeerFailedError
from ...common.foreign import safe_logger
from ...common.messages import frames
from ...common.messages.frames import Frame
from ...common.messages.messages import (
    Capabilities,
    EvaluateTask,
    Evaluation,
    SecaggReply,
    SecaggRequest,
    SumPart,
    TrainTask,
    Update,
)
from ...common.settings.run_config import RunConfig

LOGGER = safe_logger("fedgrpo.client")
WAIT_S = 10.0
"""One look at a job waits at most this long; each look also tells the learner that somebody is waiting."""
ABSENT_S = 180.0
"""How long a learner that does not answer is waited for: it may be starting again, and loading its model."""
PAUSE_S = 0.2


class RemoteLearner:
    """A `Learner` on the other side of a Unix socket."""

    def __init__(
        self, socket: Path, config: RunConfig, deadline: float, policy_sha256: str = "", app_sha256: str = ""
    ) -> None:
        """Connect to the learner's socket when it is first needed.

        Args:
            deadline: seconds since the epoch: when nobody wants the answer any more.
            policy_sha256: the policy the egress record will name; a learner that applies another one refuses.
            app_sha256: the app bundle that the run came with; what a sum's members sign names it.
        """
        self._socket, self._config, self._deadline = socket, config, deadline
        self._policy_sha256, self._app_sha256 = policy_sha256, app_sha256
        self._told = ""
        transport = httpx.HTTPTransport(uds=str(socket))
        self._http = httpx.Client(transport=transport, base_url="http://learner", timeout=WAIT_S + 20)

    def capabilities(self) -> Capabilities:
        """Return what the learner reports about the organisation."""
        return frames.message_of(Capabilities, self._done("capabilities", Frame({})))

    def train(self, task: TrainTask) -> Update:
        """Have the learner run one round of local GRPO."""
        return frames.update_of(self._done("train", frames.frame_of(task)))

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems."""
        return frames.message_of(Evaluation, self._done("evaluate", frames.frame_of(task)))

    def sign_log(self, lines: str) -> tuple[int, str]:
        """Have the learner check and sign the round log; the index is -1 where it does not take part in the audit.

        A time goes with the lines, so that no earlier answer is taken for this one's.
        """
        signed = self._done("audit", Frame({"lines": lines, "at": time.time()}))
        return signed.get("index", int), signed.get("signature", str)

    def part(self, task: TrainTask | EvaluateTask) -> SumPart:
        """Have the learner do a task whose result is part of a sum."""
        kind = "train" if isinstance(task, TrainTask) else "evaluate"
        return frames.words_message_of(SumPart, self._done(kind, frames.frame_of(task)))

    def step(self, request: SecaggRequest) -> SecaggReply:
        """Have the learner take the next step of a sum."""
        return frames.words_message_of(SecaggReply, self._done("secagg", frames.frame_of(request)))

    def _done(self, kind: str, task: Frame) -> Frame:
        """Have a job done, across restarts of the learner.

        Raises:
            LearnerGoneError: the learner is not there, or the time is over.
            PeerFailedError: the job failed; carries the learner's code.
        """
        about = {"kind": kind, "config": self._config.flat()}
        about |= {"policy": self._policy_sha256, "app": self._app_sha256}
        body = Frame({**about, **task.fields}, task.vector).pack()
        key, absent_since = "", 0.0
        while True:
            try:
                key = key or self._submitted(body)
                if not key:
                    time.sleep(PAUSE_S * 10)
                    self._check_time(key)
                    continue
                response = self._http.get(f"/v1/jobs/{key}", params={"wait": WAIT_S})
                absent_since = 0.0
                if response.status_code == httpx.codes.OK:
                    return Frame.unpack(response.content)
                if response.status_code == httpx.codes.NOT_FOUND:
                    key = ""  # the learner was started again and has forgotten; what is finished it has on its disk
                elif response.status_code == httpx.codes.ACCEPTED:
                    self._tell(kind, response.json())
                else:
                    raise _failure(response)
            except httpx.TransportError as error:
                absent_since = absent_since or time.monotonic()
                self._still_hoping(absent_since, error)
            self._check_time(key)

    def _submitted(self, body: bytes) -> str:
        """Submit a job and return its key; empty if the learner is too busy."""
        response = self._http.post("/v1/jobs", content=body)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return ""
        if response.status_code != httpx.codes.OK:
            raise _failure(response)
        return str(response.json()["job"])

    def _tell(self, kind: str, progress: dict[str, object]) -> None:
        line = f"{kind}: {progress['state']}, step {progress['step']} of {progress['steps']}"
        if line != self._told:
            LOGGER.info("%s", line)
            self._told = line

    def _still_hoping(self, since: float, error: httpx.TransportError) -> None:
        waited = time.monotonic() - since
        if waited > ABSENT_S:
            raise LearnerGoneError(
                f"No learner answers on {self._socket} ({type(error).__name__}). Start it: fedgrpo client up"
            ) from error
        if waited < PAUSE_S:
            LOGGER.warning("waiting for the learner at %s", self._socket)
        time.sleep(PAUSE_S)

    def _check_time(self, key: str) -> None:
        if time.time() < self._deadline:
            return
        if key:
            with contextlib.suppress(httpx.TransportError):
                self._http.delete(f"/v1/jobs/{key}")
        raise LearnerGoneError("The server's deadline has passed; the learner was told to stop.")


def _failure(response: httpx.Response) -> PeerFailedError:
    try:
        code = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        code = "internal"
    return PeerFailedError(code, f"the learner answers {response.status_code} {code}; its log says why")
