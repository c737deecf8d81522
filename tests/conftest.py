"""Settings and fixtures for all tests."""

import os

import pytest
from fedgrpo.common.cli import main as cli
from hypothesis import settings

# A busy machine makes a single example slow by chance. pytest-timeout still bounds each test.
settings.register_profile("fedgrpo", deadline=None)
settings.load_profile("fedgrpo")


def pytest_xdist_auto_num_workers():
    """One process more than there are cores: some tests wait for a deadline or for a process of their own."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `fedgrpo ...` in this process, in a folder of its own: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["fedgrpo", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call
