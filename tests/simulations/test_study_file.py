"""A study file: every run's settings are built and checked before anything is played."""

import pytest
from fedgrpo.common.errors import ConfigError
from fedgrpo.simulations.engine.runner import scenario
from fedgrpo.simulations.engine.simulated_clients import client_rank
from fedgrpo.simulations.study.arms import CHANGED, KINDS, rollouts, runs_of
from fedgrpo.simulations.study.study_file import read_study

STUDY = """
[study]
question = "Which is better?"
scenario = "builtin"
seeds = [0, 7]
baseline = "central"
[settings]
"federation.rounds" = 12
simulation.clients = 3
[arms.central]
kind = "central"
[arms.local]
kind = "local"
[arms.naive]
"aggregation.method" = "naive"
"""


def write(folder, text=STUDY):
    path = folder / "which.toml"
    path.write_text(text)
    return path


def test_a_study_has_every_run_s_settings(tmp_path):
    study = read_study(write(tmp_path))
    central, local, naive = study.arms
    assert (study.name, study.question, study.baseline) == ("which", "Which is better?", "central")
    assert [(arm.name, arm.kind) for arm in study.arms] == [
        ("central", "central"),
        ("local", "local"),
        ("naive", "federated"),
    ]
    assert all(sorted(arm.runs) == [0, 7] for arm in study.arms)
    assert [run.federation.seed for run in (central.runs[0][0], naive.runs[7][0])] == [0, 7]
    assert {run.federation.rounds for arm in study.arms for run in arm.runs[0]} == {12}
    assert [run.simulation.only for run in local.runs[7]] == [0, 1, 2]
    assert [run.federation.start_clients for run in (*central.runs[0], *local.runs[0], *naive.runs[0])] == [
        1, 1, 1, 1, 3,
    ]  # fmt: skip
    assert (naive.runs[0][0].aggregation.method, central.runs[0][0].aggregation.method) == ("naive", "auto")


@pytest.mark.parametrize(
    ("kind", "runs", "clients", "steps", "passes"),
    [
        ("federated", 1, 4, 4, 1),
        ("central", 1, 1, 16, 1),
        ("central-batch", 1, 1, 4, 4),
        ("local", 4, 4, 4, 1),
        ("local-long", 4, 4, 16, 1),
    ],
)
def test_a_kind_changes_who_trains_and_how_long(kind, runs, clients, steps, passes):
    config = scenario("builtin").with_values({"simulation.rewards": "gsm8k;gsm8k;gsm8k;gsm8k"})
    found = runs_of(kind, config)
    assert len(found) == runs
    for run in found:
        assert run.simulation.clients == clients
        assert run.train.steps_per_round == steps
        assert run.grpo.gradient_accumulation_steps == passes
        assert run.simulation.rewards == ("gsm8k" if clients == 1 else config.simulation.rewards)


def others(config):
    """(key, another value that it may have) of every setting."""
    choices = {
        "adapter.rank": 8, "aggregation.method": "svd", "aggregation.weights": "examples",
        "aggregation.rank-weights": "holders", "aggregation.rule": "multi-krum", "intake.on-large-delta": "reject",
        "compression.up": "int8", "compression.down": "int8", "grpo.loss-type": "grpo", "grpo.scale-rewards": "none",
        "grpo.importance-sampling-level": "sequence", "grpo.lr-scheduler-type": "cosine",
        "grpo.multi-objective-aggregation": "normalize_then_sum", "model.dtype": "bfloat16",
        "simulation.dataset": "gsm8k", "simulation.partition": "label", "simulation.system-prompt": "think",
        "simulation.ranks": "4;8;16;4", "simulation.faults": "0=sign-flip;1=saturated;3=straggler",
        "simulation.rewards": "think", "backend.gradient-checkpointing": "off", "backend.source": "local",
    }  # fmt: skip
    for key, value in config.flat().items():
        tried = [choices[key]] if key in choices else []
        tried += [not value] if isinstance(value, bool) else []
        tried += [value + 1, value * 2, value / 2, 1] if isinstance(value, (int, float)) else [f"{value}x"]
        for other in tried:
            try:
                yield key, config.with_values({key: other})
                break
            except ConfigError:
                continue


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_changes_what_it_is_about_and_no_other_setting(kind):
    config, seen = scenario("builtin"), set()
    for key, other in others(config):
        if key in ("train.seconds-per-round", "train.min-signal"):
            continue  # refused: see below
        seen.add(key)
        for run in runs_of(kind, other):
            changed = {name for name, value in run.flat().items() if value != other.flat()[name]}
            assert changed <= CHANGED[kind], key
    assert len(seen) > 0.8 * len(config.flat())
    assert seen >= {"simulation.ranks", "simulation.faults", "simulation.rewards", "aggregation.rule", "compression.up"}


@pytest.mark.parametrize("kind", ["central", "central-batch"])
def test_a_central_client_has_the_federation_s_rank_and_no_fault(kind):
    values = {"simulation.ranks": "4;8;16;16", "simulation.faults": "0=sign-flip;3=saturated", "aggregation.hostile": 2}
    (run,) = runs_of(kind, scenario("builtin").with_values({**values, "aggregation.rule": "multi-krum"}))
    assert [client_rank(run, k) or run.adapter.rank for k in range(run.simulation.clients)] == [16]
    assert run.simulation.fault_of == {}
    assert (run.aggregation.rule, run.aggregation.hostile) == ("mean", 0)


def test_a_client_alone_keeps_its_rank_and_its_rewards_and_does_not_poison_itself():
    values = {"simulation.ranks": "4;8;16;16", "simulation.faults": "0=sign-flip;1=inverted-reward;2=scale;3=saturated"}
    runs = runs_of("local", scenario("builtin").with_values(values))
    assert [client_rank(run, run.simulation.only) for run in runs] == [4, 8, 16, 16]
    assert [run.simulation.fault_of for run in runs] == [{3: "saturated"}] * 4


def test_a_central_client_cannot_have_the_rewards_of_all():
    config = scenario("builtin").with_values({"simulation.rewards": "gsm8k;think;gsm8k;think"})
    assert len(runs_of("local", config)) == 4
    with pytest.raises(ConfigError, match="2 different sets, but an arm of kind central has one client"):
        runs_of("central", config)


@pytest.mark.parametrize("cohort", [0, 2, 9])
def test_all_kinds_but_local_learn_from_as_many_rollouts_as_the_federation(cohort):
    config = scenario("builtin").with_values({"federation.clients-per-round": cohort})
    wanted = rollouts(config)
    assert wanted == 15 * 4 * 4 * 8 * (2 if cohort == 2 else 4)
    for kind in KINDS:
        share = (2 if cohort == 2 else 4) if kind == "local" else 1
        assert [rollouts(run) * share for run in runs_of(kind, config)] == [wanted] * len(runs_of(kind, config))


def test_rounds_by_time_cannot_be_equalled():
    adaptive = scenario("builtin").with_values({"train.min-signal": 0.25})
    with pytest.raises(ConfigError, match=r"train.min-signal is 0.25, .* arm of kind central"):
        runs_of("central", adaptive)
    config = scenario("builtin").with_values({"train.seconds-per-round": 5.0})
    assert runs_of("federated", config) == (config,)
    with pytest.raises(ConfigError, match="train.seconds-per-round is 5, .* arm of kind central"):
        runs_of("central", config)


def test_a_scenario_is_found_beside_the_study(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "own.toml").write_text("[federation]\nrounds = 3\n")
    path = write(tmp_path / "here", STUDY.replace('"builtin"', '"own.toml"').replace('"federation.rounds" = 12', ""))
    monkeypatch.chdir(tmp_path)
    assert read_study(path).arms[0].runs[0][0].federation.rounds == 3


def test_quick_is_one_seed_and_two_rounds_under_another_name(tmp_path):
    study = read_study(write(tmp_path), quick=True)
    assert (study.name, study.seeds) == ("which-quick", (0,))
    runs = [run for arm in study.arms for run in arm.runs[0]]
    assert {(run.federation.rounds, run.evaluation.problems) for run in runs} == {(2, 40)}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("question =", "qestion =", r"no study.qestion in a study. Did you mean study.question\?"),
        ("[settings]", "[setings]", r"no setings in a study. Did you mean settings\?"),
        ('"Which is better?"', "3", "study.question is 3, but must be a text"),
        ('scenario = "builtin"', "", "study.scenario is '', but must be a text"),
        ('scenario = "builtin"', 'scenario = "nothing"', "There is no scenario 'nothing'"),
        ('scenario = "builtin"', 'scenario = "no.toml"', "Cannot read the scenario .*no.toml"),
        ("[0, 7]", "[]", "study.seeds is "),
        ("[0, 7]", "[1, 1]", "list of different whole numbers"),
        ("[0, 7]", "[0, true]", "study.seeds is "),
        ("[0, 7]", "[-1]", r"\[arms.central\] federation.seed is -1"),
        (
            'baseline = "central"',
            'baseline = "centre"',
            "'centre', which is not an arm. Arms are central, local, naive",
        ),
        ('baseline = "central"', 'baseline = "central"\nfigure = "pie"', "study.figure is 'pie'"),
        ('kind = "local"', 'kind = "lokal"', "arms.local.kind is 'lokal', but must be one of: federated"),
        ('kind = "local"', "kind = []", "arms.local.kind is "),
        ('"naive"', '"svg"', r"\[arms.naive\] aggregation.method is 'svg'"),
        ('"aggregation.method"', '"aggregation.metod"', r"\[arms.naive\] .*Did you mean aggregation.method\?"),
        ('"federation.rounds" = 12', '"federation.runds" = 12', r"\[settings\] .*Did you mean federation.rounds\?"),
        ('"federation.rounds" = 12', '"federation.seed" = 1', "cannot be set here: study.seeds decides it"),
        ('"federation.rounds" = 12', '"output.dir" = "x"', "cannot be set here: --out decides it"),
        ('"aggregation.method" = "naive"', '"simulation.only" = 1', r"\[arms.naive\] simulation.only cannot"),
        ('"aggregation.method" = "naive"', '"evaluation.problems" = 9', "compared problem by problem"),
        ("[arms.naive]", '[arms."na ive"]', "no name of letters"),
        ("[study]", "[study", "this is not TOML"),
    ],
)
def test_a_wrong_study_is_refused_by_file_and_key(tmp_path, old, new, says):
    assert old in STUDY
    with pytest.raises(ConfigError, match=r"which.toml: ") as caught:
        read_study(write(tmp_path, STUDY.replace(old, new)))
    with pytest.raises(ConfigError, match=says):
        raise caught.value


def test_a_study_of_one_arm_or_without_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="fewer than two arms"):
        read_study(write(tmp_path, STUDY[: STUDY.index("[arms.local]")]))
    with pytest.raises(ConfigError, match="none.toml: the study cannot be read: No such file"):
        read_study(tmp_path / "none.toml")
