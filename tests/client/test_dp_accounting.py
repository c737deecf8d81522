"""The accountant, the sampling it assumes, and the budget that is kept."""

import math
import secrets

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from fedgrpo.client.learner.data.problems import Problem
from fedgrpo.client.learner.privacy import accountant
from fedgrpo.client.learner.privacy.accountant import HIGH, Mechanism, epsilon
from fedgrpo.client.learner.privacy.organisation_noise import discrete_gaussians, noise_for_sum
from fedgrpo.client.learner.privacy.price import statement
from fedgrpo.client.learner.privacy.randomness import below, standard_normals
from fedgrpo.client.learner.privacy.sampling import poisson_batches, prompts_of, rate_of, units_of
from fedgrpo.client.learner.privacy.spent import Charge, Spent
from fedgrpo.common.analysis.organisation_privacy import gaussian_epsilon, noise_ratio
from fedgrpo.common.analysis.privacy import highest_epsilon, privacy_in_words
from fedgrpo.common.errors import ConfigError, PolicyError
from fedgrpo.common.settings.run_config import RunConfig
from scipy.optimize import brentq
from scipy.stats import chi2, kstest, norm


def random_settings(number):
    """(noise multiplier, rate, steps, delta) as runs have them."""
    draw = np.random.default_rng(13)
    for _ in range(number):
        yield (
            float(draw.uniform(0.5, 4.0)),
            float(10 ** draw.uniform(-3.5, -1)),
            int(10 ** draw.uniform(0, 3)),
            float(10 ** draw.uniform(-8, -4)),
        )


def agrees_with_the_accountant(noise, rate, steps, delta):
    ours = epsilon([(Mechanism(noise, rate), steps)], delta)
    theirs = PLDAccountant()
    theirs.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    expected = theirs.get_epsilon(delta)
    if expected < HIGH:
        assert ours == pytest.approx(expected, abs=1e-6)
    else:
        assert expected <= ours <= expected * 1.05


@pytest.mark.parametrize("case", random_settings(6))
def test_epsilon_is_the_accountants(case):
    agrees_with_the_accountant(*case)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_epsilon_is_the_accountants_on_a_thousand_settings():
    for case in random_settings(1000):
        agrees_with_the_accountant(*case)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 16), (8.0, 100)])
def test_epsilon_without_sampling_is_the_closed_form(noise, steps):
    """Balle and Wang 2018, arXiv:1805.06530, theorem 8, for one Gaussian with the noise of `steps` in turn."""
    mu = math.sqrt(steps) / noise

    def excess(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu) - 1e-5

    exact = brentq(excess, 0, 100)
    assert gaussian_epsilon(noise, steps, 1e-5) == pytest.approx(exact, rel=1e-8)
    assert exact <= epsilon([(Mechanism(noise, 1.0), steps)], 1e-5) <= exact + 0.02


def test_epsilon_rises_with_steps_and_adds_up_over_other_settings():
    one, other = Mechanism(0.8, 0.01), Mechanism(1.5, 0.02)
    assert epsilon([], 1e-5) == 0
    apart = epsilon([(one, 50)], 1e-5), epsilon([(other, 50)], 1e-5)
    both = epsilon([(one, 20), (other, 50), (one, 30)], 1e-5)
    assert max(apart) < both < sum(apart)
    assert math.isinf(epsilon([(Mechanism(0.0, 0.1), 1)], 1e-5))


def test_a_missing_accountant_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting.pld", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedgrpo\[dp\]'"):
        accountant.require_accountant()


# --- sampling ---------------------------------------------------------------------------------------------------------


def scheme_of(batches, units):
    """Return the p-value of the hypothesis that each unit is in each batch with one rate, independently of the rest.

    Three chi-square statistics: how often each unit is taken, how large the batches are, and how often two neighbours
    are taken together. Fisher's method joins them.
    """
    taken = np.zeros((len(batches), units), dtype=bool)
    for row, batch in zip(taken, batches, strict=True):
        row[batch] = True
    rate, steps = taken.mean(), len(batches)

    def tail(counts, expected, variance):
        return chi2.cdf(((counts - expected) ** 2 / variance).sum(), len(counts))

    together = (taken[:, ::2] & taken[:, 1::2]).sum(axis=0)
    cells = [
        tail(taken.sum(axis=0), rate * steps, rate * (1 - rate) * steps),
        tail(taken.sum(axis=1), rate * units, rate * (1 - rate) * units),
        tail(together, rate**2 * steps, rate**2 * (1 - rate**2) * steps),
    ]
    sides = [2 * min(p, 1 - p) for p in cells]  # too regular is as wrong as too irregular
    return float(chi2.sf(-2 * sum(math.log(max(p, 1e-300)) for p in sides), 2 * len(sides)))


def test_batches_are_poisson_samples():
    units, rate, steps = 200, 0.1, 2000
    assert scheme_of(poisson_batches(units, rate, steps), units) > 1e-6


def fixed_size(units, rate, steps):
    return [secrets.SystemRandom().sample(range(units), int(units * rate)) for _ in range(steps)]


def epochs(units, rate, steps):
    """What the shard reader does without privacy: a new order each epoch, read in batches."""
    size, order = int(units * rate), []
    while len(order) < steps * size:
        order += np.random.default_rng(len(order)).permutation(units).tolist()
    return [order[step * size : (step + 1) * size] for step in range(steps)]


def pairs(units, rate, steps):
    return [[2 * i + k for i in batch for k in (0, 1)] for batch in poisson_batches(units // 2, rate, steps)]


@pytest.mark.parametrize("other", [fixed_size, epochs, pairs])
def test_other_ways_of_sampling_are_told_from_it(other):
    assert scheme_of(other(200, 0.1, 2000), 200) < 1e-9


def test_the_rate_gives_the_expected_batch_and_small_shards_are_taken_whole():
    assert rate_of(4000, 64) == 0.016
    assert rate_of(3, 64) == 1.0
    assert poisson_batches(3, 1.0, 2) == [[0, 1, 2]] * 2
    assert [] in poisson_batches(2, 0.01, 200)


def test_prompts_of_one_unit_or_of_one_question_belong_together():
    problems = [Problem("a", "1", unit="p1"), Problem("b", "1"), Problem("c", "1", unit="p1"), Problem("b", "2")]
    assert units_of(problems) == [(0, 2), (1, 3)]
    assert units_of([Problem("x", "1", unit="y"), Problem("y", "1")]) == [(0,), (1,)]
    assert prompts_of((4, 5), 2) == [4, 5]
    chosen = {tuple(prompts_of((4, 5, 6), 1)) for _ in range(200)}
    assert chosen == {(4,), (5,), (6,)}


def test_noise_is_standard_normal_and_never_the_same():
    noise = standard_normals(200_001)
    assert kstest(noise, norm.cdf).pvalue > 1e-6
    assert kstest(noise * 1.05, norm.cdf).pvalue < 1e-9  # the test would see another variance
    assert not (standard_normals(8) == standard_normals(8)).any()


def test_random_bytes_at_their_ends_give_finite_noise_and_the_rate_is_exact():
    for byte in (b"\x00", b"\xff"):
        assert np.isfinite(standard_normals(7, lambda n, byte=byte: byte * n)).all()
    assert not below(0.5, 1, lambda n: b"\xff" * n)[0]
    assert below(0.5, 1, lambda n: b"\xff" * 7 + b"\x7f")[0]  # 2^63 - 1, little-endian: the last below a half
    assert not below(0.5, 1, lambda n: b"\x00" * 7 + b"\x80")[0]


# --- the budget -------------------------------------------------------------------------------------------------------

DELTA = 1e-5


def charge(number=1, attempt=1, federation="fed-1", **values):
    usual = {
        "noise_multiplier": 1.0,
        "clip_norm": 0.5,
        "rate": 0.02,
        "steps": 4,
        "units": 400,
        "unit": "prompt",
        "data": "d" * 64,
    }
    return Charge(federation=federation, round=number, attempt=attempt, **{**usual, **values})


def test_what_is_spent_is_never_lowered_by_a_resume_another_run_or_other_data(tmp_path):
    path, seen = tmp_path / "state" / "privacy.jsonl", [0.0]
    for one in (
        charge(),
        charge(2),
        charge(2, 2),  # the attempt was void, and is repeated
        charge(2, 2),  # the learner was killed, and does it again
        charge(federation="fed-2"),
        charge(federation="fed-3", data="e" * 64, noise_multiplier=2.0),
    ):
        seen.append(Spent(path).charge(one, DELTA))  # each is a new start of the learner
        assert Spent(path).epsilon(DELTA) == seen[-1]
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)
    assert seen[5] == pytest.approx(epsilon([(Mechanism(1.0, 0.02), 20)], DELTA))


def test_a_round_is_refused_when_the_budget_would_be_exceeded_and_nothing_is_charged(tmp_path):
    path = tmp_path / "privacy.jsonl"
    limit = epsilon([(Mechanism(1.0, 0.02), 8)], DELTA) + 1e-9
    spent = Spent(path, limit)
    spent.charge(charge(1), DELTA)
    spent.charge(charge(2), DELTA)
    before = path.read_bytes()
    for one in (charge(3), charge(1, federation="new"), charge(3, steps=1)):
        with pytest.raises(PolicyError, match="Nothing is trained") as caught:
            Spent(path, limit).charge(one, DELTA)
        assert caught.value.key == "policy.dp.max-epsilon"
    assert path.read_bytes() == before


def test_a_damaged_record_of_the_budget_is_an_error_and_not_an_empty_one(tmp_path):
    path = tmp_path / "privacy.jsonl"
    Spent(path).charge(charge(), DELTA)
    path.write_bytes(b"{nonsense\n" + path.read_bytes())
    with pytest.raises(ConfigError, match="what was spent is forgotten"):
        Spent(path)


# --- noise that hides an organisation ---------------------------------------------------------------------------------


def test_discrete_gaussians_have_their_distribution():
    sigma, count = 5.3, 60_000
    drawn = discrete_gaussians(count, sigma)
    values = np.arange(-60, 61)
    mass = np.exp(-(values**2) / (2 * sigma**2))
    expected = count * mass / mass.sum()
    counted = np.array([(drawn == value).sum() for value in values])
    seen = expected > 20
    assert chi2.sf(((counted - expected)[seen] ** 2 / expected[seen]).sum(), seen.sum() - 1) > 1e-6
    assert chi2.sf(((np.roll(counted, 1) - expected)[seen] ** 2 / expected[seen]).sum(), seen.sum() - 1) < 1e-9


def test_noise_of_the_fewest_survivors_reaches_the_target_and_that_of_all_members_is_not_much_longer():
    sigma, members = 100.0, 16
    threshold = 2 * members // 3 + 1
    shares = np.stack([noise_for_sum(20_000, sigma, threshold) for _ in range(members)])
    assert shares[:threshold].sum(axis=0).std() == pytest.approx(sigma, rel=0.03)
    assert shares.sum(axis=0).std() == pytest.approx(sigma * math.sqrt(members / threshold), rel=0.03)
    with pytest.raises(ConfigError, match="a finer grid"):
        noise_for_sum(1, 8.0, 16)


def test_the_price_of_hiding_an_organisation_is_what_it_is():
    assert noise_ratio(2.0, 100, 4, threshold=4) == 5.0


# --- what is said of it -----------------------------------------------------------------------------------------------


def test_what_an_organisation_may_sign_of_a_round_names_everything_that_epsilon_follows_from():
    one = charge(noise_multiplier=0.9, rate=0.05, steps=3)
    said = statement(one, epsilon=1.5, delta=DELTA)
    assert said["accountant"] == "dp-accounting PLD"
    assert (said["unit"], said["clip_norm"], said["sampling"], said["epsilon"]) == ("prompt", 0.5, "poisson", 1.5)
    again = epsilon([(Mechanism(said["noise_multiplier"], said["sampling_rate"]), said["steps"])], said["delta"])
    assert again == epsilon([one.priced], DELTA)


def test_a_report_says_what_was_spent_and_nothing_of_runs_without_privacy():
    config = RunConfig().with_values(
        {"dp.noise-multiplier": 0.6, "grpo.loss-type": "grpo", "aggregation.weights": "uniform"}
    )
    most = highest_epsilon([{"privacy/epsilon": 1.0}, {"privacy/epsilon": 2.345}, {}])
    assert "epsilon 2.35 at delta 1e-05" in privacy_in_words(config, most)
    assert "no client reported" in privacy_in_words(config, highest_epsilon([{}]))
    assert privacy_in_words(RunConfig(), None) == ""
