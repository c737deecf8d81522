"""Merged models and GGUF files of tiny Qwen2 and Llama models and of the built-in policy, read back and compared."""

import json

import export_runs
import gguf
import numpy as np
import pytest
import torch
from fedgrpo.client.learner.models.adapted_model import attach
from fedgrpo.client.learner.models.base_model import load_base, load_tokenizer
from fedgrpo.common.cli import main as cli
from fedgrpo.common.errors import ConfigError
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY, SPLIT_POLICY
from fedgrpo.simulations.export import gguf_file, gguf_vocabulary, merge
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config

pytestmark = pytest.mark.e2e

CPU = torch.device("cpu")
VLLM_ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
IDS = torch.arange(20, 60)[None]
FAMILIES = {
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-untied": ("qwen2", {"tie_word_embeddings": False}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-untied-biases-wide-heads": (
        "llama",
        {"tie_word_embeddings": False, "attention_bias": True, "head_dim": 32},
    ),
    "llama-3-rope": ("llama", {"rope_parameters": export_runs.LLAMA3_ROPE}),
    "qwen2-linear-rope": ("qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}}),
    "qwen2-yarn-rope": ("qwen2", {"rope_parameters": export_runs.YARN_ROPE}),
}


@pytest.fixture
def export(monkeypatch, capsys, tmp_path):
    """Run `fedgrpo export run ...` in this process: (exit status, result, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["fedgrpo", "export", "run", "--format", "json", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, json.loads(out.splitlines()[-1]) if out else None, err

    return call


def run_on(tmp_path, family, **changes):
    """(base model's folder, the run's last adapter) of a run in tmp_path/run."""
    kind, shape = FAMILIES[family]
    base = export_runs.make_base(tmp_path / "base", kind, **shape)
    config = export_runs.settings(str(base), **changes)
    return base, export_runs.make_run(tmp_path / "run", base, config, correct=(0, 5))[-1]


def answers(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


@pytest.mark.parametrize("method", ["ffa", "fedex", "xs", "tiny"])
def test_a_merged_model_is_base_and_adapter_and_opens_by_itself(tmp_path, export, method):
    base, adapter = run_on(tmp_path, "qwen2-tied", aggregation__method=method)
    status, result, err = export("--to", "merged", "--out", "made")
    assert status == 0, err
    expected = answers(attach(load_base(base, "float32", CPU), adapter).model)
    found = answers(AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32))
    assert (answers(load_base(base, "float32", CPU)) - expected).abs().max() > 0.1
    assert (found - expected).abs().max() < 2e-3
    assert result["differences"]["merged"]["logits"] < 2e-3
    assert result["differences"]["read_back"]["logits"] == 0.0
    text = "17 apples, <reasoning>"
    assert load_tokenizer(tmp_path / "made")(text)["input_ids"] == load_tokenizer(base)(text)["input_ids"]
    for path in (tmp_path / "made").glob("*.json"):
        assert str(tmp_path) not in path.read_text(), path


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.15), ("float16", 0.02)])
def test_a_merged_model_is_rounded_to_the_type_that_was_asked_for(tmp_path, export, dtype, limit):
    run_on(tmp_path, "llama-untied-biases-wide-heads")
    status, result, err = export("--to", "merged", "--dtype", dtype, "--out", "made")
    assert status == 0, err
    assert str(AutoModelForCausalLM.from_pretrained(tmp_path / "made").dtype) == f"torch.{dtype}"
    assert 0 < result["differences"]["read_back"]["relative"] < limit


def test_a_wrong_merge_is_found_and_leaves_nothing(tmp_path, export, monkeypatch):
    run_on(tmp_path, "qwen2-tied")
    monkeypatch.setattr(merge, "_add", lambda model, adapter: None)
    status, _, err = export("--to", "merged", "--out", "made")
    assert status == 1
    assert "The merged model differs from base model and adapter" in err
    assert {path.name for path in tmp_path.iterdir()} == {"base", "run"}


def test_another_base_model_than_the_members_had_is_refused(tmp_path, export):
    run_on(tmp_path, "qwen2-tied")
    status, _, err = export("--to", "merged", "--model", BUILTIN_POLICY)
    assert status == 1
    assert "is not the base model of this run" in err


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_reads_back_to_the_same_logits_and_tokens(tmp_path, export, family):
    run_on(tmp_path, family)
    status, result, err = export("--to", "gguf", "--type", "f32", "--out", "made")
    assert status == 0, err
    assert result["differences"]["read_back"]["logits"] <= 1e-3
    assert result["differences"]["tokens_compared"] > 300
    file = gguf.GGUFReader(next((tmp_path / "made").glob("*.gguf")))
    assert ("output.weight" in {t.name for t in file.tensors}) == ("untied" in family or "rope" in family)


def test_a_gguf_file_in_half_precision_is_about_the_same(tmp_path, export):
    run_on(tmp_path, "qwen2-untied")
    status, result, err = export("--to", "gguf", "--type", "f16", "--out", "made")
    assert status == 0, err
    assert 1e-5 < result["differences"]["read_back"]["relative"] < 0.02


@pytest.mark.parametrize("policy", [BUILTIN_POLICY, SPLIT_POLICY])
def test_the_built_in_policies_tokenizers_are_carried_under_a_rule_that_cuts_alike(tmp_path, export, policy):
    name = "builtin" if policy is BUILTIN_POLICY else "builtin-split"
    export_runs.make_run(tmp_path / "run", policy, export_runs.settings(name), correct=(0, 5))
    status, result, err = export("--to", "gguf", "--type", "f32", "--out", "made")
    assert status == 0, err
    assert result["differences"]["read_back"]["logits"] <= 1e-3
    file = gguf.GGUFReader(next((tmp_path / "made").glob("*.gguf")))
    assert file.fields["tokenizer.ggml.pre"].contents() == "gpt-2"


def damaged(monkeypatch, what):
    if what == "order of q and k":
        monkeypatch.setattr(gguf_file, "_interleaved", lambda values, heads: values)
    elif what == "base of rope":
        monkeypatch.setattr(gguf.GGUFWriter, "add_rope_freq_base", lambda self, value: None)
    elif what == "merges":
        own = gguf.GGUFWriter.add_token_merges
        monkeypatch.setattr(gguf.GGUFWriter, "add_token_merges", lambda self, merges: own(self, merges[:3]))
    elif what == "rule":
        monkeypatch.setattr(gguf_vocabulary, "_rule", lambda described: "qwen2")
    else:
        monkeypatch.setattr(gguf_file, "rope_factors", lambda config: None)


@pytest.mark.parametrize(("what", "says"), [
    ("order of q and k", "differs from the merged model by more than rounding"),
    ("base of rope", "In the GGUF file rope.freq_base is None"),
    ("merges", "The tokenizer in the GGUF file splits"),
    ("rule", "The tokenizer in the GGUF file splits"),
    ("factors of rope", "rope frequency factors differ from the model's"),
])  # fmt: skip
def test_a_file_that_says_something_else_is_found_and_not_left(tmp_path, export, monkeypatch, what, says):
    run_on(tmp_path, "llama-3-rope")
    damaged(monkeypatch, what)
    status, _, err = export("--to", "gguf", "--type", "f32", "--out", "made")
    assert status == 1
    assert says in err
    assert not (tmp_path / "made").exists()


def test_llama_3_rope_is_what_transformers_turns_by():
    config = LlamaConfig(**export_runs.SMALL, rope_parameters=export_runs.LLAMA3_ROPE)
    plain = LlamaConfig(**export_runs.SMALL, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    scaled, own = (LlamaForCausalLM(c).model.rotary_emb.inv_freq.numpy() for c in (config, plain))
    np.testing.assert_allclose(own / gguf_file.rope_factors(config), scaled, rtol=1e-5)


@pytest.mark.parametrize(("change", "says"), [
    ({"architectures": ["MistralForCausalLM"]}, "does not support MistralForCausalLM. Supported are Qwen2ForCausalLM"),
    ({"hidden_act": "gelu"}, "activation silu"),
    ({"use_sliding_window": True}, "does not support a sliding window"),
    ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope of the type dynamic"),
])  # fmt: skip
def test_what_gguf_cannot_describe_is_refused_with_what_it_can(change, says):
    config = Qwen2Config(**{"architectures": ["Qwen2ForCausalLM"], **change})
    with pytest.raises(ConfigError, match=says):
        gguf_file.check_architecture(config)


def test_a_tokenizer_whose_rule_has_no_name_is_refused():
    tokenizer = export_runs.make_tokenizer("qwen2")
    assert gguf_vocabulary.vocabulary(tokenizer, 500).rule == "qwen2"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    assert gguf_vocabulary.vocabulary(tokenizer, 500).rule == "smollm"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)]
    )
    with pytest.raises(ConfigError, match="one that GGUF has no name for"):
        gguf_vocabulary.vocabulary(tokenizer, 500)
    with pytest.raises(ConfigError, match="tokens, but the model only has 400"):
        gguf_vocabulary.vocabulary(export_runs.make_tokenizer("qwen2"), 400)


def test_the_built_in_rule_is_refused_where_a_token_would_reach_over_a_cut():
    tokenizer = load_tokenizer(BUILTIN_POLICY)
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    assert gguf_vocabulary._rule(described) == "gpt-2"
    for token in ("\u01207", "\u0120\u0120"):
        described["model"]["vocab"][token] = 9999
        with pytest.raises(ConfigError):
            gguf_vocabulary._rule(described)
        del described["model"]["vocab"][token]


def fake_quantizer(tmp_path, monkeypatch, body):
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def test_quantised_types_are_made_by_llama_quantize_from_float32(tmp_path, export, monkeypatch):
    run_on(tmp_path, "qwen2-tied")
    fake_quantizer(tmp_path, monkeypatch, f'echo "$3" > {tmp_path}/asked; cp "$1" "$2"')
    status, result, err = export("--to", "gguf", "--type", "q4_k_m", "--out", "made")
    assert status == 0, err
    assert (tmp_path / "asked").read_text() == "Q4_K_M\n"
    assert [path.name for path in (tmp_path / "made").glob("*.gguf")] == ["base-fedgrpo-q4_k_m.gguf"]
    assert result["differences"]["read_back"]["logits"] == 0.0  # the fake one copies


@pytest.mark.parametrize("body", ["echo disk is full >&2; exit 3", "echo done >&2"])
def test_a_quantizer_that_fails_is_told_and_leaves_nothing(tmp_path, export, monkeypatch, body):
    run_on(tmp_path, "qwen2-tied")
    fake_quantizer(tmp_path, monkeypatch, body)
    status, _, err = export("--to", "gguf", "--type", "q8_0", "--out", "made")
    assert status == 1
    assert ("disk is full" if "full" in body else "ended with status 0 and did not write q8_0") in err
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_the_exported_adapter_opens_in_vllm(tmp_path, export, monkeypatch):
    vllm = pytest.importorskip("vllm", reason="vllm is not installed in this environment")
    from vllm.lora.request import LoRARequest

    for name, value in VLLM_ON_CPU.items():
        monkeypatch.setenv(name, value)
    base = export_runs.make_base(tmp_path / "base", "qwen2", num_attention_heads=2, num_key_value_heads=1)
    adapter = export_runs.make_run(tmp_path / "run", base, export_runs.settings(str(base)), correct=(0, 5))[-1]
    assert export("--out", "made")[0] == 0
    engine = vllm.LLM(str(base), enable_lora=True, max_lora_rank=8, enforce_eager=True, dtype="float32")
    one = vllm.SamplingParams(temperature=0.0, max_tokens=8)
    prompt = {"prompt_token_ids": IDS[0].tolist()}
    [found] = engine.generate([prompt], one, lora_request=LoRARequest("fed", 1, str(tmp_path / "made")))
    model = attach(load_base(base, "float32", CPU), adapter).model.eval()
    expected = model.generate(input_ids=IDS, max_new_tokens=8, do_sample=False)[0, IDS.shape[1] :].tolist()
    assert list(found.outputs[0].token_ids) == expected
