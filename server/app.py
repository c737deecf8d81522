"""What `flwr run` loads. A stub on purpose: every party runs the code it installed, not code it was sent."""

from fedgrpo.server.main import app  # pyright: ignore

__all__ = ["app"]  # Flower looks for the name here, without importing
