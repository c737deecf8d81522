"""A broken model folder is refused with what is wrong in it."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from fedgrpo.client.learner.models.base_model import load_base, load_tokenizer
from fedgrpo.client.learner.samplers.own_model import OwnModelSampler
from fedgrpo.common.errors import ConfigError
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BUILTIN_POLICY, tmp_path / "model")


def test_cut_off_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_base(folder, "float32", torch.device("cpu"))


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_base(folder, "float32", torch.device("cpu"))


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        load_tokenizer(folder)


def test_a_tokenizer_without_a_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template"):
        load_tokenizer(folder)


@pytest.mark.parametrize(("told", "ends"), [(None, (6,)), (5, (5, 6)), ([5, 7], (5, 7, 6)), ([6, 5], (6, 5))])
def test_a_completion_ends_where_the_model_or_its_tokenizer_says_so(told, ends):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=told))
    found = OwnModelSampler(SimpleNamespace(model=model), SimpleNamespace(eos_token_id=6))
    assert found.ends == ends


def test_a_model_that_names_no_end_is_refused():
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    with pytest.raises(ConfigError, match="completions would never end"):
        OwnModelSampler(SimpleNamespace(model=model), SimpleNamespace(eos_token_id=None))
