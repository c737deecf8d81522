"""The flat vector: layout, algebra, the deterministic start, and PEFT's files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fedgrpo.common.adapter import Adapter, AdapterSchema, Module
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.peft_files import read_peft, write_peft
from hypothesis import given
from hypothesis import strategies as st

MODULES = (Module("layers.0.down", 3, 5), Module("layers.0.up", 5, 4))


def schema(trains=("A", "B"), rank=2, seed=0):
    return AdapterSchema(modules=MODULES, rank=rank, alpha=4, trains=trains, seed=seed)


def test_the_vector_holds_the_trained_factors_in_order():
    both = schema()
    assert both.size == 2 * 3 + 5 * 2 + 2 * 5 + 4 * 2
    assert schema(("B",)).size == 5 * 2 + 4 * 2
    vector = np.arange(both.size, dtype=np.float32)
    tensors = Adapter(both, vector).tensors()
    assert tensors[MODULES[0], "A"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors[MODULES[0], "B"][0].tolist() == [6, 7]
    assert tensors[MODULES[1], "B"][-1].tolist() == [32, 33]


@given(st.integers(0, 2**31 - 1), st.sampled_from([("A", "B"), ("B",)]))
def test_tensors_and_vector_are_the_same_thing(seed, trains):
    own = schema(trains)
    adapter = Adapter(own, np.random.default_rng(seed).normal(size=own.size).astype(np.float32))
    back = Adapter.from_tensors(own, adapter.tensors())
    assert back.sha256 == adapter.sha256
    assert (back.vector == adapter.vector).all()


def test_the_initial_adapter_is_the_same_on_every_machine():
    start = Adapter.initial(schema())
    assert start.tensors()[MODULES[0], "A"][0].tolist() == pytest.approx([0.46191, 0.25849, 0.03084], abs=1e-5)
    assert not start.tensors()[MODULES[0], "B"].any()
    assert np.abs(start.tensors()[MODULES[1], "A"]).max() <= 5**-0.5
    assert Adapter.initial(schema()).sha256 == start.sha256
    assert Adapter.initial(schema(seed=1)).sha256 != start.sha256


def test_the_frozen_factor_of_a_smaller_rank_is_a_prefix_of_the_larger():
    small, large = schema(("B",), rank=2), schema(("B",), rank=7)
    for module in MODULES:
        assert (small.initial_tensor(module, "A") == large.initial_tensor(module, "A")[:2]).all()


@given(st.integers(0, 2**31 - 1))
def test_minus_undoes_plus(seed):
    own, rng = schema(), np.random.default_rng(seed)
    one = Adapter(own, rng.normal(size=own.size).astype(np.float32))
    delta = rng.normal(size=own.size).astype(np.float32)
    np.testing.assert_allclose(one.plus(delta).minus(one), delta, atol=1e-6)
    assert one.plus(delta, 0.0).sha256 == one.sha256


def test_a_vector_of_another_length_or_type_is_refused():
    own = schema()
    with pytest.raises(ValueError, match="wants float32"):
        Adapter(own, np.zeros(own.size + 1, np.float32))
    with pytest.raises(ValueError, match="wants float32"):
        Adapter(own, np.zeros(own.size))
    with pytest.raises(ValueError, match="different schemas"):
        Adapter.initial(own).minus(Adapter.initial(schema(("B",))))
    with pytest.raises(ValueError, match="is missing"):
        Adapter.from_tensors(own, {})


def test_a_schema_survives_json_and_refuses_nonsense():
    assert AdapterSchema.from_json(schema().to_json()) == schema()
    for text in ("{}", "[]", "null", '{"modules": 3}', schema().to_json().replace("2", "x")):
        with pytest.raises((ValueError, ConfigError)):
            AdapterSchema.from_json(text)
    with pytest.raises(ConfigError, match="at least 1"):
        AdapterSchema.from_json(schema().to_json().replace('"rank":2', '"rank":0'))
    with pytest.raises(ConfigError, match="alphabetical"):
        replace(schema(), modules=MODULES[::-1])


@pytest.mark.parametrize("trains", [("A", "B"), ("B",)])
def test_peft_files_come_back_bit_for_bit(tmp_path, trains):
    own = schema(trains)
    adapter = Adapter(own, np.random.default_rng(0).normal(size=own.size).astype(np.float32))
    write_peft(adapter, tmp_path, "some/model")
    assert read_peft(tmp_path).sha256 == adapter.sha256
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/model"


def test_a_damaged_adapter_file_is_refused(tmp_path):
    write_peft(Adapter.initial(schema(("B",))), tmp_path, "m")
    weights = tmp_path / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    weights.write_bytes(data[:-3])
    with pytest.raises(ConfigError, match="damaged"):
        read_peft(tmp_path)
    header = int.from_bytes(data[:8], "little")
    data[8 + header + 2] ^= 0x40  # a bit of the first tensor, a frozen A
    weights.write_bytes(data)
    with pytest.raises(ConfigError, match="frozen factor"):
        read_peft(tmp_path)
    weights.unlink()
    with pytest.raises(ConfigError, match="holds no adapter"):
        read_peft(tmp_path)
