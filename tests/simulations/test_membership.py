"""The audit of membership: a planted over-fit is found, a null is not, and what is said is what was measured."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from charges import charge
from fedgrpo.client.learner.data.problems import Problem
from fedgrpo.client.learner.privacy.spent import FILE, Spent
from fedgrpo.common.errors import ConfigError
from fedgrpo.simulations.membership import words
from fedgrpo.simulations.membership.findings import LEAKS, NOT_COMPARABLE, NOT_FOUND, findings
from fedgrpo.simulations.membership.session import Asked, audit
from fedgrpo.simulations.membership.signals import CONTROLS, SIGNALS, Observed, signals, standardised
from fedgrpo.simulations.membership.subjects import Coin, Subjects, chosen, fair_coins, quotas

import fedgrpo

SAMPLES, TOKENS = 4, 12


def subjects(members=300, others=500, coins=0, rng=None):
    problems = [Problem(f"q{i}", "1") for i in range(members + others + coins)]
    flips = (rng or np.random.default_rng(0)).random(coins) < 0.5
    return Subjects(
        members=problems[:members],
        others=problems[members : members + others],
        others_are="made up",
        coins=[Coin(p, bool(flip)) for p, flip in zip(problems[members + others :], flips, strict=True)],
        system_prompt="",
        rewards=(),
    )


def observed(rng, chance, drift):
    """A prompt: the base model is right with chance .3, the adapter with `chance`, and `drift` likelier per token."""
    base = [rng.normal(-1.0, 0.4, TOKENS) for _ in range(SAMPLES)]
    prompt = rng.normal(-2.0, 0.6, TOKENS)
    return Observed(
        rewards=(rng.random(SAMPLES) < chance).astype(float).tolist(),
        base_rewards=(rng.random(SAMPLES) < 0.3).astype(float).tolist(),
        completions=[each + rng.normal(drift, 0.2, TOKENS) for each in base],
        base_completions=base,
        prompt=prompt + rng.normal(0.1, 0.1, TOKENS),
        base_prompt=prompt,
    )


def found(seed, *, leak=0.0, drift=0.0, coins=0, shift=0.0):
    """An audit in which training raised the chance of trained prompts by `leak`; `shift` is a difference of before."""
    rng = np.random.default_rng(seed)
    audited = subjects(coins=coins, rng=rng)
    inside = [True] * 300 + [False] * 500 + [coin.included for coin in audited.coins]
    seen = [observed(rng, 0.4 + leak * trained, 0.2 + drift * trained) for trained in inside]
    if shift:
        seen = [
            replace(each, base_prompt=each.base_prompt + shift * trained, prompt=each.prompt + shift * trained)
            for each, trained in zip(seen, inside, strict=True)
        ]
    return findings(signals(seen), audited, delta=1e-5, seed=0)


def test_a_planted_over_fit_is_found_by_the_signals_that_it_touches_and_by_the_coins():
    leaking = found(1, leak=0.5, drift=0.06, coins=400)
    tells = {each.signal for each in leaking.signals if each.tells}
    assert leaking.verdict == LEAKS
    assert {"reward", "reward-gain", "likelihood-ratio", "diba"} <= tells
    assert not {"min-k", "prompt-ratio"} & tells
    assert not any(control.tells for control in leaking.controls)
    assert leaking.best.signal in ("likelihood-ratio", "diba")
    assert 0.9 < leaking.best.auc.low < leaking.best.auc.value < leaking.best.auc.high <= 1.0
    assert leaking.best.tpr.low > 0.2
    assert 0.8 < leaking.coins.epsilon < 4.0


def test_the_coins_find_nothing_where_training_changed_all_alike():
    assert found(2, coins=400).coins.epsilon == 0.0
    assert found(2).coins is None
    assert found(2).verdict == NOT_FOUND


def null(rng, members, others):
    """Scores of a signal that knows nothing: normal, with heavy tails, or with few values."""
    kind, count = rng.integers(3), members + others
    if kind == 0:
        return rng.normal(0, 1, count)
    return rng.standard_t(3, count) if kind == 1 else rng.binomial(4, 0.4, count) / 4


def verdicts(times, members, others):
    rng, audited, found = np.random.default_rng(7), subjects(members, others, 60), []
    for _ in range(times):
        audited = replace(audited, coins=[Coin(c.problem, bool(rng.random() < 0.5)) for c in audited.coins])
        scores = {name: null(rng, members, others + 60) for name in (*SIGNALS, *CONTROLS)}
        found.append(findings(scores, audited, delta=1e-5, seed=0).verdict)
    return found


@pytest.mark.parametrize(("members", "others"), [(60, 60), (240, 500)])
def test_of_many_audits_with_nothing_to_find_few_find_something(members, others):
    """The signals may be wrong in 5 % of audits, the coins in another 5 %, the controls in 1 %."""
    times = 100
    seen = verdicts(times, members, others)
    assert seen.count(LEAKS) / times <= 0.1
    assert seen.count(NOT_COMPARABLE) / times <= 0.04
    assert seen.count(NOT_FOUND) / times >= 0.87


@pytest.mark.slow
@pytest.mark.parametrize(("members", "others"), [(20, 20), (60, 60), (240, 500), (500, 1000)])
def test_the_share_of_false_alarms_over_two_thousand_audits(members, others):
    """With -s it prints the row of docs/membership.md."""
    seen = verdicts(2000, members, others)
    shares = {name: seen.count(name) / len(seen) for name in (LEAKS, NOT_COMPARABLE, NOT_FOUND)}
    print("|", members, "|", others, "|", " | ".join(f"{share:.1%}" for share in shares.values()), "|")
    assert shares[LEAKS] <= 0.08
    assert shares[NOT_COMPARABLE] <= 0.02


def test_prompts_that_differ_before_training_are_no_leak():
    different = found(3, shift=0.3)
    assert different.verdict == NOT_COMPARABLE
    assert "differ by themselves" in words.verdict(different)
    assert "min-k" in {each.signal for each in different.signals if each.tells}


def test_signals_on_one_prompt_by_hand():
    one = Observed(
        rewards=[1.0, 0.0],
        base_rewards=[0.0, 0.0],
        completions=[np.array([-1.0, -3.0]), np.array([-2.0])],
        base_completions=[np.array([-2.0, -4.0]), np.array([-2.5])],
        prompt=np.array([-1.0, -5.0, -1.0, -1.0, -3.0]),
        base_prompt=np.array([-2.0, -6.0, -2.0, -2.0, -4.0]),
    )
    scores = {name: values.tolist() for name, values in signals([one]).items()}
    assert scores == {
        "reward": [0.5],
        "reward-gain": [0.5],
        "likelihood": [-2.0],
        "likelihood-ratio": [0.75],  # (1 + 0.5) / 2
        "min-k": [-5.0],  # the least likely fifth of five tokens
        "prompt-ratio": [1.0],
        "base-reward": [0.0],
        "base-prompt": [-3.2],
        "diba": [0.0],
    }
    assert standardised(np.array([1.0, 1.0, 4.0])).std() == pytest.approx(1.0)


def test_the_words_say_what_was_measured_and_compare_with_the_ledger():
    leaking, clean = found(1, leak=0.5, drift=0.06, coins=400), found(2, coins=400)
    assert "gives away which prompts it was trained on. Of two prompts" in words.verdict(leaking)
    assert f"{round(100 * leaking.best.auc.value)} times in 100" in words.verdict(leaking)
    assert "That is not proof: with 300 and 500 prompts" in words.verdict(clean)
    assert f"Epsilon is at least {leaking.coins.epsilon:.2f}" in words.epsilon(leaking, None)
    assert "not differentially private" in words.epsilon(leaking, None)
    assert "which this contradicts" in words.epsilon(leaking, 0.1)
    assert "which agrees with it" in words.epsilon(leaking, 50.0)
    assert words.epsilon(clean, 3.0).startswith("No lower bound on epsilon above 0")
    assert words.epsilon(found(2), 3.0) == ""
    assert "Train with differential privacy" in words.advice(leaking, reads=12.0, private=False)[0]
    assert "12.0 times" in words.advice(leaking, reads=12.0, private=False)[1]
    assert words.advice(clean, reads=1.0, private=False) == []


def test_a_prompt_of_both_kinds_is_in_neither_and_too_few_are_refused():
    members, others = [Problem(f"q{i}", "1") for i in range(60)], [Problem(f"q{i}", "1") for i in range(30, 90)]
    first, second = chosen([*members, members[0]], others, limit=25, seed=0)
    assert {p.question for p in first} <= {f"q{i}" for i in range(30)}
    assert {p.question for p in second} <= {f"q{i}" for i in range(60, 90)}
    assert (len(first), len(second)) == (25, 25)
    with pytest.raises(ConfigError, match="10 prompts are known to be held out, but .* at least 20"):
        chosen(members, others[:40], limit=25, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_coins_from_a_split_of_any_share_are_fair(share):
    rng = np.random.default_rng(5)
    held = rng.random(20_000) < share
    problems = [Problem(f"q{i}", "1") for i in range(20_000)]
    parts = [[p for p, out in zip(problems, held, strict=True) if bool(out) == want] for want in (False, True)]
    coins = fair_coins(*parts, share_out=share, limit=100_000, seed=0)
    assert len(coins) == pytest.approx(2 * min(share, 1 - share) * 20_000, rel=0.06)
    assert sum(coin.included for coin in coins) / len(coins) == pytest.approx(0.5, abs=0.03)
    assert len(fair_coins(*parts, share_out=share, limit=500, seed=0)) == pytest.approx(500, rel=0.2)


def test_quotas_keep_the_proportions_of_the_labels():
    members = [Problem(f"q{i}", "1", {"topic": "ab"[i % 4 == 0]}) for i in range(100)]
    assert dict(quotas(members, 40)) == {(("topic", "a"),): 30, (("topic", "b"),): 10}


SMALL = {
    "simulation.partition": "iid",
    "simulation.problems": 60,
    "simulation.canaries": 24,
    "evaluation.problems": 8,
    "train.steps-per-round": 8,
    "grpo.num-generations": 2,
    "grpo.per-device-train-batch-size": 8,
    "grpo.max-completion-length": 12,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return fedgrpo.simulate(
        "builtin", clients=2, rounds=1, settings=SMALL, out=out, name="audited", progress=False
    ).folder


@pytest.mark.e2e
def test_a_simulated_run_is_audited_and_the_files_hold_no_prompt(run, trained):
    words_given = ["audit", "membership", trained, "--samples", 1, "--limit", 40, "--format", "json"]
    status, out, _ = run(*words_given)
    result = json.loads(out.splitlines()[-1])
    assert status == 0
    assert result["members"] >= 20
    assert result["others"] >= 30
    assert result["epsilon"]["canaries"] == 24
    assert set(result["signals"]) == set(SIGNALS)
    assert set(result["controls"]) == set(CONTROLS)
    assert result["verdict"] in (LEAKS, NOT_FOUND, NOT_COMPARABLE)
    written = json.loads((trained / "membership.json").read_text())
    assert written["signals"] == result["signals"]
    figure = (trained / "membership.svg").read_text()
    assert figure.startswith("<?xml")
    canaries = [json.loads(line) for line in (trained / "canaries.jsonl").read_text().splitlines()]
    for text in ((trained / "membership.json").read_text(), figure):
        assert not any(canary["problem"]["question"] in text for canary in canaries)


CHARGE = charge()


def test_beside_the_bound_stands_the_largest_charge_unless_somebody_trained_without_noise(tmp_path):
    budgets = tuple(tmp_path / f"{name}.jsonl" for name in ("a", "b"))
    Spent(budgets[0]).charge(CHARGE, 1e-5)
    assert replace(subjects(), budgets=budgets).charged(1e-5) is None
    more = Spent(budgets[1]).charge(replace(CHARGE, steps=40), 1e-5)
    assert replace(subjects(), budgets=budgets).charged(1e-5) == more > Spent(budgets[0]).epsilon(1e-5)
    assert subjects().charged(1e-5) is None


@pytest.mark.e2e
def test_the_charges_of_a_run_s_clients_are_found_in_its_folder_wherever_it_lies(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    for client in (0, 1):
        Spent(moved / "clients" / f"client-{client}" / FILE).charge(CHARGE, 1e-5)
    asked = Asked(samples=1, limit=40, seed=0, delta=1e-5)
    assert audit(moved, asked, {}).ledger == pytest.approx(Spent(None).epsilon(1e-5, [CHARGE]))


@pytest.mark.e2e
def test_one_client_is_audited_by_its_own_prompts_in_words(run, trained):
    status, out, _ = run("audit", "membership", trained, "--client", 0, "--samples", 1, "--limit", 25)
    assert status == 0
    assert "does a signal tell prompts that were trained on?" in out
    assert "new problems of the built-in world" in " ".join(out.split())
    result = json.loads((trained / "membership-client-0.json").read_text())
    assert result["ledger_epsilon"] is None
    assert run("audit", "membership", trained, "--client", 7)[0] == 1


ORGANISATION = """
[organisation]
name = "clinic-a"
[data]
train = "train.jsonl"
held-out-share = 0.5
[rewards]
use = "correctness"
[model]
name = "builtin"
"""


@pytest.mark.e2e
def test_an_organisation_audits_an_adapter_with_its_own_prompts(run, trained, tmp_path):
    numbers = itertools.product(range(9), repeat=2)
    rows = [{"question": f"Ada owns {i} maps and buys {j}. How many?", "answer": f"{i + j}"} for i, j in numbers]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "clinic.toml").write_text(ORGANISATION)
    adapter = trained / "adapters" / "0001"
    given = ["audit", "membership", adapter, "--organisation", "clinic.toml", "--samples", 1, "--format", "json"]
    status, out, err = run(*given, "--set", "grpo.max-completion-length=8")
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["members"] + result["others"] == 81
    assert result["coins_are"] == "prompts of your own, held out by a hash"
    assert result["epsilon"]["canaries"] == 81  # a share of one half needs no thinning
    assert "There is no ledger" in result["notes"][0]
    (table, _) = result["files"]
    assert table.startswith(str(tmp_path / "state" / "audits"))
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


@pytest.mark.e2e
def test_what_cannot_be_audited_is_refused_before_a_model_is_loaded(run, trained, tmp_path):
    adapter = trained / "adapters" / "0001"
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_schema.json"):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    assert "an adapter without its run" in run("audit", "membership", tmp_path)[2]
    assert "Give one of them" in run("audit", "membership", adapter, "--organisation", "x.toml", "--client", 0)[2]
