"""What the learner measures over its completions for the tripwires."""

from fedgrpo.client.learner.training.completion_stats import CompletionStats, meaning, reasons_emptily, repetition


def shares(texts, right=None, tokens=None):
    completion_stats = CompletionStats()
    completion_stats.add(texts, right or [False] * len(texts), tokens or [list(range(9))] * len(texts))
    return {name.removeprefix("completion/"): share for name, share in completion_stats.shares().items()}


def test_an_answer_that_most_problems_get_and_that_is_wrong():
    texts = [f"<answer>{n}</answer>" for n in ("7", "7.0", " 7 ", "7", "12", "none")]
    found = shares(texts, right=[True, False, False, False, False, False])
    assert found["repeated-answer-share"] == 3 / 6
    assert found["answered-share"] == 1.0


def test_an_answer_that_is_often_right_is_no_repeated_one():
    texts = ["<answer>A</answer>"] * 5 + ["<answer>B</answer>"] * 5
    assert shares(texts, right=[True] * 5 + [False, True, True, True, True])["repeated-answer-share"] == 0.1
    assert shares(["no tags: 7"] * 4)["repeated-answer-share"] == 0.0


def test_completions_without_an_answer_count_in_every_share():
    found = shares(["<answer>7</answer>", "seven", "<answer>", ""])
    assert found["answered-share"] == found["repeated-answer-share"] == 0.25


def test_tags_with_nothing_between_them():
    assert reasons_emptily("<reasoning>\n\n</reasoning>\n<answer>\n7\n</answer>")
    assert reasons_emptily("<think></think> 7")
    assert not reasons_emptily("<think></think><think>3+4</think> 7")
    assert not reasons_emptily("<reasoning>3+4")  # cut off, not empty
    assert shares(["<think></think>7", "<think>3+4</think>7", "7", "7"])["empty-reasoning-share"] == 0.25


def test_loops_by_their_4_grams():
    # 30 tokens have 27 4-grams; a period of 2 leaves 2 distinct ones
    assert repetition([1, 2] * 15) == 1 - 2 / 27
    assert repetition(list(range(40)) + [5, 6] * 30) > 0.5
    assert repetition(list(range(40)) + [5, 6] * 10) < 0.5
    assert shares(["x"] * 2, tokens=[[1] * 30, list(range(30))])["loop-share"] == 0.5


def test_nothing_at_all_has_no_habits():
    assert set(CompletionStats().shares().values()) == {0.0}


def test_answers_that_are_the_same_have_one_meaning():
    assert len({meaning(text) for text in ("1000", "1,000.00", "$1,000", "1000.")}) == 1
    assert meaning("1e3") != meaning("1000")
    assert meaning("10") != meaning("1")
