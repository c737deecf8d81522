"""The app for Flower's Hub meets its documented rules, and its settings are the scenario's."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.engine.runner import scenario

pytestmark = pytest.mark.e2e
APP = ROOT / "examples" / "hub-app"
ALLOWED = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl", ""}
MOST_BYTES = {"hub app": 20_000, "our own": 10_000_000}
"""Of the bundle: our own limit for the shell, the Hub's for any app."""


def built(app, tmp_path):
    """Return the bundle that `flwr build` makes of an app."""
    words = [sys.executable, "-m", "flwr.cli.app", "build", "--app", str(app)]
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(tmp_path / "home")}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
    (made,) = tmp_path.glob("*.fab")
    return made


@pytest.mark.parametrize(("name", "app"), [("hub app", APP), ("our own", ROOT)])
def test_it_is_small_and_holds_only_what_the_hub_allows(tmp_path, name, app):
    fab = built(app, tmp_path)
    assert fab.stat().st_size <= MOST_BYTES[name]
    with zipfile.ZipFile(fab) as bundle:
        names = [name for name in bundle.namelist() if not name.startswith(".info")]
    assert {Path(name).suffix for name in names} <= ALLOWED
    assert any(Path(name).name == "LICENSE" for name in names)


def test_its_metadata_are_those_of_format_1():
    table = tomllib.loads((APP / "pyproject.toml").read_text())
    assert table["tool"]["flwr"]["app"]["fab-format-version"] == 1
    assert table["tool"]["flwr"]["app"]["flwr-version-target"]
    assert table["project"]["license"] == {"file": "LICENSE"}
    assert any(each.startswith("flwr>=") for each in table["project"]["dependencies"])


def test_its_settings_are_the_scenarios_with_as_many_clients_as_flower_simulates_unasked():
    table = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    own = {f"{section}.{name}": value for section, values in table.items() for name, value in values.items()}
    two = {"federation.start-clients": 2, "simulation.clients": 2, "output.run": ""}
    assert RunConfig().with_values(own) == scenario("builtin").with_values(two)
