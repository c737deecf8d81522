"""An organisation's side: fedgrpo's, as it is installed there, with the organisation's own policy."""

from fedgrpo.client.main import app

__all__ = ["app"]
