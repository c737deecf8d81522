"""The flat vector: layout, algebra, the deterministic start, and PEFT's files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.peft_files import read_peft, write_peft
from fedgrpo.common.adapter.schema import AdapterSchema, Module, split, trained_part, whole_vector
from fedgrpo.common.errors import ConfigError
from hypothesis import given
from hypothesis import strategies as st

MODULES = (Module("layers.0.down", 3, 5), Module("layers.0.up", 5, 4))


HOLDS = [("A", "B"), ("B",), ("A", "B", "W"), ("R",), ("v",)]


def schema(holds=("A", "B"), rank=2, seed=0):
    return AdapterSchema(modules=MODULES, rank=rank, alpha=4, holds=holds, seed=seed, tiny_size=3 * (holds == ("v",)))


def test_the_vector_holds_its_factors_in_order():
    both = schema()
    assert both.size == 2 * 3 + 5 * 2 + 2 * 5 + 4 * 2
    assert schema(("B",)).size == 5 * 2 + 4 * 2
    vector = np.arange(both.size, dtype=np.float32)
    parts = Adapter(both, vector).parts()
    assert parts["layers.0.down", "A"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parts["layers.0.down", "B"][0].tolist() == [6, 7]
    assert parts["layers.0.up", "B"][-1].tolist() == [32, 33]
    assert [schema(holds).size for holds in (("A", "B", "W"), ("R",), ("v",))] == [both.size + 15 + 20, 8, 3]


@given(st.integers(0, 2**31 - 1), st.sampled_from(HOLDS))
def test_parts_and_vector_are_the_same_thing(seed, holds):
    own = schema(holds)
    adapter = Adapter(own, np.random.default_rng(seed).normal(size=own.size).astype(np.float32))
    back = Adapter.from_parts(own, adapter.parts())
    assert back.sha256 == adapter.sha256
    assert (back.vector == adapter.vector).all()


@pytest.mark.parametrize("holds", HOLDS)
def test_an_adapter_changes_nothing_before_training_and_something_after(holds):
    start = Adapter.initial(schema(holds))
    moved = start.plus(np.ones(start.schema.size))
    for module in MODULES:
        a, b = start.lora(module)
        assert a.shape == (2, module.in_features)
        assert b.shape == (module.out_features, 2)
        assert a.any()
        assert not b.any()
        assert np.abs(np.matmul(*moved.lora(module)[::-1])).max() > 0.1


@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from([("A", "B"), ("A", "B", "W")]),
    st.sampled_from([("A",), ("B",), ("A", "B")]),
)
def test_what_was_trained_travels_and_the_rest_is_zero(seed, holds, factors):
    own = schema(holds)
    vector = np.random.default_rng(seed).normal(size=own.size).astype(np.float32)
    part = trained_part(own, vector, factors)
    assert part.size == own.size_of(factors)
    for key, piece in split(own, whole_vector(own, part, factors)).items():
        assert (piece == (split(own, vector)[key] if key[1] in factors else 0)).all()


def test_a_smaller_rank_has_the_first_components_and_the_same_scale():
    own = schema(rank=4)
    small = own.at_rank(2)
    assert (small.alpha, small.scale) == (2, own.scale)
    adapter = Adapter(own, np.arange(own.size, dtype=np.float32))
    cut = adapter.fitted(small)
    for module in MODULES:
        (a, b), (left, right) = adapter.lora(module), cut.lora(module)
        assert (left == a[:2]).all()
        assert (right == b[:, :2]).all()
        padded = cut.fitted(own).lora(module)
        assert (padded[0][:2] == left).all()
        assert not padded[0][2:].any()
        assert not padded[1][:, 2:].any()
    for rank in (5, 3):  # larger; alpha 4 / 4 * 3 would be whole, so:
        with pytest.raises(ConfigError, match="alpha"):
            replace(own, alpha=2 if rank == 3 else 4).at_rank(rank)


def test_the_initial_adapter_is_the_same_on_every_machine():
    start = Adapter.initial(schema())
    assert start.parts()["layers.0.down", "A"][0].tolist() == pytest.approx([0.46191, 0.25849, 0.03084], abs=1e-5)
    assert not start.parts()["layers.0.down", "B"].any()
    assert np.abs(start.parts()["layers.0.up", "A"]).max() <= 5**-0.5
    assert Adapter.initial(schema()).sha256 == start.sha256
    assert Adapter.initial(schema(seed=1)).sha256 != start.sha256


def test_the_frozen_factor_of_a_smaller_rank_is_a_prefix_of_the_larger():
    small, large = schema(("B",), rank=2), schema(("B",), rank=7)
    for module in MODULES:
        assert (small.drawn(module, "A") == large.drawn(module, "A")[:2]).all()


@given(st.integers(0, 2**31 - 1))
def test_minus_undoes_plus(seed):
    own, rng = schema(), np.random.default_rng(seed)
    one = Adapter(own, rng.normal(size=own.size).astype(np.float32))
    delta = rng.normal(size=own.size).astype(np.float32)
    np.testing.assert_allclose(one.plus(delta).minus(one), delta, atol=1e-6)
    assert one.plus(delta, 0.0).sha256 == one.sha256


def test_a_vector_of_another_length_or_type_is_refused():
    own = schema()
    with pytest.raises(ValueError, match="needs float32"):
        Adapter(own, np.zeros(own.size + 1, np.float32))
    with pytest.raises(ValueError, match="needs float32"):
        Adapter(own, np.zeros(own.size))
    with pytest.raises(ValueError, match="adapters of different schemas"):
        Adapter.initial(own).minus(Adapter.initial(schema(("B",))))
    with pytest.raises(ValueError, match="is missing"):
        Adapter.from_parts(own, {})


def test_a_schema_survives_json_and_refuses_nonsense():
    assert AdapterSchema.from_json(schema().to_json()) == schema()
    for text in ("{}", "[]", "null", '{"modules": 3}', schema().to_json().replace("2", "x")):
        with pytest.raises((ValueError, ConfigError)):
            AdapterSchema.from_json(text)
    with pytest.raises(ConfigError, match="at least 1"):
        AdapterSchema.from_json(schema().to_json().replace('"rank":2', '"rank":0'))
    with pytest.raises(ConfigError, match="not the factors of any aggregation.method"):
        AdapterSchema.from_json(schema().to_json().replace('"A","B"', '"B","A"'))
    with pytest.raises(ConfigError, match="only v needs a size"):
        replace(schema(), tiny_size=3)
    with pytest.raises(ConfigError, match="alphabetical"):
        replace(schema(), modules=MODULES[::-1])


@pytest.mark.parametrize("holds", HOLDS)
def test_peft_files_come_back_bit_for_bit(tmp_path, holds):
    own = schema(holds)
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
    with pytest.raises(ConfigError, match="not what seed and vector give"):
        read_peft(tmp_path)
    weights.unlink()
    with pytest.raises(ConfigError, match="is not an adapter folder of fedgrpo"):
        read_peft(tmp_path)


@pytest.mark.parametrize("holds", HOLDS)
def test_peft_files_hold_the_whole_change_as_a_and_b(tmp_path, holds):
    own = schema(holds)
    adapter = Adapter(own, np.random.default_rng(1).normal(size=own.size).astype(np.float32))
    write_peft(adapter, tmp_path, "m")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    for module in MODULES:
        a, b = (tensors[f"base_model.model.{module.name}.lora_{f}.weight"] for f in "AB")
        whole = own.scale * np.matmul(*adapter.lora(module)[::-1])
        if "W" in holds:
            whole = whole + adapter.parts()[module.name, "W"]
        assert a.shape[0] == config["r"]
        np.testing.assert_allclose(config["lora_alpha"] / config["r"] * b @ a, whole, atol=1e-4)
