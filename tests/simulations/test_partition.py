"""Division of a dataset over clients."""

import pytest
from checkout import GSM8K
from fedgrpo.client.learner.data.problems import Problem
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.engine.partition import partition
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

PROBLEMS = [Problem(f"q{i}", str(i), {"topic": "abcde"[i % 5], "steps": str(i % 7)}) for i in range(400)]


def config(**values):
    base = {"grpo.num-generations": 4, "grpo.per-device-train-batch-size": 8}
    return RunConfig().with_values({**base, **{f"simulation.{k.replace('_', '-')}": v for k, v in values.items()}})


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["iid", "dirichlet", "size", "difficulty"]), st.integers(1, 12), st.sampled_from([0.3, 1.0, 100.0])
)
def test_every_problem_goes_to_exactly_one_client(kind, clients, alpha):
    shards = partition(PROBLEMS, config(partition=kind, clients=clients, partition_alpha=alpha))
    assert len(shards) == clients
    assert sorted(p.question for shard in shards for p in shard) == sorted(p.question for p in PROBLEMS)
    assert min(map(len, shards)) >= 2
    assert shards == partition(PROBLEMS, config(partition=kind, clients=clients, partition_alpha=alpha))


def spread(shards, label):
    """Mean over clients of the largest share that one value has."""
    tops = []
    for shard in shards:
        values = [p.labels[label] for p in shard]
        tops.append(max(values.count(v) for v in set(values)) / len(values))
    return sum(tops) / len(tops)


def test_dirichlet_is_skewed_by_label_and_more_so_for_a_small_alpha():
    uneven, even = (
        spread(partition(PROBLEMS, config(partition="dirichlet", partition_alpha=a)), "topic") for a in (0.1, 1000.0)
    )
    assert even == pytest.approx(0.2, abs=0.05)
    assert uneven > 0.5


def test_size_gives_unequal_shards_and_iid_equal_ones():
    sizes = [len(s) for s in partition(PROBLEMS, config(partition="size", partition_alpha=0.5))]
    assert max(sizes) > 2 * min(sizes)
    assert {len(s) for s in partition(PROBLEMS, config())} == {100}


def test_difficulty_goes_from_the_easiest_to_the_hardest():
    shards = partition(PROBLEMS, config(partition="difficulty"))
    means = [sum(int(p.labels["steps"]) for p in s) / len(s) for s in shards]
    assert means == sorted(means)
    assert means[-1] - means[0] > 3


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="7 problems are too few for 4 clients: each needs at least 2"):
        partition(PROBLEMS[:7], config())
    with pytest.raises(ConfigError, match="no label 'colour' .* They have: steps, topic"):
        partition(PROBLEMS, config(partition="dirichlet", partition_label="colour"))
    with pytest.raises(ConfigError, match="Raise alpha"):
        partition(PROBLEMS[:24], config(partition="size", partition_alpha=1e-4, clients=12))


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the real GSM8K lies beside the checkout only on our own machines")
def test_the_real_gsm8k_is_read_whole():
    from fedgrpo.simulations.engine.datasets import load_problems

    settings = config(dataset="gsm8k", data=str(GSM8K)).with_values({"evaluation.problems": 5000})
    train, test = load_problems(settings)
    assert (len(train), len(test)) == (7473, 1319)
    assert all(p.answer.lstrip("-").isdigit() for p in train + test)
    assert sum(p.answer.startswith("-") for p in train) == 3
    assert {p.labels["steps"] for p in train} <= {str(n) for n in range(1, 10)}


def test_a_label_goes_to_one_client_whole_and_more_clients_than_labels_are_refused():
    shards = partition(PROBLEMS, config(partition="label", clients=2))
    owners = {}
    for k, shard in enumerate(shards):
        for problem in shard:
            assert owners.setdefault(problem.labels["topic"], k) == k
    assert sum(map(len, shards)) == len(PROBLEMS)
    with pytest.raises(ConfigError, match="gives each value to one client"):
        partition(PROBLEMS, config(partition="label", clients=9))
