"""What `client check` and `client up` check of the way to the federation."""

import pytest
from fedgrpo.client.commands import check
from fedgrpo.client.commands.client import init
from fedgrpo.client.commands.dry_run import allowed_run
from fedgrpo.client.commands.learning_signal import SampledGroup, described, signal_warnings
from fedgrpo.client.commands.preflight import check_connection, connection_problems
from fedgrpo.client.commands.processes import run_client
from fedgrpo.client.commands.status_view import print_legend
from fedgrpo.client.organisation.settings import OrganisationFile
from fedgrpo.common.cli import keys
from fedgrpo.common.errors import ConfigError
from organisations import organisation_file
from rich.console import Console


@pytest.fixture
def ready(tmp_path):
    """The [flower] settings of an organisation that can connect."""
    keys.make_authority(tmp_path / "keys")
    keys.make_server(tmp_path / "keys", ("127.0.0.1",))
    keys.make_node(tmp_path / "clinic.key")
    return {
        "flower.superlink": "fed.example.org:8000",
        "flower.root-certificates": "keys/ca.crt",
        "flower.key": "clinic.key",
    }


def organisation_with(tmp_path, settings):
    return organisation_file(tmp_path, **{key.replace("-", "_").replace(".", "__"): v for key, v in settings.items()})


@pytest.mark.parametrize("superlink", ["fed.example.org:8000", "127.0.0.1:1", "[::1]:65535"])
def test_a_complete_flower_section_passes(tmp_path, ready, superlink):
    check_connection(organisation_with(tmp_path, {**ready, "flower.superlink": superlink}))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("superlink", "", "superlink is empty.*HOST:PORT"),
        ("superlink", "https://fed.example.org:8000", "must be HOST:PORT, without a scheme"),
        ("superlink", "fed.example.org", "must be HOST:PORT"),
        ("superlink", "fed.example.org:0", "from 1 to 65535"),
        ("superlink", "fed.example.org:70000", "from 1 to 65535"),
        ("root-certificates", "", "root-certificates is empty"),
        ("root-certificates", "absent.crt", "does not exist.*from the operator"),
        ("root-certificates", "clinic.key", "does not hold a PEM certificate"),
        ("root-certificates", "keys/server.pem", "not the certificate of a CA"),
        ("key", "", "key is empty"),
        ("key", "absent.key", "does not exist.*fedgrpo keys node"),
        ("key", "keys/ca.crt", "not a private key"),
    ],
)
def test_up_and_check_refuse_the_same_flower_section(tmp_path, ready, key, value, says):
    organisation = organisation_with(tmp_path, {**ready, f"flower.{key}": value})
    with pytest.raises(ConfigError, match=says):
        run_client(organisation, print)
    checked = check.check(organisation, None, 0)
    assert any(problem in checked.problems for problem in connection_problems(organisation))


def test_all_problems_are_listed_at_once(tmp_path):
    assert len(connection_problems(organisation_file(tmp_path))) == 3


@pytest.mark.parametrize(("model", "system"), [("builtin", False), ("Qwen/Qwen2.5-0.5B-Instruct", True)])
def test_the_template_gives_only_other_models_a_system_prompt(tmp_path, model, system):
    init(tmp_path / "clinic.toml", name="clinic", data="q.jsonl", model=model, superlink="")
    assert bool(OrganisationFile.read(tmp_path / "clinic.toml").settings.prompt.system) is system


def test_groups_without_reward_variance_are_a_warning():
    same = [SampledGroup([0.0, 0.0], [False, False]), SampledGroup([1.0, 1.0], [False, True])]
    (warning,) = signal_warnings(same)
    assert "no learning signal" in warning
    assert described(same).startswith("2 of 2 groups of 2 completions")
    assert not signal_warnings([*same, SampledGroup([0.0, 1.0], [False, False])])


def test_completions_that_are_all_truncated_are_a_warning():
    cut = SampledGroup([0.0, 1.0], [True, True])
    (warning,) = signal_warnings([cut, cut])
    assert "Raise grpo.max-completion-length" in warning
    assert not signal_warnings([cut, SampledGroup([0.0, 1.0], [True, False])])


def test_every_field_of_an_egress_view_is_in_the_legend(capsys):
    print_legend(Console(), ["header.tallies", "vector.0", "metrics.reward/mean"])
    shown = capsys.readouterr().out
    for name in ("header.tallies: counts", "header:", "vector:", "metrics:", "truncated"):
        assert name in shown


def test_a_budget_over_all_runs_that_is_used_up_is_a_problem(tmp_path):
    own = organisation_file(tmp_path, policy__max_trainings=0, policy__max_evaluations=1)
    (problem,) = check._used_up(own)
    assert problem.startswith("policy.max-trainings is 0, and 0 are used, over all runs")
    assert check._used_up(organisation_file(tmp_path)) == []


@pytest.mark.parametrize(("groups", "steps"), [(8, 4), (12, 6), (5, 5), (7, 7), (999, 4)])
def test_the_run_that_check_assumes_is_made_of_whole_blocks_where_the_policy_allows_one(tmp_path, groups, steps):
    own = organisation_file(tmp_path, policy__min_groups=groups, policy__max_steps_per_round=8)
    config = allowed_run(own)
    assert config.grpo.prompts_per_step == 4
    assert config.train.steps_per_round == steps
