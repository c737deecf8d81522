"""What a SuperNode loads. A stub on purpose: the code that runs is the one this organisation installed."""

from fedgrpo.client.main import app  # pyright: ignore

__all__ = ["app"]  # Flower looks for the name here, without importing
