"""Tools and environments: the organisation's own, called by the policy, judged by the rewards, unlearned and unsent."""

import pytest
import tiny_qwen
import torch
from fedgrpo.client.learner.data.problems import Problem
from fedgrpo.client.learner.models.base_model import Base
from fedgrpo.client.learner.rewards import Reward, load_rewards
from fedgrpo.client.learner.samplers import Sampled
from fedgrpo.client.learner.service.job_handler import JobHandler
from fedgrpo.client.learner.tools import load_tools
from fedgrpo.client.learner.training.local_learner import LoadedModel
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages import frames
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from learners import make_config, make_learner
from organisations import organisation_file

SECRET = "canary-patient-7"
TOOLS = f'''
CALLS = []


def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: one number
        b: the other
    """
    CALLS.append((a, b))
    return f"<answer>{{a + b}}</answer> {SECRET}"
'''
SHOP = '''
class Shop:
    """A shop with a number of apples."""

    made = 0

    def __init__(self):
        Shop.made += 1
        self.number, self.bought = Shop.made, 0

    def reset(self, **row):
        """A new customer."""
        self.bought = 0
        return f" You are in shop {self.number}."

    def buy(self, apples: int) -> str:
        """Buy some.

        Args:
            apples: how many
        """
        self.bought += apples
        return f"{self.bought} bought"

    def get_reward(self):
        """What was bought."""
        return float(self.bought)

    def _count(self):
        return 0
'''
CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
PROBLEMS = [Problem(f"What is {n} plus 2?", str(n + 2)) for n in range(12)]


class Script:
    """A sampler that writes what it is told: the first of each group calls a tool, then all answer."""

    def __init__(self, tokenizer, first, then):
        self.tokenizer, self.first, self.then, self.asked = tokenizer, first, then, []
        self.ends = (tokenizer.eos_token_id,)

    def sample(self, prompts, sampling, *, count=1, base=False):
        texts = [self.tokenizer.decode(ids) for ids in prompts]
        self.asked.append((texts, count))
        return [[self._said(text, i * count + j) for j in range(count)] for i, text in enumerate(texts)]

    def _said(self, prompt, number):
        answered = prompt.rstrip().endswith("assistant") and "<tool_response>" in prompt
        text = self.then if answered else self.first[number % len(self.first)]
        return Sampled(
            [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id], True
        )

    def close(self):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tools")
    tiny_qwen.make(place / "model")
    (place / "tools.py").write_text(TOOLS)
    (place / "shop.py").write_text(SHOP)
    return place


def learner_of(folder, box, rewards, first, then, tokens=250):
    longer = {"grpo__max_completion_length": tokens, "grpo__max_prompt_length": 1000, "train__steps_per_round": 1}
    config = make_config(**longer)
    base = Base.load(folder / "model", "float32", torch.device("cpu"))
    model = LoadedModel(base, config, PROBLEMS[0], box=box)
    script = Script(base.tokenizer, first, then)
    model.trainer.sampler = model.trainer.trainer.sampler = script
    return model, make_learner(model, shard=PROBLEMS, rewards=rewards), script


def trained(model, learner):
    task = TrainTask(federation="f", round=1, attempt=1, adapter=Adapter.initial(model.schema), position=0)
    batches, real = [], model.trainer.trainer._generate_and_score_completions

    def listen(inputs):
        batches.append(real(inputs))
        return batches[-1]

    model.trainer.trainer._generate_and_score_completions = listen
    return learner.train(task), batches[0]


def test_a_tool_is_called_seen_by_rewards_and_no_loss_is_taken_on_what_it_says(folder):
    seen = []

    def listen(completions, **_):
        seen.extend(completions)
        return [float(len(c)) for c in completions]

    box = load_tools(str(folder / "tools.py"), "", 4)
    first = [CALL.format("add", '{"a": 20, "b": 22}'), "I give up."]
    rewards = (Reward("listen", 1.0, listen, "test"),)
    model, learner, script = learner_of(folder, box, rewards, first, "So it is 42.")
    seen.clear()  # the trial at construction
    update, batch = trained(model, learner)
    assert box.tools[0].__globals__["CALLS"] == [(20, 22)] * 4
    assert '"name": "add"' in script.asked[0][0][0]  # the prompt shows the tool
    assert [count for _, count in script.asked] == [4, 1]
    roles = [[message["role"] for message in completion] for completion in seen]
    assert roles == [["assistant", "tool", "assistant"], ["assistant"]] * 4
    kept = batch["completion_ids"][0][(batch["completion_mask"] * batch["tool_mask"])[0].bool()]
    learned = script.tokenizer.decode(kept)
    assert "So it is 42." in learned
    assert "<tool_call>" in learned
    assert SECRET not in learned
    assert SECRET in script.tokenizer.decode(batch["completion_ids"][0])
    assert update.delta.any()


def test_an_answer_that_only_a_tool_gave_is_not_paid():
    """As where the completion's tokens are used up before the model can say anything to it."""
    (paid,) = load_rewards("correctness")
    asked = [{"role": "assistant", "content": "I ask"}, {"role": "tool", "content": "<answer>7</answer>"}]
    answered = [*asked, {"role": "assistant", "content": "<answer>7</answer>"}]
    assert paid(completions=[asked, answered], answer=["7", "7"]) == [0.0, 2.0]


def test_what_a_tool_says_does_not_leave(folder):
    box = load_tools(str(folder / "tools.py"), "", 4)
    first = [CALL.format("add", '{"a": 1, "b": 2}'), "No."]
    model, learner, _ = learner_of(folder, box, load_rewards("xml-count,correctness"), first, f"It said {SECRET}.")
    update, _ = trained(model, learner)
    assert SECRET.encode() not in frames.frame_of(update).pack()
    assert not [name for name in update.metrics if "tool" in name]
    assert SECRET.encode() not in repr(learner.capabilities()).encode()


def test_a_tool_that_is_not_there_or_fails_is_told_to_the_policy_and_ends_nothing(folder):
    seen = []

    def listen(completions, **_):
        seen.extend(completions)
        return [float(i) for i in range(len(completions))]

    box = load_tools(str(folder / "tools.py"), "", 4)
    first = [CALL.format("rob", "{}"), CALL.format("add", '{"a": 1}'), "<tool_call>\n{broken"]
    model, learner, _ = learner_of(folder, box, (Reward("listen", 1.0, listen, "test"),), first, "Well.")
    seen.clear()
    trained(model, learner)
    said = [message["content"] for completion in seen for message in completion if message["role"] == "tool"]
    assert any("Tool rob not found" in text for text in said)
    assert any("missing 1 required positional argument" in text for text in said)


def test_turns_bound_how_often_tools_are_called(folder):
    box = load_tools(str(folder / "tools.py"), "", 2)
    again = CALL.format("add", '{"a": 1, "b": 1}')
    rising = Reward("rising", 1.0, lambda completions, **_: [float(i) for i in range(len(completions))], "test")
    model, learner, script = learner_of(folder, box, (rising,), [again], again, tokens=700)
    trained(model, learner)
    assert len(script.asked) == 1 + 2


def test_each_rollout_has_an_environment_of_its_own_that_begins_and_pays_it(folder):
    box = load_tools("", f"{folder / 'shop.py'}:Shop", 4)
    first = [CALL.format("buy", '{"apples": 3}'), "I buy nothing."]
    model, learner, script = learner_of(folder, box, box.rewards(), first, "Thanks.")
    update, _ = trained(model, learner)
    prompts, count = script.asked[0]
    assert (len(prompts), count) == (8, 1)  # each begins in its own way, so none is sampled for another
    assert len({prompt.partition("You are in shop")[2] for prompt in prompts}) == 8
    assert update.metrics["reward/Shop/mean"] == pytest.approx(1.5)
    assert learner.capabilities().reward_names == ("Shop",)
    assert update.delta.any()


@pytest.mark.parametrize(
    ("code", "spec", "says"),
    [
        ("def f(a):\n    'Do.'\n", "", "The tool f in .* type hint"),
        ("def f(a: int):\n    pass\n", "", "The tool f in .* docstring"),
        ("def f(a: int):\n    '''Do.\n\n    Args:\n        b: other\n    '''\n", "", "The tool f in "),
        (
            "def f(a: 'Unknown'):\n    '''Do.\n\n    Args:\n        a: one\n    '''\n",
            "",
            "The tool f in .* 'Unknown' is not defined",
        ),
        ("def f(a: str):\n    '''Do.\n\n    Args:\n        a: (choices: [b])\n    '''\n", "", "The tool f in "),
        ("x = 1\n", "", "defines no public function"),
        ("x = 1\n1 / 0\n", "", r"tool file .* cannot be imported: ZeroDivisionError.*, line 2"),
        ("class E:\n    pass\n", ":E", "no method reset"),
        ("class E:\n    def __init__(self, x): pass\n    def reset(self): pass\n", ":E", "cannot be created"),
        ("class E:\n    def reset(self): pass\n    def go(self, x): pass\n", ":E", "The tool go in "),
        ("class E:\n    def reset(self): pass\n    async def get_reward(self): pass\n", ":E", "async get_reward"),
        ("", ":E", "has no class E"),
        ("", "", "defines no public function"),
        (
            "import functools\ndef _f(a: int): pass\nf = functools.partial(_f, 1)\n",
            "",
            "f in .* is a functools.partial, not",
        ),
        ("class T:\n    def __call__(self): pass\nt = T()\n", "", "t in .* is an instance of T, not a function"),
    ],
)
def test_what_cannot_be_a_tool_is_named_before_a_model_is_loaded(tmp_path, code, spec, says):
    (tmp_path / "mine.py").write_text(code)
    own = {"tools__environment": f"mine.py{spec}"} if spec else {"tools__use": "mine.py"}
    (tmp_path / "train.jsonl").write_text('{"question": "a", "answer": "1"}\n' * 30)
    with pytest.raises(ConfigError, match=says):
        JobHandler(organisation_file(tmp_path, data__held_out_share=0.0, **own))


def test_a_model_without_a_place_for_tools_is_refused(folder):
    base = Base.load(BUILTIN_POLICY, "float32", torch.device("cpu"))
    box = load_tools(str(folder / "tools.py"), "", 4)
    with pytest.raises(ConfigError, match="chat template of the model in .* does not support them"):
        LoadedModel(base, make_config(), PROBLEMS[0], box=box)


def test_an_organisations_tools_are_part_of_what_a_result_depends_on(tmp_path, folder):
    (tmp_path / "train.jsonl").write_text('{"question": "a", "answer": "1"}\n' * 30)
    (tmp_path / "tools.py").write_text(TOOLS)
    own = organisation_file(tmp_path, data__held_out_share=0.0, tools__use="tools.py")
    before = JobHandler(own).identity
    (tmp_path / "tools.py").write_text(TOOLS.replace("a + b", "a - b"))
    assert JobHandler(own).identity != before
