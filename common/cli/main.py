"""The `fedgrpo` command. Subcommands come in through the entry points `fedgrpo.commands`, one per installed part."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import FedGRPOError
from .extras import missing_extra
from .help import with_whole_help
from .installed import add_installed
from .signals import orderly_end

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else it prints each try before our message says what to do
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it asks for kernels whenever PEFT is imported


def main() -> None:
    """Run the command line; a `FedGRPOError` is one message on stderr and status 1, SIGTERM an orderly end and 143."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets question marks, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with orderly_end():
            _application()(prog_name="fedgrpo")  # also where `python -m fedgrpo` started it
    except FedGRPOError as error:
        print(f"fedgrpo: {error}", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_status", 1)) from error
    except ModuleNotFoundError as error:
        advice = missing_extra(error.name, sys.argv[1:])
        if advice is None:
            raise
        print(f"fedgrpo: {advice}", file=sys.stderr)
        raise SystemExit(1) from error
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        print(f"fedgrpo: {error.filename}: {error.strerror}.", file=sys.stderr)
        raise SystemExit(1) from error


def _application() -> Any:
    """Return the click command with all subcommands that are installed."""
    cli = typer.Typer(
        name="fedgrpo",
        help="Federated GRPO: organisations train one reasoning model together, and no prompt leaves any of them.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    cli.callback()(_root)
    add_installed(cli, "fedgrpo.commands")
    return with_whole_help(cli)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


VersionOption = typer.Option(  # pyright: ignore[reportUnknownMemberType]
    "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
)


def _root(version: Annotated[bool, VersionOption] = False) -> None:
    """Handle the options of `fedgrpo` itself."""


if __name__ == "__main__":
    main()
