"""The commands of an organisation's engineer: `fedgrpo client ...`, and `fedgrpo learner`."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli import keys
from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError
from ...common.identity.keys import SUFFIX, Identity
from ...common.settings.run_config import load_scenario
from ...common.storage.jsonl import read_lines
from ..organisation.settings import OrganisationFile

client = typer.Typer(
    help="Take part in a federation: write the organisation's file, check it, connect, list what was sent.",
    no_args_is_help=True,
)
FileArgument = Annotated[Path, typer.Argument(help="The organisation's file.")]
ScenarioOption = Annotated[
    Path | None, typer.Option("--scenario", help="The run's settings, as the operator submits them.")
]
TEMPLATE = Path(__file__).parent.parent / "organisation" / "organisation.toml.template"


class Privacy(StrEnum):
    """What the file's policy says of secure aggregation."""

    secagg = "secagg"
    none = "none"


SYSTEM = '''system = """
Respond in the following format:
<reasoning>
your reasoning, step by step
</reasoning>
<answer>
the final answer and nothing else
</answer>"""'''
SYSTEM_OF_BUILTIN = 'system = ""                       # none: the built-in policy was trained without one'


@client.command("init")
def init(
    file: FileArgument,
    name: Annotated[str | None, typer.Option(help="The organisation's name; default: the file's.")] = None,
    data: Annotated[str, typer.Option(help="Its data: .jsonl, .parquet, .csv or hub:NAME:SPLIT.")] = "problems.jsonl",
    model: Annotated[str, typer.Option(help="The base model: builtin, smollm2-135m, or a Hub name.")] = "builtin",
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the operator's gateway.")] = "",
    privacy: Annotated[
        Privacy, typer.Option(help="none: the server may see this organisation's delta.")
    ] = Privacy.secagg,
) -> None:
    """Write an organisation's file with comments, and its keys beside it: the node's, and its identity.

    [bold]Examples[/bold]

      fedgrpo client init clinic.toml --name clinic-a --data questions.csv --superlink fed.example.org:8000
      fedgrpo client init lab.toml --data hub:openai/gsm8k:train --model smollm2-135m --privacy none
    """
    from ..learner.models.model_files import built_in_model, file_hash, model_folder
    from ..learner.models.registry import fetched_folder, is_gguf
    from ..organisation.settings import NAME

    name = name or file.stem
    if not NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r} must be at most 64 English letters, digits, dots and hyphens.")
    here = Path(model).is_dir() or is_gguf(model)
    known = built_in_model(model) or fetched_folder(model) or (model_folder(model) if here else None)
    values = {"name": name, "train": data, "model": model, "superlink": superlink}
    system = SYSTEM_OF_BUILTIN if built_in_model(model) else SYSTEM
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    sha256 = file_hash(known) if known else ""
    ours = {"key": name, "sha256": sha256, "system": system, "privacy": privacy}
    text = TEMPLATE.read_text(encoding="utf-8").format(**values, **ours)
    keys.write_new(file, text.encode())
    try:
        OrganisationFile.read(file)
    except ConfigError:
        file.unlink()
        raise
    public = keys.make_node(file.parent / f"{name}.key")
    identity = Identity.generate().write(file.parent / f"{name}{SUFFIX}")
    print(
        f"Made {file}, the node's key and this organisation's identity key.\n"
        f"1. Edit {file}: data, prompt, rewards, policy.\n"
        f"2. Send {public} to the operator; put their ca.crt beside {file}.\n"
        f"   Fingerprint of your node's key: {keys.fingerprint(public)}\n"
        f"3. Send {identity} to who writes the manifest; put their manifest.toml beside {file}.\n"
        f"   Fingerprint of your identity key: {keys.fingerprint(identity)}\n"
        f"   Compare the manifest's with the other members, and pin it in [policy]: fedgrpo manifest fingerprint\n"
        f"4. Check it: fedgrpo client check {file}\n"
        f"5. Join: fedgrpo client up {file}"
    )


@client.command("check")
def check(
    file: FileArgument,
    scenario: ScenarioOption = None,
    samples: Annotated[int, typer.Option(help="Prompts for which a group of completions is sampled and scored.")] = 4,
    output: FormatOption = Format.text,
) -> None:
    """Try everything before joining: data, rewards on real completions, model, speed, policy, and what would leave.

    Nothing is sent. Prompts and completions are printed on this terminal only.

    [bold]Examples[/bold]

      fedgrpo client check clinic.toml
      fedgrpo client check clinic.toml --scenario run.toml      against the run the operator announced
    """
    from . import check as checks
    from .check_view import show

    organisation = OrganisationFile.read(file)
    found = checks.check(organisation, load_scenario(scenario) if scenario else None, samples)
    if output is Format.json:
        print(json.dumps(found.as_json()))
    else:
        show(found)
    if found.problems:
        raise typer.Exit(1)


@client.command("up")
def up(
    file: FileArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Record what would leave, and send error codes only.")
    ] = False,
) -> None:
    """Join the federation: start the learner, then the SuperNode; start again what dies. Ctrl-C ends them.

    [bold]Examples[/bold]

      fedgrpo client up clinic.toml
      fedgrpo client up clinic.toml --dry-run              record what would leave, and send error codes only
    """
    from .processes import run_client

    organisation = OrganisationFile.read(file)
    say(f"{organisation.name} joins {organisation.settings.flower.superlink}; logs in {organisation.folder / 'logs'}")
    run_client(organisation, say, dry_run=dry_run)


@client.command("supernode", context_settings={"ignore_unknown_options": True})
def supernode(
    options: Annotated[list[str], typer.Argument(help="Options of flower-supernode, which gets them as they are.")],
) -> None:
    """Run Flower's SuperNode alone, for a learner that runs elsewhere. Nothing in the server's app bundle is run.

    It takes the options of flower-supernode. What it starts for each message is fedgrpo's own executor, which compares
    the bundle with policy.app-sha256 and answers with the fedgrpo that is installed. `fedgrpo client up` starts both.

    [bold]Examples[/bold]

      fedgrpo client supernode --superlink fed.example.org:8000 --root-certificates ca.crt \\
          --auth-supernode-private-key clinic-a.key --node-config 'config-path="/srv/clinic/clinic.toml"'
      fedgrpo client supernode --superlink 127.0.0.1:8000 --root-certificates ca.crt --port 9095 \\
          --auth-supernode-private-key clinic-b.key --node-config 'config-path="/srv/b/clinic.toml"'
    """
    from ..relay.supernode import start

    start(options)


@client.command("status")
def status(
    file: FileArgument,
    lines: Annotated[int, typer.Option(help="Log lines to show.")] = 10,
    output: FormatOption = Format.text,
) -> None:
    """Show what the learner is doing, the end of its log, what it has answered, and when something last left.

    [bold]Examples[/bold]

      fedgrpo client status clinic.toml
      fedgrpo client status clinic.toml --format json
    """
    from ..learner.service.ledger import FILE, Ledger
    from .processes import learner_status
    from .status_view import print_budget, print_ledger, print_status, spent_epsilon

    organisation = OrganisationFile.read(file)
    left = read_lines(organisation.egress_record)
    log = organisation.folder / "logs" / "learner.log"
    tail = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    found = learner_status(organisation.socket)
    answered = Ledger(organisation.folder / FILE, organisation.policy).counts()
    epsilon = spent_epsilon(organisation)
    if output is Format.json:
        counts = {"trainings": answered["train"], "evaluations": answered["evaluate"]}
        about = {"learner": found, "log": tail, "messages_left": len(left), "last": left[-1:] or None}
        print(json.dumps({**about, "ledger": counts, "epsilon": epsilon}))
    else:
        print_status(organisation, found, tail, left)
        print_ledger(organisation.policy, answered)
        print_budget(organisation.policy, epsilon)


@client.command("egress")
def egress(
    file: FileArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train one round here and show what would leave.")] = False,
    scenario: ScenarioOption = None,
    last: Annotated[int, typer.Option(help="Messages to show.")] = 5,
    output: FormatOption = Format.text,
) -> None:
    """Show what left this organisation, field by field: number, name, type, bytes, SHA-256, norm, where to.

    [bold]Examples[/bold]

      fedgrpo client egress clinic.toml
      fedgrpo client egress clinic.toml --dry-run --scenario run.toml     before anything has left
    """
    from ..relay.egress import EgressGate
    from .status_view import LEGEND, RECORD_LEGEND, print_egress

    organisation = OrganisationFile.read(file)
    if dry_run:
        from . import dry_run as dry

        config = load_scenario(scenario) if scenario else dry.allowed_run(organisation)
        list(dry.dry_run(organisation, dry.rehearsing(organisation, config), config))
        last = 3
    record = EgressGate(organisation, dry_run).record
    entries = read_lines(record)
    if output is Format.json:
        found = {"record": str(record), "messages": entries[-last:], "total": len(entries)}
        print(json.dumps({**found, "legend": {**RECORD_LEGEND, **LEGEND}}))
    else:
        print_egress(record, entries, last)


def learner(file: FileArgument) -> None:
    """Run only the learner: model, data and rewards in a process of their own, behind a Unix socket.

    `fedgrpo client up` starts it. Run it yourself under another account, or from another environment: it needs torch,
    TRL and PEFT, and does not need flwr.

    [bold]Examples[/bold]

      fedgrpo learner clinic.toml
      fedgrpo learner /srv/clinic/clinic.toml
    """
    from ..learner.service.daemon import serve

    line = "%(asctime)s.%(msecs)03d %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=line, datefmt="%F %T")
    logging.getLogger("fedgrpo").setLevel(logging.INFO)
    serve(OrganisationFile.read(file))
