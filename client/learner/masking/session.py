"""What an organisation keeps of one sum, on its disk: secrets, what it got from the others, and what it answered.

A step that is asked for again, by a server or a learner that was started again, gets the answer it had. What must not
happen twice is refused from here too: another roster, another set of survivors.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....common.errors import ProtocolError
from ....common.messages.messages import Words
from ....common.secagg.statements import Context, is_hash
from ....common.storage.atomic import PRIVATE, write_atomic

STATE, VECTOR = "state.json", "vector.bin"
KEPT_SESSIONS = 4


@dataclass(slots=True, kw_only=True)
class Session:
    """One sum, as this member sees it. Bytes are hexadecimal."""

    context: Context
    bundle: str
    """This member's, signed."""
    mask_key: str = field(repr=False)
    """Private X25519 key of the masks that it shares with each other member."""
    box_key: str = field(repr=False)
    """Private X25519 key of boxes."""
    seed: str = field(repr=False)
    """Of its own mask."""
    salt: str = ""
    """Of the commitment to its vector."""
    itemsize: int = 4
    bundles: dict[str, str] = field(default_factory=dict[str, str])
    """All members', signed; empty until they are known."""
    boxes: dict[str, str] = field(default_factory=dict[str, str])
    """For the others."""
    shares: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    """By member, this one included: its shares of the other's seed and of its mask key, one after the other."""
    masked: tuple[str, ...] = ()
    """Members whose masks are in this member's vector; empty until it is masked."""
    survivors: tuple[str, ...] = ()
    """What this member agreed to; empty until then."""


class Sessions:
    """The sums of one organisation, each in a folder that only its owner may enter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, session: Session, vector: Words) -> None:
        """Write a new sum; the vector first, so that a state without a vector does not exist."""
        folder = self._folder / session.context.sha256
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(folder / VECTOR, vector.tobytes(), PRIVATE)
        self.save(session)
        self._forget_old()

    def save(self, session: Session) -> None:
        """Write what has changed, before any of it leaves."""
        data = json.dumps(asdict(session)).encode()
        write_atomic(self._folder / session.context.sha256 / STATE, data, PRIVATE)

    def find(self, name: str) -> Session | None:
        """Return a sum by the hash of its context; None if it has not begun here, or is forgotten."""
        path = self._folder / name / STATE
        if not is_hash(name) or not path.is_file():
            return None
        values: dict[str, Any] = json.loads(path.read_bytes())
        context = values.pop("context")
        numbers = tuple(context.pop("numbers"))
        masked, survivors = tuple(values.pop("masked")), tuple(values.pop("survivors"))
        return Session(context=Context(**context, numbers=numbers), masked=masked, survivors=survivors, **values)

    def get(self, name: str) -> Session:
        """Return a sum that has begun.

        Raises:
            ProtocolError: it has not.
        """
        session = self.find(name)
        if session is None:
            raise ProtocolError("secagg.session", "this client has not begun a sum of this name, or has forgotten it")
        return session

    def vector(self, session: Session) -> Words:
        """Return a copy of the member's vector, which is not masked."""
        data = (self._folder / session.context.sha256 / VECTOR).read_bytes()
        return np.frombuffer(data, f"<u{session.itemsize}").copy()

    def _forget_old(self) -> None:
        """Remove the secrets of all but the last few sums, so that nobody can ever unmask them."""
        kept = sorted(self._folder.iterdir(), key=lambda path: os.stat(path).st_mtime_ns)
        for old in kept[:-KEPT_SESSIONS]:
            shutil.rmtree(old, ignore_errors=True)
