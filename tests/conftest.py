"""Settings and fixtures for all tests."""

import pytest
from fedgrpo.common.cli import main as cli
from hypothesis import settings

# A busy machine makes a single example slow by chance. pytest-timeout still bounds each test.
settings.register_profile("fedgrpo", deadline=None)
settings.load_profile("fedgrpo")


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
