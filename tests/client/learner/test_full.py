"""Full fine-tuning at one site: TRL's own numbers, no adapter, resumed as if it never stopped."""

import json

import pytest
import torch
from datasets import Dataset
from fedgrpo.client.learner.data.problems import reading_order
from fedgrpo.client.learner.models.base_model import load_base, load_tokenizer
from fedgrpo.client.learner.models.model_files import file_hash
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.learner.training.full import FullTrainer, check_full
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY, divide
from fedgrpo.simulations.finetune.finetune import finetune, settings_of
from trl import GRPOConfig, GRPOTrainer

SMALL = {
    "federation.rounds": 3,
    "train.steps-per-round": 2,
    "grpo.num-generations": 4,
    "grpo.per-device-train-batch-size": 8,
    "grpo.max-completion-length": 44,
    "grpo.learning-rate": 1e-3,
    "grpo.lr-scheduler-type": "linear",
    "simulation.clients": 1,
    "simulation.problems": 24,
    "evaluation.problems": 8,
}


def settings(folder, **changes):
    values = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return RunConfig().with_values({**SMALL, "output.dir": str(folder), "output.run": "run", **values})


class Stop(Exception):
    """Stands for Ctrl-C, or a crash."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = settings(tmp_path_factory.mktemp("full"))
    return config, finetune(config, lambda line: None)


def test_all_weights_are_those_of_plain_trl(finished, tmp_path):
    config, done = finished
    base = load_base(BUILTIN_POLICY, "float32", torch.device("cpu"))
    shard = divide(config)[0][0]
    order = reading_order(len(shard), 0, 12, seed=0, reader="client-0")
    trainer = GRPOTrainer(
        model=base,
        reward_funcs=[*load_rewards("gsm8k")],
        args=GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=6,
            num_generations=4,
            per_device_train_batch_size=8,
            max_completion_length=44,
            learning_rate=1e-3,
            lr_scheduler_type="linear",
            adam_beta2=0.99,
            seed=0,
            shuffle_dataset=False,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([shard[i].row("") for i in order]),
        processing_class=load_tokenizer(BUILTIN_POLICY),
    )
    torch.manual_seed(0)
    trainer.train()
    ours = load_base(done.folder / "model", "float32", torch.device("cpu")).state_dict()
    begin = load_base(BUILTIN_POLICY, "float32", torch.device("cpu")).state_dict()
    for name, theirs in base.state_dict().items():
        assert not torch.equal(begin[name], theirs), name  # every weight trains
        torch.testing.assert_close(ours[name], theirs, atol=1e-5, rtol=0)


def test_the_result_names_a_model_folder_that_any_command_takes(finished):
    _, done = finished
    found = done.as_json()
    assert found["sha256"] == file_hash(done.folder / "model")
    assert (done.folder / "model" / "tokenizer.json").read_bytes() == (BUILTIN_POLICY / "tokenizer.json").read_bytes()
    lines = read_lines(done.folder / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    totals = {line["decoding"]: line["total"] for line in lines if line["kind"] == "evaluation"}
    assert totals["sampled"]["correct"] == found["accuracy"]["after"] * 8
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(ConfigError, match="is finished: its model is in"):
        settings_of(done.folder)


def test_a_run_that_was_stopped_ends_with_the_same_model_bit_for_bit(finished, tmp_path):
    config = settings(tmp_path)

    def stop(line):
        if line.startswith("step 5"):  # after the checkpoint of step 4, and one step more
            raise Stop

    with pytest.raises(Stop):
        finetune(config, stop)
    folder = tmp_path / "run"
    assert not (folder / "model").exists()
    cut_off = folder / "checkpoints" / "checkpoint-6"
    cut_off.mkdir()
    (cut_off / "model.safetensors").write_bytes(b"half")
    said = []
    again = finetune(settings_of(folder), said.append)
    assert [line.split(":")[0] for line in said[1:]] == ["step 5 of 6", "step 6 of 6"]
    assert again.sha256 == finished[1].sha256
    assert again.scores == finished[1].scores
    steps = [line["step"] for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"simulation__clients": 4}, "with one client only: clients send an adapter, never all weights. Use --central"),
        ({"backend__sampler": "vllm"}, "vLLM needs an adapter, and there is none"),
        ({"backend__quantization": "4bit"}, "quantized weights cannot be trained"),
        ({"grpo__beta": 0.1, "grpo__kl_reference": "global"}, "no global adapter to measure from"),
        ({"simulation__tools": "tools.py"}, "tools are not supported yet. Set it to nothing"),
        ({"train__prox": 0.1}, "no global adapter to stay near"),
    ],
)
def test_what_needs_an_adapter_is_refused_with_the_reason(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        finetune(settings(tmp_path, **changes), print)
    assert not (tmp_path / "run").exists()


def test_one_client_of_several_is_one_site(tmp_path):
    check_full(settings(tmp_path, simulation__clients=4, simulation__only=2))


def test_the_kl_is_measured_from_the_model_it_began_with(tmp_path):
    config = settings(tmp_path, grpo__beta=0.01, grpo__kl_reference="base", federation__rounds=1)
    finetune(config, lambda line: None)
    kls = [line["train/kl"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "step"]
    assert abs(kls[0]) < 1e-6 < kls[1]


def test_a_folder_of_another_run_is_not_written_over(finished, tmp_path):
    config = settings(tmp_path, federation__rounds=1, train__steps_per_round=1)
    federated = tmp_path / "run"
    federated.mkdir()
    (federated / "config.resolved.toml").write_text(config.to_toml())
    (federated / "journal.jsonl").write_text('{"event": "CREATED"}\n')
    with pytest.raises(ConfigError, match="is not a run folder of fedgrpo finetune"):
        finetune(config, print)
    (federated / "journal.jsonl").unlink()
    with pytest.raises(ConfigError, match="holds a run whose federation.seed is 0, not 1. Use --resume"):
        finetune(config.with_values({"federation.seed": 1}), print)
    assert (federated / "config.resolved.toml").read_text() == config.to_toml()
    with pytest.raises(ConfigError, match="is finished"):
        finetune(finished[0], print)


def test_a_run_that_was_stopped_after_its_last_step_has_only_to_be_answered_and_written(
    finished, tmp_path, monkeypatch
):
    def stop(self, folder):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(FullTrainer, "save", stop)
        with pytest.raises(Stop):
            finetune(settings(tmp_path), lambda line: None)
    said = []
    again = finetune(settings_of(tmp_path / "run"), said.append)
    assert said[1:] == []
    assert (again.sha256, again.scores, again.rewards) == (
        finished[1].sha256,
        finished[1].scores,
        finished[1].rewards,
    )
