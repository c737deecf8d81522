"""The recipes of the field: each says what the field says, and runs, federated and centrally."""

import json
import random

import pytest
import tiny_qwen
import torch
from fedgrpo.client.learner.models.base_model import Base, load_tokenizer
from fedgrpo.client.learner.models.process import prepare_process
from fedgrpo.client.learner.training.trl_config import trl_config
from fedgrpo.client.main import app
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.main import run_federation
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.api.settings import simulated_settings
from fedgrpo.simulations.engine.grid import LocalGrid, LocalWorker
from fedgrpo.simulations.engine.runner import scenario
from fedgrpo.simulations.engine.simulated_clients import client_rewards
from fedgrpo.simulations.study.arms import rollouts

ATTENTION = "q_proj,k_proj,v_proj,o_proj"
ALL_SEVEN = f"{ATTENTION},gate_proj,up_proj,down_proj"
QWEN = "Qwen/Qwen2.5-{}-Instruct"
# model, 4-bit, rank, layers, completions per prompt, learning rate, beta, tokens, norm of the gradient, optimizer
RECIPES = {
    "qwen0.5b-think": ("0.5B", "4bit", 16, ATTENTION, 8, 5e-6, 0.04, 256, 0.1, "adamw_8bit"),
    "qwen3b-unsloth": ("3B", "4bit", 32, ALL_SEVEN, 8, 5e-6, 0.04, 512, 0.1, "adamw_8bit"),
    "qwen0.5b-five-rewards": ("0.5B", "none", 16, ALL_SEVEN, 16, 5e-6, 0.04, 200, 0.1, "adamw_torch_fused"),
    "qwen14b-weighted": ("14B", "4bit", 64, ALL_SEVEN, 8, 5e-6, 0.05, 200, 0.1, "adamw_8bit"),
    "qwen0.5b-verl": ("0.5B", "none", 32, "all-linear", 5, 3e-5, 0.001, 1024, 1.0, "adamw_torch_fused"),
}
PAID = {  # what a right answer in the recipe's own form is paid, and a wrong one without form
    "qwen0.5b-think": ("<think>9 + 9</think><answer>18</answer>", 2.75),
    "qwen3b-unsloth": ("<reasoning>\n9 + 9\n</reasoning>\n<answer>\n18\n</answer>", 2.5),
    "qwen0.5b-five-rewards": ("<reasoning>\n9 + 9\n</reasoning>\n<answer>\n18\n</answer>", 4.0),
    "qwen14b-weighted": ("<reasoning>\n9 + 9\n</reasoning>\n<answer>\n18\n</answer>", 1.0),
    "qwen0.5b-verl": ("9 + 9 = 18\n#### 18", 1.0),
}
DIGITS = '''
def digits(completions, **columns):
    """The share of digits, which varies among the completions of a random model."""
    texts = [c[0]["content"] for c in completions]
    return [sum(x.isdigit() for x in text) / max(1, len(text)) for text in texts]
'''
# What a CPU and a test ask for; what makes the recipe stays: model family, layers, group, KL, loss, optimizer's rates.
SMALL = {
    "model.dtype": "float32",
    "backend.sampler": "transformers",
    "backend.loader": "transformers",
    "backend.quantization": "none",
    "grpo.optim": "adamw_torch",
    "grpo.warmup-ratio": 0.0,
    "grpo.gradient-accumulation-steps": 1,
    "grpo.max-completion-length": 6,
    "grpo.max-prompt-length": 1024,
    "adapter.rank": 4,
    "federation.rounds": 2,
    "train.steps-per-round": 1,
    "evaluation.problems": 4,
    "evaluation.every": 0,
    "simulation.clients": 2,
}


def problem(draw):
    one, other = draw.randint(2, 40), draw.randint(2, 40)
    working = f"In all she has {one}+{other}=<<{one}+{other}={one + other}>>{one + other}.\n#### {one + other}"
    return json.dumps({"question": f"Ann has {one} eggs and buys {other}. How many?", "answer": working})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny Qwen2, GSM8K-shaped problems, and a reward that varies."""
    folder, draw = tmp_path_factory.mktemp("recipes"), random.Random(0)
    tiny_qwen.make(folder / "model")
    for split, count in (("train", 16), ("test", 4)):
        (folder / f"{split}.jsonl").write_text("\n".join(problem(draw) for _ in range(count)))
    (folder / "digits.py").write_text(DIGITS)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_settings_reach_trl_as_the_field_has_them(name):
    size, quantization, rank, layers, group, rate, beta, tokens, norm, optim = RECIPES[name]
    config = scenario(name)
    assert config.model.name == QWEN.format(size)
    assert config.backend.quantization == quantization
    assert (config.adapter.rank, config.adapter.target_modules) == (rank, layers)
    args = trl_config(config, torch.device("cpu"))
    assert (args.num_generations, args.learning_rate, args.beta) == (group, rate, beta)
    assert (args.max_completion_length, args.max_grad_norm, args.optim) == (tokens, norm, optim)
    assert args.generation_batch_size == args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert config.grpo.kl_reference == "base"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_rewards_pay_a_right_answer_in_its_form_in_full(name):
    text, paid = PAID[name]
    rewards = client_rewards(scenario(name))[0]

    def total(text):
        row = {"prompts": [""], "completions": [text], "answer": ["18"], "completion_ids": [[0]]}
        return sum(reward.weight * reward(**row)[0] for reward in rewards)

    assert total(text) == pytest.approx(paid)
    assert total(text.replace("18", "17")) < total(text)
    assert total("17, I think") == 0


@pytest.mark.parametrize("name", RECIPES)
def test_central_takes_the_steps_of_all_clients_at_equal_rollouts(name):
    federated, central = (simulated_settings(scenario(name), central=c) for c in (False, True))
    assert rollouts(central) == rollouts(federated)
    assert central.simulation.clients == central.federation.min_clients == central.federation.start_clients == 1
    assert central.train.steps_per_round == 4 * federated.train.steps_per_round
    assert central.grpo == federated.grpo


def test_the_small_verl_recipe_samples_as_many_completions_as_the_log():
    config = scenario("qwen0.5b-verl")
    assert config.grpo.prompts_per_step == 64
    assert 37_120 <= rollouts(config) <= 1.05 * 37_120


@pytest.mark.e2e
@pytest.mark.parametrize("central", [False, True], ids=["federated", "central"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_a_tiny_model_of_its_architecture(name, central, place, tmp_path):
    config = scenario(name)
    own = {
        "model.name": str(place / "model"),
        "grpo.per-device-train-batch-size": config.grpo.num_generations,
        "grpo.learning-rate": 1e-3,
        "simulation.data": str(place),
        "simulation.rewards": f"{config.simulation.rewards},{place / 'digits.py'}",
        "output.dir": str(tmp_path),
        "output.run": "run",
    }
    config = simulated_settings(config.with_values({**SMALL, **own}), central=central)
    clients = config.simulation.clients
    nodes = {k + 2: {"partition-id": k, "num-partitions": clients} for k in range(clients)}
    worker = LocalWorker(app, nodes, config.flat())
    grid = LocalGrid(dict.fromkeys(nodes, worker))
    run_federation(grid, config)
    grid.close()
    run = Run.read(tmp_path / "run")
    assert [line.round for line in run.rounds] == [1, 2]
    assert all(len(line.clients) == clients for line in run.rounds)
    adapters = [read_peft(tmp_path / "run" / "adapters" / f"000{number}").sha256 for number in range(3)]
    assert len(set(adapters)) == 3  # each round moved it
    told = run.rounds[-1].clients["client-0"].reported
    assert told["reward/digits/std"] > 0
    assert {f"reward/{reward.name}/mean" for reward in client_rewards(config)[0]} <= set(told)
    assert told["policy/kl"] > 0  # measured from the base, and the adapter has moved since


def test_the_tiny_model_is_of_the_recipes_architecture(place):
    base = Base.load(place / "model", "float32", prepare_process())
    assert base.model.config.architectures == ["Qwen2ForCausalLM"]
    names = {name.rpartition(".")[2] for name, _ in base.model.named_modules()}
    assert set(ALL_SEVEN.split(",")) <= names
    tokens = load_tokenizer(place / "model")
    assert type(tokens).__name__.startswith("Qwen2")
    assert tokens.decode(tokens("17 é<think>")["input_ids"]) == "17 é<think>"


def test_rounds_by_time_have_no_central_counterpart():
    with pytest.raises(ConfigError, match="no set number of rollouts"):
        simulated_settings(RunConfig().with_values({"train.seconds-per-round": 5.0}), central=True)


def test_a_run_in_one_call_is_only_saved_where_a_batch_of_completions_ends(tmp_path):
    values = {"train.steps-per-round": 4, "grpo.num-iterations": 3, "federation.rounds": 6}
    args = trl_config(RunConfig().with_values(values), torch.device("cpu"), tmp_path)
    assert args.save_steps == 12
    assert trl_config(RunConfig(), torch.device("cpu")).delta is None
    assert trl_config(RunConfig().with_values({"grpo.delta": 4.0}), torch.device("cpu")).delta == 4.0
