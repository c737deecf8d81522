"""The group `fedgrpo audit`. Each of its commands is an entry point of `fedgrpo.audit`, wherever it lives."""

from __future__ import annotations

import typer

from .installed import add_installed

audit = typer.Typer(
    help="Check what a federation did, and what its adapter gives away.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
add_installed(audit, "fedgrpo.audit")
