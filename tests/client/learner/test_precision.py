"""The type and the threads of a base model where they are chosen for the machine."""

import pytest
import torch
from fedgrpo.client.learner.models import precision
from fedgrpo.client.learner.models.base_model import load_base
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY

LARGE = 269_000_000
CPUINFO = "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu avx512f {}\n"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Give this machine a processor with these flags."""

    def has(flags):
        (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags))
        monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")

    return has


def auto(**values):
    return RunConfig().with_values({"model.dtype": "auto", **values})


@pytest.mark.parametrize(
    ("flags", "name", "dtype"),
    [
        ("avx512_bf16 amx_bf16 amx_tile", "AMX-BF16", "bfloat16"),
        ("avx512_bf16", "AVX512-BF16", "bfloat16"),
        ("avx512_vnni", "", "float32"),
    ],
)
def test_a_large_model_is_bfloat16_where_the_processor_multiplies_it(processor, flags, name, dtype):
    processor(flags)
    assert precision.processor_bfloat16() == name
    assert precision.automatic_dtype(auto(), LARGE, gpu_bfloat16=None) == dtype


def test_small_models_and_methods_that_add_to_the_base_stay_float32(processor):
    processor("amx_bf16")
    assert precision.resolved_dtype(auto(), BUILTIN_POLICY) == "float32"
    assert precision.automatic_dtype(auto(), 600_000, gpu_bfloat16=True) == "float32"
    assert precision.automatic_dtype(auto(**{"aggregation.method": "fedex"}), LARGE, gpu_bfloat16=None) == "float32"


def test_a_gpu_decides_for_itself(processor):
    processor("amx_bf16")
    assert precision.automatic_dtype(auto(), LARGE, gpu_bfloat16=False) == "float32"
    processor("")
    assert precision.automatic_dtype(auto(), LARGE, gpu_bfloat16=True) == "bfloat16"


def test_a_type_that_was_chosen_is_kept(tmp_path):
    chosen = RunConfig().with_values({"model.dtype": "float16"})
    assert precision.resolved_dtype(chosen, tmp_path) == "float16"


def test_a_machine_that_does_not_say_is_taken_for_one_without(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "gone")
    assert precision.processor_bfloat16() == ""


@pytest.mark.parametrize(("processes", "threads"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_processes_share_the_cores_on_a_large_model_only(tmp_path, monkeypatch, processes, threads):
    monkeypatch.setattr(precision, "cores", lambda: 6)
    (tmp_path / "model.safetensors").touch()
    assert precision.usual_threads(tmp_path, processes) == 1
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(LARGE)
    assert precision.usual_threads(tmp_path, processes) == threads


def test_bfloat16_on_a_processor_reads_the_last_hidden_states_in_one_piece():
    """With gaps between them, the product copies the vocabulary's weights once per sequence."""
    model = load_base(BUILTIN_POLICY, "bfloat16", torch.device("cpu"))
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].is_contiguous()))
    model(torch.ones((3, 9), dtype=torch.long), logits_to_keep=4)
    assert seen == [True]
