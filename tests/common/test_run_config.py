"""Settings: one place, bounds with reasons, and in step with what Flower knows."""

import tomllib
from dataclasses import replace

import pytest
from checkout import ROOT
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig, load_scenario, parse_override
from fedgrpo.simulations.engine.runner import SCENARIOS, scenario


def test_pyproject_lists_exactly_the_defaults_that_the_code_has():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    flat = {f"{section}.{key}": value for section, table in listed.items() for key, value in table.items()}
    assert flat == RunConfig().flat()


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_scenario_that_ships_parses_and_survives_a_round_trip(path, tmp_path):
    config = load_scenario(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(config.to_toml())
    assert load_scenario(copy) == config


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("grpo.num-generation", 4, "Did you mean grpo.num-generations?"),
        ("train.num-generations", 4, "Did you mean grpo.num-generations?"),
        ("grpo.num-generations", 1, "always 0 in a group of one"),
        ("grpo.num-generations", 5, "not a whole number of groups"),
        ("adapter.rank", 0, "no parameters to train"),
        ("grpo.beta", 0.1, "weight and a reference"),
        ("grpo.kl-reference", "base", "weight and a reference"),
        ("grpo.loss-type", "ppo", "must be one of: grpo, dr_grpo"),
        ("grpo.learning-rate", 0, "above 0"),
        ("grpo.learning-rate", float("nan"), "above 0"),
        ("federation.rounds", 2.5, "a whole number"),
        ("federation.rounds", True, "a whole number"),
        ("federation.quorum", 0.0, "above 0"),
        ("model.name", " ", "model.name is empty"),
        ("simulation.rewards", "a;b", "2 sets for 4 clients"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_the_reason(key, value, says):
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        RunConfig().with_values({key: value})


def test_an_int_is_taken_for_a_float_and_the_rest_stays():
    config = RunConfig().with_values({"grpo.temperature": 1, "federation.rounds": 3})
    assert config.grpo.temperature == 1.0
    assert type(config.grpo.temperature) is float
    assert config.with_values({"federation.rounds": 10}) == RunConfig()


def test_the_hash_changes_with_what_decides_the_result_and_not_with_where_it_is_written():
    base = RunConfig().sha256
    assert RunConfig().with_values({"federation.seed": 1}).sha256 != base
    assert RunConfig().with_values({"output.dir": "elsewhere", "simulation.workers": 7}).sha256 == base


def test_a_broken_scenario_file_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[grpo]\nnum-generations = 1\n")
    with pytest.raises(ConfigError, match="mine.toml: grpo.num-generations is 1"):
        load_scenario(path)
    path.write_text("[grpo\n")
    with pytest.raises(ConfigError, match="mine.toml is not TOML"):
        load_scenario(path)
    with pytest.raises(ConfigError, match="There is no scenario 'nothing'. Known are builtin, gsm8k"):
        scenario("nothing")


def test_an_override_is_read_as_toml_and_else_as_text():
    assert parse_override("grpo.beta=0.04") == ("grpo.beta", 0.04)
    assert parse_override("model.name=Qwen/Qwen2.5-0.5B") == ("model.name", "Qwen/Qwen2.5-0.5B")
    with pytest.raises(ConfigError, match="not of the form"):
        parse_override("beta")
    with pytest.raises(ConfigError, match="a setting is a number"):
        parse_override("grpo.beta=[1]")


def test_each_loss_gets_the_epsilon_it_means():
    cispo = {"grpo.loss-type": "cispo"}
    with pytest.raises(ConfigError, match=r"grpo.epsilon-high is 0.2 and grpo.loss-type is cispo.*Set 1 or more"):
        RunConfig().with_values(cispo)
    assert RunConfig().with_values({**cispo, "grpo.epsilon-high": 5.0}).grpo.epsilon_high == 5.0
    with pytest.raises(ConfigError, match=r"grpo.delta is 1.1, within the clip of 1 \+ epsilon-high = 1.2"):
        RunConfig().with_values({"grpo.delta": 1.1})


def test_norms_of_one_factor_do_not_bound_the_other():
    with pytest.raises(ConfigError, match=r"clip-to-median is 2 and aggregation.method is rolora"):
        RunConfig().with_values({"intake.clip-to-median": 2.0, "aggregation.method": "rolora"})
    RunConfig().with_values({"intake.clip-to-median": 2.0, "aggregation.method": "svd"})


@pytest.mark.parametrize(("setting", "value"), [("grpo.top-p", 0.9), ("grpo.top-k", 50)])
def test_log_probabilities_of_the_tokens_that_were_left_are_not_compared_with_those_of_all(setting, value):
    assert RunConfig().corrects_sampler
    assert not RunConfig().with_values({setting: value}).corrects_sampler


def test_a_round_is_made_of_whole_blocks():
    with pytest.raises(ConfigError, match=r"A round has 16 prompts.*train.block-size = 6"):
        RunConfig().with_values({"train.block-size": 6})
    RunConfig().with_values({"train.block-size": 8})


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ({}, "naive"),
        ({"privacy.mode": "secagg"}, "naive"),
        ({"aggregation.rule": "median"}, "naive"),
        ({"aggregation.server-optimizer": "adam"}, "naive"),
        ({"train.optimizer-state": "kept"}, "naive"),
        ({"dp.noise-multiplier": 1.0, "grpo.loss-type": "grpo", "aggregation.weights": "uniform"}, "ffa"),
        (
            {"privacy.mode": "secagg", "privacy.noise-multiplier": 1.0, "aggregation.weights": "uniform"},
            "ffa",
        ),
        (
            {
                "dp.noise-multiplier": 1.0,
                "grpo.loss-type": "grpo",
                "aggregation.weights": "uniform",
                "aggregation.method": "xs",
            },
            "xs",
        ),
        ({"aggregation.method": "svd"}, "svd"),
    ],
)
def test_the_method_follows_from_the_settings_unless_it_is_named(values, method):
    config = RunConfig().with_values(values)
    assert (config.method_name, config.method) == (method, METHODS[method])
    assert config.named_aggregation == replace(config.aggregation, method=method)
    named = config.with_values({"aggregation.method": method})
    assert named.method_name == method  # and what `auto` chooses may be named as well
