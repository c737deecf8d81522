"""Files that survive a crash: atomic writes and append-only JSON Lines. What a run stores belongs to `server.run`."""
