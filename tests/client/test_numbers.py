"""The rule by which an answer is a number, on the spellings that models use; and the numbers that a text mentions."""

import json
import time
from decimal import Decimal

import pytest
from checkout import GSM8K
from fedgrpo.client.learner.data.answers import as_number, final_answer, last_number, same_answer
from fedgrpo.client.learner.data.judge import is_right, judge
from fedgrpo.client.learner.rewards.gsm8k import correctness, hash_correctness, number_present

NUMBERS = [
    ("18", "18", "digits"),
    (" 18\n", "18", "white space around it"),
    ("18.0", "18", "the same number"),
    ("18.", "18", "a final full stop"),
    ("+18", "18", "a sign"),
    ("-18", "-18", "a sign"),
    ("\u221218", "-18", "a minus sign of mathematics"),
    ("\u201318", "-18", "a dash as a minus sign"),
    (".5", "0.5", "no digit before the point"),
    ("-.5", "-0.5", "no digit before the point"),
    ("007", "7", "leading zeros"),
    ("\uff11\uff18", "18", "full-width digits"),
    ("1,000", "1000", "groups of three"),
    ("1,234,567.50", "1234567.5", "groups of three"),
    ("1{,}000", "1000", "groups of three in LaTeX"),
    (r"1\,000", "1000", "a thin space in LaTeX"),
    (r"1,\!000", "1000", "a comma without space in LaTeX"),
    ("1 000", "1000", "a space between groups"),
    ("12 345 678", "12345678", "a space between groups"),
    ("1\u00a0000", "1000", "a no-break space between groups"),
    ("1\u202f000", "1000", "a narrow no-break space between groups"),
    ("1'000", "1000", "an apostrophe between groups"),
    ("1\u2019000", "1000", "an apostrophe between groups"),
    ("1_000", "1000", "an underscore between groups"),
    ("1,00,000", "100000", "Indian groups"),
    ("12,34,567", "1234567", "Indian groups"),
    ("$18", "18", "a sign for money"),
    ("$ 18", "18", "a sign for money and a space"),
    ("18$", "18", "a sign for money after it"),
    ("18 \u20ac", "18", "a sign for money after it"),
    ("\u20ac18", "18", "a sign for money"),
    ("\u00a318", "18", "a sign for money"),
    ("\u00a518", "18", "a sign for money"),
    ("\u20b918", "18", "a sign for money"),
    (r"\$18", "18", "a sign for money in LaTeX"),
    ("-$5", "-5", "a sign before the one for money"),
    ("$-5", "-5", "a sign after the one for money"),
    ("$-1,000.50", "-1000.50", "a sign after the one for money"),
    ("18%", "18", "percent"),
    ("18 %", "18", "percent"),
    (r"18\%", "18", "percent in LaTeX"),
    ("18\u00b0", "18", "degrees"),
    ("**18**", "18", "mark-up"),
    ("*18*", "18", "mark-up"),
    ("__18__", "18", "mark-up"),
    ("`18`", "18", "mark-up"),
    ("$18$", "18", "mathematics in LaTeX"),
    ("$$18$$", "18", "mathematics in LaTeX"),
    (r"\(18\)", "18", "mathematics in LaTeX"),
    (r"\[18\]", "18", "mathematics in LaTeX"),
    (r"\boxed{18}", "18", "mark-up in LaTeX"),
    (r"$\boxed{18}$.", "18", "several layers, and a full stop"),
    (r"\boxed{\text{18}}", "18", "several layers"),
    (r"\boxed{\$1{,}000}", "1000", "several layers"),
    (r"\mathbf{18}", "18", "mark-up in LaTeX"),
    ("**$18.**", "18", "a full stop inside mark-up"),
    ("**18**.", "18", "a full stop after mark-up"),
]
TEXTS = [
    ("", "nothing"),
    ("18 dollars", "words: 18 thousand is another number"),
    ("18 apples", "words"),
    ("18 percent", "words"),
    ("18kg", "words"),
    ("USD 18", "words"),
    ("x = 18", "an equation"),
    ("= 18", "an equation"),
    ("~18", "about as much"),
    ("18 or 19", "two numbers"),
    ("18, 19", "two numbers"),
    ("18-19", "two numbers"),
    ("5 6", "two numbers"),
    (r"\boxed{5} or \boxed{6}", "two numbers"),
    ("$5$ and $6$", "two numbers"),
    ("(18)", "a bracket: accountants write -18 so"),
    ("18!", "a factorial"),
    ("18,", "a comma"),
    ("18..", "an ellipsis"),
    ("$18%", "two units"),
    ("--18", "two signs"),
    ("-$-18", "two signs"),
    ("- 18", "an item of a list"),
    ("1,00", "no group of three, perhaps a decimal comma"),
    ("1,0000", "no group of three"),
    ("1,000,00", "no group of three"),
    ("1.000,50", "a decimal comma"),
    ("1,000 000", "two kinds of groups"),
    ("1.2.3", "a version"),
    ("1e3", "an exponent"),
    ("1/2", "a fraction"),
    ("1:30", "a time"),
    ("9" * 61, "more digits than any answer has"),
    (" " * 300 + "9" * 300, "more digits than any answer has"),
]


@pytest.mark.parametrize(("text", "number", "reason"), NUMBERS)
def test_a_number_in_any_decoration_is_the_number(text, number, reason):
    assert as_number(text) == Decimal(number), reason
    assert same_answer(text, number), reason
    assert correctness([f"<answer>{text}</answer>", f"<think>19?</think>\n{text}"], [number] * 2) == [2.0, 2.0], reason
    assert hash_correctness([f"so\n#### {text}"], [number]) == [1.0], reason


@pytest.mark.parametrize(("text", "reason"), TEXTS)
def test_anything_more_is_a_text(text, reason):
    assert as_number(text) is None, reason
    assert not any(same_answer(text, number) for number in ("18", "-18", "1000", "1", "5", "100")), reason


def test_the_table_has_at_least_sixty_spellings():
    assert len(NUMBERS) + len(TEXTS) >= 60


@pytest.mark.parametrize(
    ("text", "number", "reason"),
    [
        ("between 10-20", "20", "a hyphen after a digit is no sign"),
        ("between 10\u201320", "20", "nor is a dash"),
        ("x-5", "5", "a hyphen after a letter is no sign"),
        ("(2 + 3)-5", "5", "nor after a bracket"),
        ("20%-5", "5", "nor after a unit"),
        ("$5-$10", "10", "nor between prices"),
        ("it is -5", "-5", "after a space it is"),
        ("it is **-5**", "-5", "and after mark-up"),
        ("x=-5", "-5", "and after an equals sign"),
        ("3*-5", "-5", "and after an operator"),
        ("it costs $-5", "-5", "and after a sign for money"),
        ("so -$1,000 in all", "-1000", "and before one"),
        ("makes 1{,}000", "1000", "a number does not begin inside another"),
        (r"makes 1\,000", "1000", "a number does not begin inside another"),
        ("makes 1 000", "1000", "no number begins with 0"),
        ("makes 12 050", "12050", "no number begins with 0"),
        ("makes 1, 000", "1", "no number begins with 00"),
        ("makes 1,00,000", "100000", "Indian groups"),
        ("on day 2 300 people", "300", "a space also separates numbers"),
        ("100 101 102", "102", "a space also separates numbers"),
        ("3, or 1,2,3", "3", "a run that is no number has none inside"),
        ("3, or 1,00", "3", "a run that is no number has none inside"),
        ("3, or 1.2.4", "3", "a run that is no number has none inside"),
        ("3, or 1e4", "3", "a run that is no number has none inside"),
        ("18th of 5kg", "5", "letters after a number are no part of it"),
        ("18.", "18", "the end of a sentence"),
        ("12/4 = 3", "3", "operators separate numbers"),
        ("none", None, "no number"),
        ("1e4", None, "no number"),
    ],
)
def test_the_last_number_that_a_text_mentions(text, number, reason):
    last = last_number(text)
    assert (None if last is None else as_number(last)) == (None if number is None else Decimal(number)), reason
    assert judge(text, number).lenient is (number is not None), reason
    for other in ("0", "000", "-20", "-10", "-5" if number != "-5" else "5"):
        assert number_present([text], [other]) == [0.0], reason
    if number is not None:
        assert number_present([text], [number]) == [0.5], reason


def test_partial_credit_does_not_begin_inside_a_number_where_the_text_is_cut():
    text = "12345" + "." * 574  # the last 576 characters begin with 45
    assert number_present([text], ["45"]) == [0.0]
    assert number_present(["so 45 " + "." * 400], ["45"]) == [0.5]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>first try <answer>41</answer>, no</think>\n42", "42"),
        ("<think>first try <answer>41</answer>, no</think>\n<answer>42</answer>", "42"),
        ("<think>#### 41</think>\n42", "42"),
        ("<think>41</think>\nso\n#### 42", "42"),
        ("<think>a</think> no <think>b <answer>41</answer></think> 42", "42"),
        ("try <answer>41</answer>, no</think>\n42", "42"),
        ("<think>try <answer>41</answer></think>", None),
        ("<think>try <answer>41</answer></think>\n", None),
        ("<think>try <answer>41</answer></think>\n<answer>4", None),
        ("<think>try <answer>41</answer>, which", None),
        ("41</think><think>try <answer>41</answer>", None),
        ("<reasoning>try <answer>41</answer>, no</reasoning>\n<answer>42</answer>", "42"),
        ("<answer>42</answer>\n<reasoning>because</reasoning>", "42"),
    ],
)
def test_after_thinking_only_what_follows_counts(text, answer):
    assert final_answer(text) == answer
    assert correctness([text], ["41"]) == [0.0]
    assert correctness([text], ["42"]) == [2.0 if answer else 0.0]


HOSTILE = ["9" * 10**5, "1," * 50_000, "1,000," * 20_000, "1 000 " * 20_000, "-" * 10**5, "$" * 10**5, "1{,}" * 30_000]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:6])
def test_numbers_of_a_long_text_are_read_in_no_time(text):
    start = time.process_time()
    last_number(text)
    for wrapped in (text, f"<answer>{text}</answer>", "$" * 99 + text[:100], r"\boxed{" * 28):
        as_number(wrapped)
        number_present([wrapped], ["5"])
    assert time.process_time() - start < 2.0


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the real GSM8K lies beside the checkout only on our own machines")
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_of_gsm8k_is_right_for_itself_and_in_its_worked_answer(split):
    rows = [json.loads(line) for line in (GSM8K / f"{split}.jsonl").read_text().splitlines()]
    assert len(rows) > 1000
    for row in rows:
        worked, reference = row["answer"], row["answer"].rpartition("####")[2].strip()
        assert as_number(reference) is not None, reference
        assert is_right(worked, reference), reference
        assert judge(worked, reference).lenient, reference
        assert hash_correctness([worked], [reference]) == [1.0], reference
        assert number_present([worked], [reference]) == [0.5], reference
        for text in (f"${reference}", f"**{reference}**", f"{reference}.00", rf"\boxed{{{reference}}}"):
            assert is_right(f"<answer>{text}</answer>", reference), text
