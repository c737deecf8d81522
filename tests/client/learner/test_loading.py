"""Other ways to load the base model: quantised for real, and with Unsloth as far as that goes without a GPU."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.models import backend_check
from fedgrpo.client.learner.models.adapted_model import REFERENCE
from fedgrpo.client.learner.models.base_model import Base
from fedgrpo.client.learner.models.process import prepare_process
from fedgrpo.client.learner.training.local_learner import LoadedModel
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.common.settings.backend import Backend
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from learners import PROBLEMS, make_config, make_learner


def resident(config):
    base = Base.load(BUILTIN_POLICY, "float32", prepare_process("cpu"), config.backend)
    return LoadedModel(base, config, PROBLEMS[0])


def train(model):
    start = Adapter.initial(model.schema)
    task = TrainTask(federation="f", round=1, attempt=1, adapter=start, position=0)
    return make_learner(model).train(task).delta


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_trains_and_its_adapter_stays_in_float32(quantization):
    pytest.importorskip("bitsandbytes")
    model = resident(make_config(backend__quantization=quantization))
    adapted = model.trainer.adapted.model
    packed = adapted.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight
    assert packed.dtype == {"4bit": torch.uint8, "8bit": torch.int8}[quantization]
    assert {p.dtype for name, p in adapted.named_parameters() if ".lora_" in name} == {torch.float32}
    before = packed.clone()
    assert np.linalg.norm(train(model)) > 0.01
    assert (packed == before).all()


def test_a_step_as_small_as_grpos_survives_a_quantised_base():
    """In bfloat16, as TRL would have the adapter, a step of 1e-6 on a number of 0.05 is lost."""
    pytest.importorskip("bitsandbytes")
    model = resident(make_config(backend__quantization="4bit", grpo__learning_rate=1e-6))
    schema = model.schema
    start = Adapter(schema, np.full(schema.size, 0.05, np.float32))
    task = TrainTask(federation="f", round=1, attempt=1, adapter=start, position=0)
    delta = make_learner(model).train(task).delta
    assert 0 < np.abs(delta).max() < 1e-5


def test_what_is_missing_is_said_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(backend_check, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fedgrpo\[quantization\]"):
        Base.load(BUILTIN_POLICY, "float32", torch.device("cpu"), Backend(quantization="4bit"))
    with pytest.raises(ConfigError, match="Unsloth is not installed"):
        backend_check.check_backend(Backend(loader="unsloth"))
    with pytest.raises(ConfigError, match=r"vLLM is not installed here.*vllm-python"):
        backend_check.check_backend(Backend(sampler="vllm-server"))


def test_a_vllm_that_is_not_where_the_settings_say_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="not the Python of an environment with vLLM"):
        backend_check.check_backend(Backend(sampler="vllm-server", vllm_python=str(tmp_path / "python")))
    with pytest.raises(ConfigError, match="no vLLM server answers"):
        backend_check.check_backend(Backend(sampler="vllm-server", vllm_url="http://127.0.0.1:9"))


@pytest.fixture
def unsloth(monkeypatch):
    """A module that stands in for Unsloth: what it is asked for, done by transformers and PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    asked = {}

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(model_name, max_seq_length, dtype, load_in_4bit, fast_inference, **kwargs):
            asked["load"] = {"longest": max_seq_length, "four_bit": load_in_4bit, **kwargs}
            return AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype), None

        @staticmethod
        def get_peft_model(model, r, lora_alpha, target_modules, use_gradient_checkpointing, random_state, **kwargs):
            asked["adapt"] = {"rank": r, "modules": target_modules, "checkpointing": use_gradient_checkpointing}
            return get_peft_model(
                model, LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=target_modules, **kwargs)
            )

    module = types.ModuleType("unsloth")
    module.FastLanguageModel = FastLanguageModel
    module.__spec__ = types.SimpleNamespace(name="unsloth")
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr(backend_check, "GPU", BUILTIN_POLICY)
    return asked


@pytest.mark.parametrize("kl_reference", ["none", "base", "global"])
def test_unsloths_model_trains_as_ours_does(unsloth, kl_reference):
    settings = {"grpo__kl_reference": kl_reference, "grpo__beta": 0.0 if kl_reference == "none" else 0.1}
    model = resident(make_config(backend__loader="unsloth", **settings))
    assert unsloth["load"]["local_files_only"]
    assert not unsloth["load"]["trust_remote_code"]
    assert unsloth["adapt"]["rank"] == 4
    assert "q_proj" in unsloth["adapt"]["modules"]
    assert (REFERENCE in model.trainer.adapted.model.peft_config) == (kl_reference == "global")
    np.testing.assert_allclose(train(model), train(resident(make_config(**settings))), atol=1e-6)


def test_unsloth_that_adapts_other_layers_is_refused(unsloth, monkeypatch):
    fast = sys.modules["unsloth"].FastLanguageModel
    whole = fast.get_peft_model
    monkeypatch.setattr(fast, "get_peft_model", lambda model, **k: whole(model, **k | {"target_modules": ["q_proj"]}))
    with pytest.raises(ConfigError, match="other layers"):
        resident(make_config(backend__loader="unsloth"))


IMPORT = """
import sys
from pathlib import Path
from fedgrpo.client.learner.models import backend_check, unsloth_backend
from fedgrpo.common.settings.backend import Backend
backend_check.GPU = Path(sys.argv[1])
{first}
unsloth_backend.import_unsloth(Backend(loader="unsloth"))
print("unsloth" in sys.modules, "trl" in sys.modules)
"""


@pytest.mark.parametrize(
    ("first", "body", "gpu", "said"),
    [
        ("", "", True, "True False"),
        ("import transformers", "", True, "come first"),
        ("", "", False, "no NVIDIA GPU"),
        ("", "raise NotImplementedError('needs a driver')", True, "needs a driver"),
    ],
)
def test_unsloth_comes_first_and_says_what_keeps_it_from_coming(tmp_path, first, body, gpu, said):
    (tmp_path / "unsloth.py").write_text(body)
    there = tmp_path if gpu else tmp_path / "absent"
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(first=first), there],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in done.stdout + done.stderr
    assert (done.returncode == 0) == (said == "True False")


@pytest.mark.gpu
def test_the_real_unsloth_trains(tmp_path):
    """In an environment of its own: pytest -m gpu tests/client/learner/test_loading.py -k real."""
    pytest.importorskip("unsloth")
    from fedgrpo.client.learner.models.process import prepare_process

    config = make_config(backend__loader="unsloth")
    base = Base.load(BUILTIN_POLICY, "bfloat16", prepare_process("cuda"), config.backend)
    assert np.linalg.norm(train(LoadedModel(base, config, PROBLEMS[0]))) > 0.01
