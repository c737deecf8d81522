"""The app bundle that a run was submitted with, as the ServerApp knows it."""

from __future__ import annotations

from flwr.serverapp import Grid

from ...common.settings.bundle import installed_sha256


def submitted_bundle(grid: Grid) -> str:
    """Return the SHA-256 of this run's bundle, which the SuperLink sends to every node.

    A simulation in one process has no bundle; its clients run the installed fedgrpo, and its hash is returned.
    """
    run = getattr(grid, "run", None)  # the in-process grid has no run record
    return (run.fab_hash if run else "") or installed_sha256()
