"""`flwr run . local`: the same app under Flower's own simulation runtime (Ray), and with the same result."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.run.reader import Run

pytestmark = pytest.mark.e2e

VALUES = {
    "federation.rounds": 2,
    "federation.min-clients": 3,
    "federation.start-clients": 3,
    "simulation.clients": 3,
    "simulation.problems": 60,
    "simulation.partition": "dirichlet",
    "evaluation.problems": 40,
    "grpo.max-completion-length": 44,
    "grpo.learning-rate": 0.008,
}


@pytest.fixture
def flower(tmp_path):
    """A private Flower home and ports; the SuperLink that `flwr run` leaves behind is ended afterwards."""
    ports = [free_port(), free_port()]
    home = tmp_path / "flwr"
    home.mkdir()
    (home / "config.toml").write_text('[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = ":local:"\n')
    yield {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(ports[0]),
        "FLWR_LOCAL_CONTROL_API_PORT": str(ports[1]),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for process in Path("/proc").glob("[0-9]*"):
        words = (process / "cmdline").read_bytes() if (process / "cmdline").exists() else b""
        if b"flower-superlink" in words and str(ports[0]).encode() in words:
            os.kill(int(process.name), signal.SIGTERM)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["none", "secagg"])
def test_the_same_app_on_ray_ends_with_the_same_adapter(tmp_path, flower, mode):
    pytest.importorskip("ray", reason="pip install -e '.[ray]' brings Flower's simulation runtime")
    mine = tmp_path / "mine.toml"
    settings = {**VALUES, "privacy.mode": mode}
    mine.write_text(RunConfig().with_values(settings).to_toml())
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "simulate", mine, "--out", tmp_path, "--run", "grid"]
    subprocess.run(command, check=True, capture_output=True, timeout=200)

    values = {**settings, "output.dir": str(tmp_path), "output.run": "ray"}
    run_config = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    nodes = "num-supernodes=3 client-resources-num-cpus=1"
    command = ["flwr", "run", ROOT, "local", "--stream", "--run-config", run_config, "--federation-config", nodes]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=flower, cwd=tmp_path)
    assert (tmp_path / "ray" / "journal.jsonl").exists(), done.stdout + done.stderr
    grid, ray = (Run.read(tmp_path / name).result() for name in ("grid", "ray"))
    assert ray["finished"]
    assert ray["adapter_sha256"] == grid["adapter_sha256"]
    assert ray["accuracy"]["after"] == grid["accuracy"]["after"]


@pytest.mark.slow
def test_the_bundle_holds_two_stubs_and_no_logic(tmp_path, flower):
    subprocess.run(["flwr", "build", "--app", ROOT], check=True, capture_output=True, env=flower, cwd=tmp_path)
    (bundle,) = tmp_path.glob("*.fab")
    import zipfile

    names = set(zipfile.ZipFile(bundle).namelist())
    assert names == {"pyproject.toml", "README.md", "LICENSE", "client/app.py", "server/app.py", ".info/CONTENT"}
