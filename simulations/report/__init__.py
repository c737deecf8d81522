"""Showing a run: live view, summary, HTML report, partition plot. Reading the run belongs to `server.run`."""
