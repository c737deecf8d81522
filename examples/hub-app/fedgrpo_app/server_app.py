"""The server: fedgrpo's, as it is installed."""

from fedgrpo.server.main import app

__all__ = ["app"]
