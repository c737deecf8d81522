"""Where a model comes from that is named and is no folder."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from fedgrpo.client.learner.models.model_files import copy_tokenizer, model_folder
from fedgrpo.client.learner.service.load_organisation import organisation_model
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.run.journal import Journal
from fedgrpo.simulations.engine import runner
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from fedgrpo.simulations.export.merge import merge
from fedgrpo.simulations.export.source import BaseModel, Source
from organisations import organisation_file


class HubError(Exception):
    """As modelscope's errors."""


@pytest.fixture
def modelscope(monkeypatch, tmp_path):
    """A package `modelscope` that has one model; what it was asked for."""
    asked = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        asked.append((name, revision, allow_patterns))
        if name != "Qwen/here":
            raise HubError("no such model")
        return str(tmp_path)

    parts = {"modelscope": {}, "modelscope.hub": {}, "modelscope.hub.errors": {"HubError": HubError}}
    parts["modelscope.hub.snapshot_download"] = {"snapshot_download": snapshot_download}
    for name, members in parts.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_a_named_model_is_fetched_from_modelscope_without_code_or_pickles(modelscope, tmp_path):
    assert model_folder("Qwen/here", "v2", "modelscope") == tmp_path
    ((name, revision, patterns),) = modelscope
    assert (name, revision) == ("Qwen/here", "v2")
    assert "*.safetensors" in patterns
    assert not {"*.py", "*.bin", "*.pt"} & set(patterns)


def test_a_model_that_modelscope_lacks_is_named(modelscope):
    with pytest.raises(ConfigError, match="Cannot get the model Qwen/gone from ModelScope"):
        model_folder("Qwen/gone", "", "modelscope")


def test_a_folder_is_a_folder_whatever_the_source(modelscope, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert model_folder(str(tmp_path), "", "modelscope") == tmp_path
    assert modelscope == []


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedgrpo\[modelscope\]'"):
        model_folder("Qwen/here", "", "modelscope")


def test_an_organisations_file_and_a_scenario_can_name_it(modelscope, tmp_path):
    own = organisation_file(tmp_path, model__name="Qwen/here", backend__source="modelscope")
    assert organisation_model(own) == tmp_path
    values = {"model.name": "Qwen/here", "backend.source": "modelscope"}
    copy_tokenizer(BUILTIN_POLICY, tmp_path)
    runner.check(RunConfig().with_values(values))
    assert [name for name, *_ in modelscope] == ["Qwen/here"] * 2


def test_an_export_fetches_the_base_model_from_where_the_run_had_it(modelscope):
    run = SimpleNamespace(config=RunConfig().with_values({"backend.source": "modelscope"}), journal=Journal())
    source = Source(None, BaseModel("Qwen/gone", "", "Qwen/gone"), run)
    with pytest.raises(ConfigError, match="from ModelScope"):
        merge(source, "", print)
