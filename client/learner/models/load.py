"""Loading a base model for a run: the one way in, which keeps the order that Unsloth demands.

Nothing heavy is imported until `load_model` is called, since Unsloth has to come before the libraries it patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....common.settings.backend import Backend
from .precision import usual_threads
from .unsloth_backend import import_unsloth

if TYPE_CHECKING:
    from .base_model import Base


def load_model(folder: Path, dtype: str, *, backend: Backend | None = None, device: str = "auto") -> Base:
    """Prepare the process and load a base model with its tokenizer.

    Args:
        dtype: of the weights; `auto` uses the file's.
        backend: loader and quantization; None uses the defaults.
        device: `auto` uses a GPU if there is one.

    Raises:
        ConfigError: the folder does not hold a model, the device does not exist, or a package of the backend is
            missing or was imported too late.
    """
    backend = backend or Backend()
    import_unsloth(backend)
    from .base_model import Base
    from .process import prepare_process

    return Base.load(folder, dtype, prepare_process(device, usual_threads(folder)), backend)
