"""An organisation's own reward set: loading, and a check at every call."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from fedgrpo.client.learner.rewards import absolute_paths, load_rewards, try_rewards
from fedgrpo.common.errors import ConfigError, RewardError

ROW = {"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}
OWN = """
import math
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
def cites_source(completions, answer, **kwargs):
    return [1.0 if "source" in c[0]["content"] else None for c in completions]
def short(completions, **kwargs):
    return [-len(c[0]["content"]) / 100 for c in completions]
async def slow(completions, **kwargs):
    return [0.25] * len(completions)
def _helper(x):
    return x
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def call(reward, *texts):
    return reward(completions=[[{"role": "assistant", "content": t}] for t in texts], answer=["2"] * len(texts))


def test_a_named_set_and_single_functions_with_weights():
    names = [(r.name, r.weight) for r in load_rewards("gsm8k")]
    assert names[0] == ("correctness", 1.0)
    assert len(names) == 5
    assert [(r.name, r.weight) for r in load_rewards("correctness=2, integer = .5")] == [
        ("correctness", 2.0),
        ("integer", 0.5),
    ]
    assert {r.name: r.weight for r in load_rewards("think=2")}["integer"] == 1.0


def test_built_in_functions_read_chat_messages_as_text():
    (reward,) = load_rewards("correctness")
    assert call(reward, "<answer>2</answer>", "2") == [2.0, 0.0]


def test_the_public_functions_of_a_file_are_rewards_in_trl_s_signature(own):
    cites, short, slow = load_rewards(str(own))
    assert (cites.name, short.name, slow.name) == ("cites-source", "short", "slow")
    assert call(cites, "source: x", "none") == [1.0, None]
    assert call(slow, "a", "b") == [0.25, 0.25]
    assert [r.name for r in load_rewards(f"{own}:short=0.5,correctness")] == ["short", "correctness"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("corectness", "no reward 'corectness'. Did you mean correctness. Known are gsm8k"),
        ("nowhere.py", "no reward file nowhere.py"),
        ("correctness=much", "weight 'much', which is not a number"),
        ("correctness,correctness", "a function twice"),
        ("", "no reward ''"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_is_known(spec, says):
    with pytest.raises(ConfigError, match=says):
        load_rewards(spec)


def test_a_file_that_fails_or_lacks_the_function_is_named(own, tmp_path):
    with pytest.raises(ConfigError, match="no function long. It has: cites_source, short, slow"):
        load_rewards(f"{own}:long")
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\nraise ValueError('no')\n")
    with pytest.raises(ConfigError, match=r"broken.py cannot be imported: ValueError\('no'\), line 2"):
        load_rewards(str(broken))
    typed = tmp_path / "typed.py"
    typed.write_text("x = 1\ndef short(:\n")
    with pytest.raises(ConfigError, match=r"imported: SyntaxError: invalid syntax \(typed.py, line 2\)\.$"):
        load_rewards(str(typed))
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="defines no public function"):
        load_rewards(str(empty))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return [1 / 0 for c in completions]", r"the_reward .*line 2\) raised ZeroDivisionError|line 2"),
        ("return [float('nan')] * len(completions)", "returned nan for completion 0"),
        ("return [float('inf')] * len(completions)", "returned inf for completion 0"),
        ("return [1.0]", "returned 1 rewards for 4 completions"),
        ("return 1.0", "raised TypeError"),
        ("return ['good'] * len(completions)", "raised ValueError"),
        ("return None", "raised TypeError"),
        ("return [1e30] * len(completions)", "returned 1e.30 for completion 0"),
        ("import sys; sys.exit(0)", "raised SystemExit"),
        ("raise type('Odd', (Exception,), {'__repr__': lambda self: 1 / 0})", "raised Odd"),
    ],
)
def test_a_reward_that_misbehaves_is_found_before_training(tmp_path, body, says):
    path = tmp_path / "bad.py"
    path.write_text(f"def the_reward(completions, **kwargs):\n    {body}\n")
    with pytest.raises(RewardError, match=says) as caught:
        try_rewards(load_rewards(str(path)), ROW)
    assert "the-reward" in str(caught.value)
    assert "bad.py" in str(caught.value)


def test_a_good_set_passes_the_trial(own):
    rewards = (*load_rewards(str(own)), *load_rewards("gsm8k"))
    try_rewards(rewards, ROW)
    assert all(math.isfinite(r.weight) for r in rewards)


def test_a_file_may_hold_dataclasses_and_its_path_can_be_made_absolute(tmp_path, monkeypatch):
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
        "def one(completions, **kwargs):\n    return [A(1).x] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert absolute_paths("gsm8k, own.py:one=2") == f"gsm8k,{path}:one=2"
    assert call(load_rewards("own.py")[0], "a") == [1.0]


def test_a_name_that_cannot_be_told_to_the_server_is_refused_here(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def früh(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    with pytest.raises(ConfigError, match="needs a name of at most 64 English letters"):
        load_rewards(str(path))


CALLABLES = """
import functools
from collections import deque
from functools import lru_cache, wraps
from math import sqrt
from random import choice
import decorators
from decorators import helper

def _pay(completions, value, **kwargs):
    return [value] * len(completions)

half = functools.partial(_pay, value=0.5)

class Judge:
    def __init__(self, value): self.value = value
    def __call__(self, completions, **kwargs): return [self.value] * len(completions)
    def method(self, completions, **kwargs): return [self.value] * len(completions)

class Slow(Judge):
    async def __call__(self, completions, **kwargs): return [self.value] * len(completions)

quarter, eighth = Judge(0.25), Slow(0.125)
bound = quarter.method
_hidden = Judge(9.0)

@decorators.bare
def decorated(completions, **kwargs):
    return [1.0] * len(completions)
"""
DECORATORS = """
def bare(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper
@bare
def helper(completions, **kwargs):
    return [3.0] * len(completions)
class Foreign:
    def __call__(self, completions, **kwargs): return [4.0] * len(completions)
foreign = Foreign()
"""


def test_callables_that_are_not_plain_functions_are_rewards_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "decorators.py").write_text(DECORATORS)
    path = tmp_path / "mine.py"
    path.write_bytes(b"\xef\xbb\xbf" + CALLABLES.encode())
    paid = {reward.name: call(reward, "a", "b") for reward in load_rewards(str(path))}
    values = {"half": 0.5, "quarter": 0.25, "eighth": 0.125, "bound": 0.25, "decorated": 1.0}
    assert paid == {name: [value] * 2 for name, value in values.items()}
    try_rewards(load_rewards(str(path)), ROW)
    for name, value in {"helper": 3.0, "eighth": 0.125, "half": 0.5}.items():
        (reward,) = load_rewards(f"{path}:{name}")
        assert call(reward, "a") == [value]
    with pytest.raises(ConfigError, match=r"Judge in .*mine\.py is a class\. Name an instance of it"):
        load_rewards(f"{path}:Judge")
    with pytest.raises(ConfigError, match="has no function deques. It has: half, quarter, eighth, bound, decorated"):
        load_rewards(f"{path}:deques")


def test_what_a_reward_prints_goes_to_stderr_in_every_thread(tmp_path, capsys):
    path = tmp_path / "loud.py"
    path.write_text(
        "import sys, time\nprint('import')\ndef loud(completions, **kwargs):\n    print('call')\n"
        "    sys.stdout.write('written')\n    time.sleep(0.05)\n    return [1.0] * len(completions)\n"
    )
    (reward,) = load_rewards(str(path))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: call(reward, "a"), range(8))) == [[1.0]] * 8
    print("result")
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert (err.count("import"), err.count("call"), err.count("written")) == (1, 8, 8)


def test_a_column_may_have_any_name_that_is_not_reserved(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def one(completions, **kwargs):\n    return [float(x) for x in kwargs['class']]\n")
    (reward,) = load_rewards(str(path))
    assert reward(completions=["a", "b"], **{"class": ["1", "2"], "extra.split": ["x", "y"]}) == [1.0, 2.0]
