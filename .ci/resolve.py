"""Resolve every documented set of extras, on each supported Python, without downloading a package.

    .ci/resolve                       all sets (about two minutes; a few seconds once the registry's answers are cached)
    .ci/resolve server learner,vllm   these

`uv pip compile` chooses the versions that a new environment would get; they are printed as a table. Where they are not
those that `fedgrpo doctor` knows as tested (a new release), the tested ones must still resolve. The exit status is 1 if
a set does not resolve, or brings a role what it must not need. Without a registry the check is skipped, and says so.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedgrpo.simulations.doctor.versions import SETS

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).parent / "uv"
PYTHONS = ("3.11", "3.12", "3.13")
DOCUMENTED = ("", *SETS, "dev")
SHOWN = ("flwr", "trl", "transformers", "peft", "datasets", "torch", "vllm", "unsloth", "fastapi")
ABSENT = {
    "": {"flwr", "torch"},
    "server": {"torch", "trl"},
    "node": {"torch", "trl"},
    **{name: {"flwr"} for name in SETS if "flwr" not in SETS[name]},
}
"""What a role's set must not bring."""
AT_ONCE = 6
OFFLINE = re.compile(r"error sending request|Failed to fetch|dns error|Connection refused|Network connectivity")


class OfflineError(Exception):
    """The registry does not answer."""


def resolve(extras: str, python: str, pins: Mapping[str, str]) -> dict[str, str]:
    """Return name -> version of a set, with some versions pinned.

    Raises:
        OfflineError: the registry does not answer.
        ValueError: nothing fits; holds the resolver's explanation.
    """
    command = [str(UV), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python]
    for extra in filter(None, extras.split(",")):
        command += ["--extra", extra]
    if pins:
        command += ["--constraints", "-", "pyproject.toml"]
    else:
        command += ["pyproject.toml"]
    text = "".join(f"{name}=={version}\n" for name, version in pins.items())
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise (OfflineError if OFFLINE.search(done.stderr) else ValueError)(done.stderr.strip())
    return dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", done.stdout, re.MULTILINE))


def row(extras: str, python: str) -> tuple[str, bool]:
    """Return (a line of the table, whether the set is as documented)."""
    try:
        versions, note = resolve(extras, python, {}), ""
        tested = SETS.get(extras, {})
        if any(versions.get(name) != version for name, version in tested.items()):
            resolve(extras, python, tested)
            note = "newer than tested"
        unwelcome = ABSENT.get(extras, set()) & versions.keys()
    except ValueError as error:
        versions, note, unwelcome = {}, f"does not resolve:\n{error}", {"nothing fits"}
    if versions and unwelcome:
        note = f"brings {', '.join(sorted(unwelcome))}"
    columns = " ".join(f"{versions.get(name, '-'):12}" for name in SHOWN)
    return f"{extras or '(none)':22} {python:7} {columns} {note}".rstrip(), not unwelcome


def main(wanted: list[str]) -> int:
    """Check the sets, print the table, and return the exit status."""
    if unknown := set(wanted) - set(DOCUMENTED):
        sys.exit(f"Not documented: {', '.join(sorted(unknown))}. Known are {', '.join(filter(None, DOCUMENTED))}.")
    print(f"{'extras':22} {'python':7} {' '.join(f'{name:12}' for name in SHOWN)}".rstrip())
    cases = [(extras, python) for extras in wanted or DOCUMENTED for python in PYTHONS]
    good = True
    with ThreadPoolExecutor(AT_ONCE) as pool:  # nearly all of it is waiting for the registry
        try:
            for line, as_documented in pool.map(row, *zip(*cases, strict=True)):
                print(line, flush=True)
                good &= as_documented
        except OfflineError:
            pool.shutdown(cancel_futures=True)
            print("Skipped: the package registry does not answer.", file=sys.stderr)
            return 0
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
