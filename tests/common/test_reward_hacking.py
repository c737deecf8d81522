"""Each tripwire: one history that trips it, and one close by that does not."""

import pytest
from fedgrpo.common.analysis.reward_hacking import RewardHackingMonitor
from fedgrpo.common.messages.messages import Tally

HEALTHY = {
    "reward/mean": 1.0,
    "reward/std": 0.5,
    "completion/mean-length": 100.0,
    "completion/truncated-share": 0.02,
    "completion/answered-share": 0.9,
    "completion/empty-reasoning-share": 0.01,
    "completion/repeated-answer-share": 0.05,
    "completion/loop-share": 0.0,
}


def play(columns, accuracy=None, organisations=("clinic",), drop=()):
    """What is tripped over a run of healthy metrics with some columns replaced; accuracy by round, of 300 problems."""
    tripwires, found = RewardHackingMonitor(), []
    rounds = max(len(values) for values in columns.values())
    for number in range(rounds + 1):
        if number:
            mine = HEALTHY | {name: values[number - 1] for name, values in columns.items()}
            for name in organisations:
                tripwires.trained(name, number, {k: v for k, v in mine.items() if k not in drop})
        if accuracy is not None and number in accuracy:
            tripwires.evaluated(number, Tally(problems=300, correct=round(300 * accuracy[number])))
        found += tripwires.new_warnings()
    return [(t.tripwire, t.organisation, t.round) for t in found], [str(t) for t in found]


def steady(value, rounds=9):
    return dict.fromkeys(range(rounds + 1), value)


def test_reward_that_rises_while_accuracy_does_not():
    found, said = play({"reward/mean": [1.0, 1.0, 1.0, 1.1, 1.2, 1.4, 1.5, 1.6, 1.7]}, steady(0.4))
    assert found == [("reward-without-accuracy", "", 7)]
    assert "rewards rose by 0.7 of their spread since round 1" in said[0]
    assert "40.0 % → 40.0 % of 300" in said[0]


@pytest.mark.parametrize(
    ("rewards", "accuracy"),
    [
        ([1.0, 1.0, 1.0, 1.1, 1.2, 1.4, 1.5, 1.6, 1.7], {r: 0.4 + 0.02 * r for r in range(10)}),  # it rises too
        ([1.0, 1.0, 1.0, 1.0, 1.1, 1.2, 1.2, 1.2, 1.2], steady(0.4)),  # by less than half the spread
        ([1.0, 1.0, 1.0, 1.1, 1.2, 1.4, 1.5, 1.6, 1.7], {0: 0.4}),  # not measured since
        ([1.0, 1.0, 1.0, 1.1, 1.2, 1.4, 1.5, 1.6, 1.7], None),  # no counts leave
    ],
)
def test_reward_that_rises_with_reason_or_unmeasured(rewards, accuracy):
    assert play({"reward/mean": rewards}, accuracy)[0] == []


def test_a_reward_that_is_hacked_only_after_accuracy_has_climbed():
    rewards = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.5, 1.5, 1.5, 1.8, 2.0, 2.2]
    accuracy = {r: min(0.7, 0.2 + 0.1 * r) for r in range(13)}
    assert play({"reward/mean": rewards}, accuracy)[0] == [("reward-without-accuracy", "", 11)]


def test_rewards_are_compared_in_the_spread_of_the_first_rounds():
    """A spread that shrinks as the policy settles must not make small rises large."""
    rewards = [1.0, 1.0, 1.0, 1.1, 1.1, 1.1, 1.2, 1.2, 1.2]
    shrinking = [0.5] * 3 + [0.05] * 6
    assert play({"reward/mean": rewards, "reward/std": shrinking}, steady(0.4))[0] == []
    assert play({"reward/mean": rewards}, steady(0.4), drop=("reward/std",))[0] == []


def test_completions_that_are_cut_off_more_and_more():
    found, said = play({"completion/truncated-share": [0.0, 0.0, 0.0, 0.2, 0.4, 0.6]})
    assert found == [("length-runaway", "clinic", 6)]
    assert "40 % of the completions are cut off at the limit, 0 % in and after round 1" in said[0]
    assert play({"completion/truncated-share": [0.3] * 9})[0] == []  # many, but as many as ever
    assert play({"completion/truncated-share": [0.0, 0.0, 0.0, 0.2, 0.2, 0.2]})[0] == []


GROWING = [100.0, 100.0, 100.0, 140.0, 160.0, 180.0, 200.0]


def test_completions_that_grow_without_a_gain():
    found, said = play({"completion/mean-length": GROWING}, steady(0.4, 7))
    assert found == [("length-runaway", "clinic", 6)]
    assert "grew from 100 to 160 tokens since round 1, and held-out accuracy did not rise: 40.0 % → 40.0 %" in said[0]


def test_longer_reasoning_that_pays_is_no_runaway():
    assert play({"completion/mean-length": GROWING}, {r: 0.4 + 0.02 * r for r in range(8)})[0] == []
    assert play({"completion/mean-length": GROWING}, {0: 0.4})[0] == []  # the next evaluation will say
    assert play({"completion/mean-length": [100.0] * 3 + [140.0] * 6}, steady(0.4))[0] == []


def test_completions_that_grow_where_no_counts_leave():
    found, said = play({"completion/mean-length": GROWING})
    assert found == [("length-runaway", "clinic", 6)]
    assert "held-out accuracy was not measured" in said[0]


@pytest.mark.parametrize(
    ("metric", "tripwire", "just", "short"),
    [
        ("completion/empty-reasoning-share", "empty-reasoning", 0.25, 0.24),
        ("completion/repeated-answer-share", "repeated-answer", 0.4, 0.39),
        ("completion/loop-share", "loops", 0.2, 0.19),
    ],
)
def test_shares_of_the_last_three_rounds(metric, tripwire, just, short):
    found, said = play({metric: [0.0, 0.0, just, just, just, just]})
    assert found == [(tripwire, "clinic", 5)]
    assert f"{just:.0%}".replace("%", " %") in said[0]
    assert play({metric: [short] * 9})[0] == []
    assert play({metric: [1.0, 1.0]})[0] == []  # two rounds are no habit
    assert play({metric: [1.0] * 9}, drop=(metric,))[0] == []  # a policy keeps it back: no warning, no crash


def test_answers_that_leave_the_format():
    found, said = play({"completion/answered-share": [0.2, 0.6, 0.8, 0.8, 0.8, 0.5, 0.3, 0.2]})
    assert found == [("format-collapse", "clinic", 8)]
    assert "only 33 % of the completions have their answer in the place that the format asks for, 80 % had" in said[0]
    assert play({"completion/answered-share": [0.8, 0.8, 0.8, 0.5, 0.5, 0.5]})[0] == []
    assert play({"completion/answered-share": [0.1, 0.1, 0.1, 0.0, 0.0, 0.0]})[0] == []  # it never had one


def test_a_warning_is_said_once_and_again_only_after_a_pause():
    share = [0.6] * 5 + [0.0] * 9 + [0.6] * 4
    assert [number for *_, number in play({"completion/loop-share": share})[0]] == [3, 16]
    flickering = [0.3, 0.3, 0.3, 0.0, 0.3, 0.3, 0.3, 0.0, 0.3]
    assert [number for *_, number in play({"completion/loop-share": flickering})[0]] == [3]


@pytest.mark.parametrize(("quiet", "again"), [(3, False), (4, True)])
def test_a_pause_is_more_than_three_rounds(quiet, again):
    """The mean of three rounds holds for two more after the last high one, which is round 5."""
    share = [0.9] * 5 + [0.0] * (2 + quiet) + [0.9]
    numbers = [number for *_, number in play({"completion/loop-share": share})[0]]
    assert numbers == ([3, len(share)] if again else [3])


def test_each_organisation_is_warned_of_by_itself_and_only_for_rounds_it_took_part_in():
    tripwires, found = RewardHackingMonitor(), []
    for number in range(1, 9):
        tripwires.trained("a", number, HEALTHY)
        if number % 2:
            tripwires.trained("b", number, HEALTHY | {"completion/loop-share": 0.9})
        found += tripwires.new_warnings()
    assert [(t.organisation, t.round) for t in found] == [("b", 5)]


def test_a_round_that_is_played_again_counts_once():
    tripwires = RewardHackingMonitor()
    for number in (1, 2, 2, 2):
        tripwires.trained("a", number, HEALTHY | {"completion/loop-share": 0.9})
    assert tripwires.new_warnings() == []


def test_another_run_by_the_same_settings_is_followed_from_its_own_beginning():
    """A learner that stays up sees the rounds begin again: nothing of the first run may hush or feed the second."""
    tripwires, found = RewardHackingMonitor(), []
    for run in (1, 2):
        tripwires.evaluated(0, Tally(problems=300, correct=120))
        for number in range(1, 8):
            looping = HEALTHY | {"completion/loop-share": 0.9 if number > 2 else 0.0}
            tripwires.trained("", number, looping)
            found += [(run, t.tripwire, t.round) for t in tripwires.new_warnings()]
        tripwires.evaluated(7, Tally(problems=300, correct=120))
    assert found == [(1, "loops", 3), (2, "loops", 3)]


def test_an_organisation_without_held_out_problems_is_followed_all_the_same():
    tripwires, found = RewardHackingMonitor(), []
    rising = [1.0, 1.0, 1.0, 1.1, 1.2, 1.4, 1.5, 1.6, 1.7]
    for number, reward in enumerate(rising, start=1):
        tripwires.evaluated(number - 1, Tally())
        tripwires.trained("", number, HEALTHY | {"reward/mean": reward})
        found += tripwires.new_warnings()
    tripwires.evaluated(len(rising), Tally())
    assert found + tripwires.new_warnings() == []
