"""The commands about a federation's manifest: `fedgrpo manifest ...`. One party writes it, and all compare it."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..cli.options import Format, FormatOption
from ..errors import ConfigError
from ..storage.atomic import write_atomic
from ..storage.new_files import write_new
from . import public_key
from .keys import SUFFIX, Identity
from .manifest import Manifest
from .manifest_file import check_new, entry, heading, read_unfinished
from .members import FEWEST, Member

manifest = typer.Typer(
    help="The federation's manifest: its members and their identity keys. All members compare its fingerprint.",
    no_args_is_help=True,
)
FileArgument = Annotated[Path, typer.Argument(help="The manifest, such as manifest.toml.")]


@manifest.command("init")
def init(
    file: FileArgument,
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    server_key: Annotated[Path, typer.Option(help="The server's public identity key, server.identity.pub.")],
    min_members: Annotated[int, typer.Option(help="Fewest members whose updates may make a round.")] = FEWEST,
    base_model_sha256: Annotated[str, typer.Option(help="Of the base model; `client check` prints it.")] = "",
    output: FormatOption = Format.text,
) -> None:
    """Begin a manifest, without members.

    [bold]Examples[/bold]

      fedgrpo manifest init manifest.toml --federation thyroid --server-key federation/keys/server.identity.pub
      fedgrpo manifest init manifest.toml --federation thyroid --server-key server.identity.pub --min-members 4
    """
    if min_members < FEWEST:
        raise ConfigError(
            f"--min-members is {min_members}, but must be at least {FEWEST}: from the sum of two, each would learn the "
            "other's update."
        )
    key = public_key.read(server_key)
    text = heading(federation, key, min_members=min_members, base_model_sha256=base_model_sha256)
    write_new(file, text.encode())
    if output is Format.json:
        print(json.dumps({"file": str(file), "federation": federation, "members": []}))
    else:
        fewest = max(FEWEST, min_members)
        print(f"Made {file}. Add the members, at least {fewest}: fedgrpo manifest add {file} NAME.identity.pub")


@manifest.command("add")
def add(
    file: FileArgument,
    key: Annotated[Path, typer.Argument(help="The NAME.identity.pub that an organisation sent.")],
    name: Annotated[str | None, typer.Option(help="The organisation's name; default: the file's.")] = None,
    output: FormatOption = Format.text,
) -> None:
    """Add a member. The fingerprint changes, so every member has to pin it anew.

    [bold]Examples[/bold]

      fedgrpo manifest add manifest.toml clinic-a.identity.pub
      fedgrpo manifest add manifest.toml sent.pub --name clinic-b
    """
    name = name or key.name.removesuffix(".pub").removesuffix(SUFFIX)
    member = Member(name, public_key.read(key))
    fields = read_unfinished(file)
    try:
        check_new(fields, member)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    text = file.read_text(encoding="utf-8-sig").rstrip("\n")
    write_atomic(file, (text + "\n" + entry(member)).encode())
    members = [*(each.name for each in fields["members"]), name]
    if output is Format.json:
        print(json.dumps({"file": str(file), "added": name, "members": members}))
    else:
        missing = max(FEWEST, fields["min_members"]) - len(members)
        more = f"It needs {missing} more." if missing > 0 else "It can be used."
        print(f"Added {name}; {file} has {len(members)} member{'s' * (len(members) != 1)}. {more}")


@manifest.command("fingerprint")
def fingerprint(file: FileArgument, output: FormatOption = Format.text) -> None:
    """Print a manifest's fingerprint, which every member compares over another channel: by telephone, on paper.

    [bold]Examples[/bold]

      fedgrpo manifest fingerprint manifest.toml
      fedgrpo manifest fingerprint manifest.toml --format json
    """
    made = Manifest.read(file)
    if output is Format.json:
        print(json.dumps(_described(file, made)))
        return
    print(f"{made.sha256}\nto read aloud:  {' '.join(made.sha256[i : i + 4] for i in range(0, 64, 4))}")
    print(f'Once compared, pin it in the organisation\'s file: [policy] manifest-sha256 = "{made.sha256}"')


@manifest.command("verify")
def verify(
    file: FileArgument,
    sha256: Annotated[str, typer.Option(help="The fingerprint that it must have.")] = "",
    identity: Annotated[Path | None, typer.Option(help="A private identity key whose owner must be a member.")] = None,
    output: FormatOption = Format.text,
) -> None:
    """Check a manifest: every part of it, its fingerprint, and whether the owner of a key is a member.

    [bold]Examples[/bold]

      fedgrpo manifest verify manifest.toml
      fedgrpo manifest verify manifest.toml --sha256 8d99...80f9 --identity clinic-a.identity
    """
    made = Manifest.read(file)
    if sha256 and sha256 != made.sha256:
        raise ConfigError(
            f"{file} has the fingerprint {made.sha256}, not {sha256}. It is another manifest than the one that was "
            "compared: find out why before you use it."
        )
    found = _described(file, made)
    if identity is not None:
        public = Identity.read(identity).public
        found["you"] = next((member.name for member in made.members if member.key == public), "")
        if not found["you"]:
            raise ConfigError(f"{file}: no member has the key of {identity}. Send {identity}.pub to who writes it.")
    if output is Format.json:
        print(json.dumps(found))
        return
    print(f"{file}: federation {made.federation}, {len(made.members)} members, {made.threshold} of them open a sum")
    for member in made.members:
        mark = "  (you)" if member.name == found.get("you") else ""
        print(f"  {member.name}  {public_key.as_text(member.key)}{mark}")
    print(f"  server  {public_key.as_text(made.server_key)}\nfingerprint {made.sha256}")


def _described(file: Path, made: Manifest) -> dict[str, object]:
    return {
        "file": str(file),
        "federation": made.federation,
        "sha256": made.sha256,
        "members": [member.name for member in made.members],
        "min_members": made.min_members,
        "threshold": made.threshold,
        "base_model_sha256": made.base_model_sha256,
        "cipher": made.cipher,
    }
