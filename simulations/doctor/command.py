"""The command `fedgrpo doctor`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption
from .finding import BROKEN, NOTE, OK, Finding

STYLES = {OK: "green", NOTE: "yellow", BROKEN: "bold red"}


def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask whether the Hub can be reached.")] = False,
    output: FormatOption = Format.text,
) -> None:
    """Check this environment and machine, and say how to fix what is wrong.

    Versions, GPU, engines, threads, ports, disk, open files, telemetry, sandbox for code, Hub, clock.

    [bold]ok[/bold] works; [bold]note[/bold] matters to some uses; [bold]broken[/bold] keeps what is installed
    here from working, and makes the exit status 1. Nothing heavy is imported, and nothing is changed.

    [bold]Examples[/bold]

      fedgrpo doctor
      fedgrpo doctor --offline --format json
    """
    findings = list(_findings(offline=offline))
    broken = [finding for finding in findings if finding.level == BROKEN]
    if output is Format.json:
        print(json.dumps({"healthy": not broken, "findings": [asdict(finding) for finding in findings]}))
    else:
        _print(findings)
    if broken:
        raise typer.Exit(1)


def _findings(*, offline: bool) -> Iterator[Finding]:
    """All checks, in the order in which they are shown."""
    from . import environment, machine, versions
    from .gpu import gpus

    packages = versions.installed((*versions.BOUNDS, *versions.ENGINES))
    yield machine.check_python()
    yield from versions.check_versions(packages)
    yield from machine.check_gpus(gpus(), packages)
    yield machine.check_threads()
    yield machine.check_bfloat16()
    yield from machine.check_ports()
    yield from machine.check_disk()
    yield machine.check_files()
    yield environment.check_telemetry(os.environ, packages)
    yield environment.check_sandbox()
    hub, theirs = environment.check_hub(os.environ, offline=offline)
    yield hub
    yield environment.check_clock(time.time(), theirs)


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ...common.cli.options import plain
    from ...common.cli.tables import WholeTable

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        said = plain(finding.said)
        if finding.to_do:
            said.append("\n→ ").append_text(plain(finding.to_do))
        table.add_row(plain(finding.name), f"[{STYLES[finding.level]}]{finding.level}", said)
    console = Console()
    console.print(WholeTable(table))
    counts = {level: sum(f.level == level for f in findings) for level in STYLES}
    console.print(f"\n{counts[BROKEN]} broken, {counts[NOTE]} to note, {counts[OK]} ok")
