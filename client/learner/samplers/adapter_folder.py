"""The adapter currently loaded in the model, as a folder that vLLM reads while it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from ....common.adapter.adapter import Adapter
from ....common.adapter.peft_files import write_peft
from ....common.errors import SamplerError
from ..models.adapted_model import AdaptedModel

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class HotAdapter:
    """The folder of the current adapter, a new one whenever it changes: vLLM caches results by the folder's path."""

    def __init__(self, adapted: AdaptedModel, base_model: str, scratch: Path) -> None:
        self._adapted, self._base_model, self._root = adapted, base_model, scratch
        self._written: Adapter | None = None
        self._number = 0

    def folder(self) -> tuple[Path, bool]:
        """Return (the folder of the current adapter, whether vLLM has to load it).

        Raises:
            SamplerError: it cannot be written.
        """
        current = self._adapted.read()
        if self._written is not None and (current.vector == self._written.vector).all():
            return self._path, False
        last = self._path
        self._number += 1
        try:
            write_peft(current, self._path, self._base_model)
        except OSError as error:
            raise SamplerError(f"Cannot write the adapter for vLLM to {self._path}: {error.strerror}.") from error
        shutil.rmtree(last, ignore_errors=True)
        self._written = current
        return self._path, True

    def close(self) -> None:
        """Remove the files: they are as large as the adapter, and may be in memory."""
        self.forget()
        shutil.rmtree(self._root, ignore_errors=True)

    def forget(self) -> None:
        """Mark the last adapter as unknown to vLLM, so that it is loaded again next time."""
        self._written = None

    @property
    def _path(self) -> Path:
        return self._root / str(self._number)


def cache_salt(folder: Path) -> str:
    """Return vLLM's prefix-cache key for an adapter; no two adapters have the same."""
    return f"{folder.parent.name}-{folder.name}"


def vllm_rank(rank: int) -> int:
    """Return the smallest rank that vLLM supports and that holds `rank`.

    >>> vllm_rank(4), vllm_rank(17)
    (8, 32)
    """
    return next((room for room in VLLM_RANKS if room >= rank), rank)
