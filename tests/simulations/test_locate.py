"""Which adapter a run folder, one of its adapters or a PEFT folder names: the same one for every command."""

import json

import export_runs
import pytest
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.run.locate import locate_adapter
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from fedgrpo.simulations.evaluation import target
from fedgrpo.simulations.export import source


@pytest.fixture
def run(tmp_path):
    export_runs.make_run(tmp_path / "run-7", BUILTIN_POLICY, export_runs.settings("builtin"))
    return tmp_path / "run-7"


def test_a_run_folder_is_its_last_committed_adapter_unless_a_round_is_selected(run):
    last, first, best = locate_adapter(run), locate_adapter(run, 1), locate_adapter(run, best=True)
    assert [(each.folder.name, each.round) for each in (last, first, best)] == [("0002", 2), ("0001", 1), ("0001", 1)]
    assert last.run.config == first.run.config == locate_adapter(run / "adapters" / "0001").run.config
    assert locate_adapter(run / "adapters" / "0001").round == 1


def test_evaluate_and_export_take_the_same_adapter(run):
    for name in (run, run / "adapters" / "0001"):
        assert target.locate(name, None).folder == locate_adapter(name).folder.resolve()
        assert source.locate(name, None, best=False).round == locate_adapter(name).round


def test_the_untrained_start_of_a_run_can_be_evaluated_but_not_exported(run):
    assert target.locate(run / "adapters" / "0000", None).folder.name == "0000"
    with pytest.raises(ConfigError, match="untrained start"):
        source.locate(run / "adapters" / "0000", None, best=False)


def test_an_adapter_of_peft_has_no_run_and_no_rounds(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert locate_adapter(tmp_path).run is None
    with pytest.raises(ConfigError, match="has no rounds to select"):
        locate_adapter(tmp_path, 1)
    with pytest.raises(ConfigError, match="not one of fedgrpo"):
        source.locate(tmp_path, None, best=False)


@pytest.mark.parametrize("locate", [lambda p: target.locate(p, None), lambda p: source.locate(p, None, best=False)])
def test_every_command_refuses_with_the_same_message(tmp_path, run, locate):
    Store(tmp_path / "model").save_config(RunConfig())
    (tmp_path / "model" / "config.json").write_text("{}")
    wrong = {
        tmp_path / "nowhere": "neither a run folder nor one of its adapters",
        tmp_path / "model": "is a model, not an adapter or a run",
        run / "adapters" / "0009": "Round 9 of .* was not committed",
    }
    for path, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            locate(path)
