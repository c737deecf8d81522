"""What a plan says: shapes, memory, bytes, work, and settings that fit."""

import json
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from checkout import HEAVY
from federation import play, settings
from fedgrpo.common.adapter.schema import Module
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages import wire
from fedgrpo.common.settings.run_config import RunConfig, parse_override
from fedgrpo.simulations.engine.runner import SCENARIOS, scenario
from fedgrpo.simulations.planning import traffic
from fedgrpo.simulations.planning.memory import memory_parts
from fedgrpo.simulations.planning.parts import Machine, peak
from fedgrpo.simulations.planning.plan import make_plan
from fedgrpo.simulations.planning.shapes import from_config, shape_of
from fedgrpo.simulations.planning.workload import Speed, hours, work

PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "unsloth/Qwen2.5-3B-Instruct-bnb-4bit": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
}
GPU = Machine("cuda", 24 * 10**9)


def config(**values):
    return scenario("gsm8k").with_values({k.replace("__", ".").replace("_", "-"): v for k, v in values.items()})


def needs(machine=GPU, **values):
    chosen = config(**values)
    return peak(memory_parts(chosen, shape_of(chosen.model.name), machine))


def part(name, machine=GPU, **values):
    chosen = config(**values)
    return next(p.bytes for p in memory_parts(chosen, shape_of(chosen.model.name), machine) if p.name == name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_well_known_models_have_the_published_number_of_parameters(name):
    assert shape_of(name).parameters == PUBLISHED[name]


def test_a_folder_speaks_for_itself(tmp_path):
    widths = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 10, **widths}))
    # two embeddings of 10 x 8, four attention matrices of 8 x 8, three of 8 x 16, three norms of 8
    assert shape_of(str(tmp_path)).parameters == 2 * 80 + 4 * 64 + 3 * 128 + 3 * 8


@pytest.mark.parametrize(
    ("name", "what"), [("nobody/has-this-13b", "table of well-known models"), ("/nowhere", "no folder")]
)
def test_an_unknown_model_is_refused_in_words(name, what):
    with pytest.raises(ConfigError, match=what):
        shape_of(name)


def test_a_family_whose_layers_are_not_known_is_refused():
    with pytest.raises(ConfigError, match="gpt2"):
        from_config({"model_type": "gpt2"}, "its config.json")
    with pytest.raises(ConfigError, match="hidden_size"):
        from_config({"model_type": "llama", "num_attention_heads": 4}, "its config.json")


def test_parts_follow_their_formulas():
    trained = 16 * 24 * (896 + 128 + 128 + 896 + 4864 + 4864 + 896)  # B of all layers, rank 16
    both = trained + 16 * 24 * (5 * 896 + 896 + 4864)  # and A
    assert part("base model") == 2 * 494_032_768
    assert part("optimizer", aggregation__method="ffa") == 8 * trained
    assert part("optimizer", aggregation__method="ffa", grpo__optim="adamw_8bit") == 2 * trained
    assert part("gradients", aggregation__method="ffa") == 4 * trained
    assert part("adapter") == 4 * both
    assert part("gradients") == 4 * both
    assert part("gradients", aggregation__method="rolora") == 4 * trained  # B is the larger of the two
    assert part("reference adapter", grpo__beta=0.04, grpo__kl_reference="global") == 4 * both
    assert part("KV cache") == 25 * 2 * 2 * 128 * 32 * 768
    assert part("vLLM", backend__sampler="vllm", backend__gpu_memory_utilization=0.5) == 12 * 10**9


def test_4_bit_weights_take_a_bit_more_than_half_a_byte():
    linear = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    rest = 494_032_768 - linear
    assert part("base model", backend__quantization="4bit") == int(linear * 0.5625) + 2 * rest


def test_all_logits_at_once_are_what_surprises():
    at_once = part("logits", Machine("cuda", tiled_logits=False))
    assert at_once == 2 * 2 * 16 * 257 * 151_936
    assert at_once > 8 * part("logits")


def test_a_pass_of_half_the_completions_takes_half_the_activations_and_the_same_cache():
    half = {"grpo__per_device_train_batch_size": 8, "grpo__gradient_accumulation_steps": 4}
    assert part("activations", **half) * 2 == part("activations")
    assert part("KV cache", **half) == part("KV cache")


def test_a_proposal_fits_and_holds_nothing_that_is_not_needed():
    made = make_plan(config(model__name="Qwen/Qwen2.5-7B-Instruct"), Machine("cuda", 16 * 10**9), None)
    assert made.fits is False
    assert made.proposal_fits
    pairs = dict(parse_override(text) for text in made.options.replace("--set ", "").split())
    assert make_plan(made.config.with_values(pairs), made.machine, None).fits
    for turned in made.turned:
        fewer = {key: value for key, value in pairs.items() if key not in turned.values}
        assert not make_plan(made.config.with_values(fewer), made.machine, None).fits
    assert made.turned[-1].peak_bytes <= made.usable_bytes < made.peak_bytes


def test_smaller_passes_are_proposed_only_where_they_make_the_same_step():
    wasteful = {"grpo__max_completion_length": 4096, "backend__gradient_checkpointing": "off"}

    def knobs(loss):
        return {turned.knob.name for turned in make_plan(config(grpo__loss_type=loss, **wasteful), GPU, None).turned}

    assert "smaller passes" in knobs("grpo")
    assert "smaller passes" not in knobs("bnpo")  # it divides by the tokens of a pass


def test_what_costs_only_time_is_turned_first():
    wasteful = {"grpo__max_completion_length": 4096, "backend__gradient_checkpointing": "off"}
    made = make_plan(config(**wasteful), GPU, None)
    assert made.fits is False
    assert made.proposal_fits
    assert {turned.knob.name for turned in made.turned} <= {
        "smaller passes",
        "evaluation in smaller batches",
        "gradient checkpointing",
    }


def test_vllm_is_not_left_less_than_its_own_base_model():
    large = {"model__name": "Qwen/Qwen2.5-14B-Instruct", "backend__quantization": "4bit", "backend__sampler": "vllm"}
    made = make_plan(config(**large, backend__gpu_memory_utilization=0.6), GPU, None)
    assert made.fits is False
    kept = [t.values["backend.gpu-memory-utilization"] for t in made.turned if t.knob.name == "less for vLLM"]
    assert all(share * 24e9 > part("base model", **large) for share in kept)
    starved = make_plan(config(**large, backend__gpu_memory_utilization=0.2), Machine("cuda", 48 * 10**9), None)
    assert starved.peak_bytes < starved.usable_bytes
    assert starved.fits is False
    assert starved.vllm_lacks > 0


def test_a_plan_says_when_nothing_helps():
    made = make_plan(config(model__name="Qwen/Qwen2.5-32B-Instruct"), Machine("cuda", 6 * 10**9), None)
    assert made.fits is False
    assert not made.proposal_fits


def test_clients_of_other_ranks_need_base_models_of_their_own():
    one = make_plan(config(), GPU, None)
    two = make_plan(config(simulation__ranks="0;8"), GPU, None)
    assert make_plan(config(simulation__clients=8), GPU, None).peak_bytes == one.peak_bytes
    assert two.models == 2
    assert two.peak_bytes - one.peak_bytes > 2 * 494_032_768


@pytest.mark.parametrize("method", ["ffa", "rolora", "svd"])
@pytest.mark.parametrize(("up", "down"), [("fp32", "fp32"), ("bf16", "bf16")])
def test_bytes_are_those_of_a_run(tmp_path, method, up, down):
    given = {"aggregation__method": method, "compression__up": up, "compression__down": down}
    chosen = settings(tmp_path, **given, simulation__rewards="correctness")
    run = play(chosen)
    shape = SimpleNamespace(modules=lambda target: (Module("layer.0", 6, 5), Module("layer.1", 5, 4)))
    found = traffic.traffic(chosen, shape)
    assert found.exact
    for line, planned_up, planned_down in zip(run.rounds, found.up, found.down, strict=True):
        assert planned_up == line.bytes_up
        assert planned_down == line.bytes_down


def test_bytes_of_an_array_in_several_chunks_are_those_of_its_message():
    vector = np.random.default_rng(0).normal(size=3_000_001).astype(np.float32)
    whole = wire.wire_bytes(wire.pack({}, array=wire.packed(vector)))
    empty = wire.pack({}, array=wire.packed(traffic.NOTHING))
    assert traffic._with_numbers(empty, vector.size, 4 * vector.size) == whole


def test_compressed_bytes_are_a_bound():
    shape = shape_of("builtin")
    exact, bound = (
        traffic.traffic(scenario("builtin").with_values({"compression.up": c}), shape) for c in ("fp32", "int8")
    )
    assert not bound.exact
    assert bound.up[0] < exact.up[0] / 3


def test_work_counts_what_a_run_does():
    done = work(config(federation__rounds=3, evaluation__every=2, grpo__num_iterations=2))
    assert done.completions == 4 * 3 * 5 * 32  # clients, rounds, batches of 10 steps that use each twice, completions
    assert done.evaluated == 5 * 300  # greedy and sampled at both ends, sampled after round 2
    assert done.tokens == done.completions * 256


def test_hours_are_said_only_where_a_speed_is_known():
    done = work(config())
    assert make_plan(config(), GPU, None).hours is None
    given = hours(done, Speed(tokens_per_second=1000.0))
    assert given.sampling == pytest.approx(done.tokens / 1000 / 3600)
    assert given.total is None
    full = hours(done, Speed(tokens_per_second=1000.0, update_seconds=2.0, mean_length=128.0))
    assert full.update == pytest.approx(4 * 200 * 2 / 3600)
    assert full.sampling == pytest.approx(given.sampling / 2)
    assert full.total == pytest.approx(full.sampling + full.update + full.evaluation)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_scenario_that_comes_along_has_a_plan_without_a_network(path, monkeypatch):
    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    made = make_plan(scenario(path.stem), Machine("cuda", 80 * 10**9), None)
    assert made.fits or made.proposal_fits
    assert made.as_json()["memory"]["peak_bytes"] > 0


def fedgrpo(*arguments):
    code = (
        f"import sys; sys.modules |= dict.fromkeys({sorted(HEAVY)!r}); from fedgrpo.common.cli.main import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_the_command_needs_no_torch_and_answers_in_json():
    done = fedgrpo("plan", "gsm8k", "--gpu", "24GB", "--tokens-per-second", "1000", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["model"]["parameters"] == 494_032_768
    assert found["memory"]["fits"] is True
    assert found["hours"]["total"] is None


def test_the_command_says_in_words_what_to_turn():
    done = fedgrpo("plan", "gsm8k", "--gpu", "16GB", "--model", "Qwen/Qwen2.5-7B-Instruct")
    assert done.returncode == 0, done.stderr
    assert "does not fit" in done.stdout
    assert "--set " in done.stdout
    assert "Hours: not known" in done.stdout


@pytest.mark.parametrize("size", ["24", "GB", "0GB", "24 parsecs"])
def test_a_size_that_is_none_is_refused(size):
    done = fedgrpo("plan", "gsm8k", "--gpu", size)
    assert done.returncode == 1
    assert "Write it as in 24GB" in done.stderr


def test_the_plan_is_of_the_settings_given():
    assert needs(grpo__max_completion_length=512) > needs()
    assert RunConfig().with_values(config().flat()) == config()
