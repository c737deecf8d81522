"""`fedgrpo audit verify` and `record`: an organisation checks a run, and writes down what left it."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption

LogArgument = Annotated[Path, typer.Argument(help="The round log, audit.jsonl, or the run folder that holds it.")]
FileArgument = Annotated[Path, typer.Argument(help="The organisation's file.")]


def verify(log: LogArgument, file: FileArgument, output: FormatOption = Format.text) -> None:
    """Check a run's log: chain, signatures, this organisation's contributions, its policy; compute aggregates again.

    The organisation's own copy of the log is in its learner's folder, audit/RUN.jsonl; the operator's may have more.
    The exit status is 1 if something is wrong. What could not be checked is listed as not known.

    [bold]Examples[/bold]

      fedgrpo audit verify audit.jsonl clinic.toml
      fedgrpo audit verify runs/pilot clinic.toml           with updates that the run kept (output.keep-updates)
    """
    from ...client.organisation.settings import OrganisationFile
    from .evidence import gather
    from .verify import verify_log

    found = verify_log(gather(log, OrganisationFile.read(file)))
    if output is Format.json:
        checks = [asdict(check) for check in found.checks]
        run = found.evidence.run
        print(json.dumps({"log": str(log), "run": run, "sound": found.sound, "checks": checks}))
    else:
        from .show import show_checks

        show_checks(found)
    if not found.sound:
        raise typer.Exit(1)


def record(
    log: LogArgument,
    file: FileArgument,
    out: Annotated[Path | None, typer.Option(help="The page to write; the JSON is beside it.")] = None,
    output: FormatOption = Format.text,
) -> None:
    """Write the compliance record of a run: one page for a person who signs, and the same as JSON.

    What left, when, to whom, in which form; epsilon, members, hashes; and how each line can be checked. It prints to
    PDF from any browser.

    [bold]Examples[/bold]

      fedgrpo audit record audit.jsonl clinic.toml --out pilot.html
      fedgrpo audit record runs/pilot clinic.toml          from a run folder, as audit verify takes it
    """
    from ...client.organisation.settings import OrganisationFile
    from .compliance import write_record
    from .evidence import gather
    from .verify import verify_log

    organisation = OrganisationFile.read(file)
    found = verify_log(gather(log, organisation))
    made, path = write_record(found, out)
    if output is Format.json:
        print(json.dumps(made))
    else:
        wrong = [check.name for check in found.checks if check.status == "bad"]
        says = f" WRONG in it: {', '.join(wrong)}." if wrong else ""
        print(f"Made {path} and {path.with_suffix('.json')}.{says}")
    if not found.sound:
        raise typer.Exit(1)
