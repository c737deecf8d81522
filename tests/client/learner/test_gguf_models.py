"""A GGUF file as a base model: our own export read back, and what is refused."""

import export_runs
import gguf
import numpy as np
import pytest
import torch
from fedgrpo.client.learner.models.base_model import load_base, load_tokenizer
from fedgrpo.client.learner.models.gguf import header
from fedgrpo.client.learner.models.model_files import file_hash, model_folder
from fedgrpo.common.errors import ConfigError
from fedgrpo.simulations.export.gguf_file import write_gguf
from fedgrpo.simulations.export.gguf_vocabulary import vocabulary
from fedgrpo.simulations.export.probes import TEXTS

CPU = torch.device("cpu")
IDS = torch.arange(20, 60)[None]
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}
FAMILIES = {
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "llama-untied-biases-wide-heads": ("llama", {"tie_word_embeddings": False, "attention_bias": True, "head_dim": 32}),
    "llama-3-rope": ("llama", {"rope_parameters": export_runs.LLAMA3_ROPE, "mlp_bias": True}),
    "qwen2-linear-rope": ("qwen2", {"rope_parameters": LINEAR}),
    "qwen2-yarn-rope": ("qwen2", {"rope_parameters": export_runs.YARN_ROPE}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGRPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def exported(base, path, half=False):
    """Write a model folder as a GGUF file."""
    model = load_base(base, "float32", CPU)
    words = vocabulary(load_tokenizer(base), model.config.vocab_size)
    write_gguf(model, words, path, name="tiny", half=half)
    return path


def logits(folder):
    with torch.no_grad():
        return load_base(folder, "float32", CPU).eval()(input_ids=IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_our_own_export_is_the_same_model_again(tmp_path, cache, family):
    kind, shape = FAMILIES[family]
    base = export_runs.make_base(tmp_path / "base", kind, **shape)
    folder = model_folder(str(exported(base, tmp_path / "tiny.gguf")))
    assert folder.parent == cache
    assert (logits(folder) - logits(base)).abs().max() < 1e-5
    ours, theirs = load_tokenizer(folder), load_tokenizer(base)
    assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert ours.chat_template == theirs.chat_template
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)


def test_the_rope_of_llama_3_2_is_found_in_its_divisors():
    rope = {"rope_theta": 500000.0, "factor": 32.0, "original_max_position_embeddings": 8192}
    divisors = header.rope_divisors(rope | header.LLAMA3_ROPE, 64).astype(float)
    assert (divisors[0], divisors[-1]) == (1.0, 32.0)
    assert header._first_context(divisors, 32.0, 500000.0) == 8192


def test_a_file_is_converted_once_and_known_by_its_content(tmp_path, cache):
    base = export_runs.make_base(tmp_path / "base", "qwen2")
    path = exported(base, tmp_path / "one.gguf")
    folder = model_folder(str(path))
    written = (folder / "config.json").stat().st_mtime_ns
    renamed = path.rename(tmp_path / "other.GGUF")
    assert model_folder(str(renamed)) == folder
    assert (folder / "config.json").stat().st_mtime_ns == written
    assert [path.name for path in cache.iterdir()] == [folder.name]
    other = exported(base, tmp_path / "half.gguf", half=True)
    assert model_folder(str(other)) != folder


def test_the_folder_is_the_same_wherever_it_is_made(tmp_path, monkeypatch):
    path = exported(export_runs.make_base(tmp_path / "base", "llama"), tmp_path / "tiny.gguf")
    hashes = set()
    for name in ("here", "there"):
        monkeypatch.setenv("FEDGRPO_CACHE", str(tmp_path / name))
        hashes.add(file_hash(model_folder(str(path))))
    assert len(hashes) == 1


def quantized(path, base, kind):
    """Write a model folder of a Llama with quantized matrices, as llama.cpp does; return it."""
    file = gguf.GGUFReader(exported(base, path.with_suffix(".f32")))
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in file.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            value, own = field.contents(), field.types[0]
            writer.add_key_value(key, value, own, field.types[-1] if own == gguf.GGUFValueType.ARRAY else None)
    for tensor in file.tensors:
        data = tensor.data.astype(np.float32)
        if data.ndim > 1:
            writer.add_tensor(tensor.name, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_quantized_file_becomes_bfloat16_of_its_own_values(tmp_path):
    base = export_runs.make_base(tmp_path / "base", "llama")
    path = quantized(tmp_path / "q8.gguf", base, gguf.GGMLQuantizationType.Q8_0)
    found, expected = load_base(model_folder(str(path)), "auto", CPU), load_base(base, "float32", CPU).state_dict()
    assert found.dtype == torch.bfloat16
    name = "model.layers.1.self_attn.k_proj.weight"
    stored = found.state_dict()[name].float()
    assert 0 < (stored - expected[name]).abs().max() < 0.01 * expected[name].abs().max()
    blocks = gguf.quantize(expected[name].numpy(), gguf.GGMLQuantizationType.Q8_0)
    values = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    assert torch.equal(stored, torch.from_numpy(values).bfloat16().float())


def test_another_architecture_is_refused_by_name(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "falcon.gguf", "falcon")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ConfigError, match=r"architecture falcon. Supported are llama and qwen2"):
        model_folder(str(tmp_path / "falcon.gguf"))


@pytest.mark.parametrize("kept", [0, 3, 4000, -1000])
def test_a_cut_off_file_is_refused_and_leaves_nothing(tmp_path, cache, kept):
    path = exported(export_runs.make_base(tmp_path / "base", "qwen2"), tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match="not a whole GGUF file"):
        model_folder(str(path))
    assert not cache.exists() or not list(cache.iterdir())


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path, monkeypatch):
    base = export_runs.make_base(tmp_path / "base", "qwen2")
    own = gguf.GGUFWriter.add_tensor_info
    lost = "blk.1.ffn_up.weight"
    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor_info", lambda s, n, *a, **k: None if n == lost else own(s, n, *a))
    monkeypatch.setattr("fedgrpo.simulations.export.gguf_file._tensors", without(lost))
    with pytest.raises(ConfigError, match=r"model.layers.1.mlp.up_proj.weight has the shape None, not \(96, 64\)"):
        model_folder(str(exported(base, tmp_path / "tiny.gguf")))


def without(lost):
    from fedgrpo.simulations.export.gguf_file import _tensors

    return lambda *words: ((name, values) for name, values in _tensors(*words) if name != lost)


def test_a_missing_file_and_a_missing_library_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"There is no GGUF file .*gone.gguf"):
        model_folder(str(tmp_path / "gone.gguf"))
    path = exported(export_runs.make_base(tmp_path / "base", "qwen2"), tmp_path / "tiny.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedgrpo\[models\]'"):
        model_folder(str(path))
