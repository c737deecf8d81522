"""Flower's command line: submitting, asking and stopping. The only file that knows what `flwr` prints."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...common.cli.supervisor import environment, tool
from ...common.errors import RunError
from ...common.storage.jsonl import append_line
from .heartbeats import last_heartbeats, state_in_words
from .server_folder import CONNECTION, ServerFolder

TIMEOUT_S = 120.0
ADVICE = {
    "Connection refused": "The SuperLink does not answer. Start it: fedgrpo server up {folder}",
    "Please check your network connection": "The SuperLink does not answer. Start it: fedgrpo server up {folder}",
    "[code: 23]": "This key has been registered before. Flower takes a key once, also after it was unregistered: the "
    "organisation makes a new one (fedgrpo keys node NAME.key), sets flower.key to it, and sends you its .pub.",
    "ConnectError": "The SuperLink does not answer. Start it: fedgrpo server up {folder}",
    "CERTIFICATE_VERIFY_FAILED": "The SuperLink has a certificate of another CA. Was {folder}/keys made anew? "
    "Restart fedgrpo server up.",
    "Incompatible": "SuperLink and this command are of different Flower versions. Install the same fedgrpo everywhere.",
}


@dataclass(frozen=True)
class Flower:
    """The SuperLink of an operator's folder, through `flwr`."""

    folder: ServerFolder

    def submit(self, config_file: Path) -> int:
        """Start a run; returns Flower's id of it."""
        shown = self._json("run", str(self.folder.app), CONNECTION, "--run-config", str(config_file))
        return int(shown["run-id"])

    def status(self, run_id: int) -> str:
        """`pending`, `starting`, `running`, or `finished:completed`, `finished:failed`, `finished:stopped`."""
        runs = self._json("list", CONNECTION, "--run-id", str(run_id))["runs"]
        return str(runs[0]["status"]) if runs else "unknown"

    def stop(self, run_id: int) -> None:
        """End a run."""
        self._json("stop", str(run_id), CONNECTION)

    def nodes(self) -> list[dict[str, Any]]:
        """Registered nodes: `node-id`, `name`, `status` (`online`, `offline`, ...), `state` in words, and times."""
        names = self.folder.node_names()
        listed = cast("list[dict[str, Any]]", self._json("supernode", "list", CONNECTION)["nodes"])
        beats = last_heartbeats(self.folder.database)
        return [
            {
                "name": names.get(number := int(node["node-id"]), ""),
                **node,
                "last-heartbeat-s": round(beats[number][0], 1) if number in beats else None,
                "state": state_in_words(str(node["status"]), beats.get(number)),
            }
            for node in listed
        ]

    def register(self, public_key: Path, name: str) -> int:
        """Let a node take part; returns its id."""
        shown = self._json("supernode", "register", str(public_key), CONNECTION, "--name", name)
        node_id = int(shown["node-id"])
        append_line(self.folder.nodes_file, {"node": node_id, "organisation": name})
        return node_id

    def unregister(self, node_id: int) -> None:
        """Let a node take part no longer."""
        self._json("supernode", "unregister", str(node_id), CONNECTION)

    def _json(self, *words: str) -> dict[str, Any]:
        """Run a `flwr` command and return its JSON output.

        Raises:
            RunError: it failed; says what Flower said, and what to do where that is known.
        """
        env = {**os.environ, **environment(), "FLWR_HOME": str(self.folder.flower_home)}
        command = [tool("flwr"), *words, "--format", "json"]
        try:
            done = subprocess.run(  # elsewhere flwr may take a folder of the connection's name for an app
                command,
                check=False,
                capture_output=True,
                text=True,
                env=env,
                timeout=TIMEOUT_S,
                cwd=self.folder.path,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(f"`flwr {words[0]}` gave no answer in {TIMEOUT_S:.0f} s. Is the SuperLink up?") from error
        answer = _last_object(done.stdout)
        if done.returncode or not answer.get("success", True):
            said = str(answer.get("error-message") or (done.stderr + done.stdout))
            raise RunError(f"`flwr {' '.join(words[:2])}` failed. {self._explained(said)}")
        return answer

    def _explained(self, said: str) -> str:
        for mark, advice in ADVICE.items():
            if mark in said:
                return advice.format(folder=self.folder.path)
        return f"Flower says: {re.sub(r'[^!-~]+', ' ', said).strip()[-600:]}"


def _last_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a command's output, which may follow other lines."""
    for start in (match.start() for match in re.finditer(r"^\{", text, re.MULTILINE)):
        try:
            found = json.loads(text[start:])
        except ValueError:
            continue
        if isinstance(found, dict):
            return cast(dict[str, Any], found)
    return {}
