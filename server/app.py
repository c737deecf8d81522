"""What `flwr run` loads. A stub on purpose: every party runs the code it installed, not code it was sent."""

from fedgrpo.server.main import app as app
