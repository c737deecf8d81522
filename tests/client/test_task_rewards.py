"""Rewards for real tasks: what each pays, what it does not fall for, and what it says when something is missing."""

import contextlib
import json
import os
import sys
import time

import pytest
from fedgrpo.client.learner import sandbox
from fedgrpo.client.learner.rewards import FUNCTIONS, columns, expressions, load_rewards, program, try_rewards
from fedgrpo.client.learner.rewards.choice import chosen_letter, multiple_choice
from fedgrpo.client.learner.rewards.citations import answer_precision, citation_support
from fedgrpo.client.learner.rewards.columns import same_value
from fedgrpo.client.learner.rewards.expressions import MathWorker, math_verify
from fedgrpo.client.learner.rewards.extraction import NoJSON, json_fields, json_schema, read_json, valid_json
from fedgrpo.client.learner.rewards.gsm8k import hash_correctness, number_present
from fedgrpo.client.learner.rewards.guards import (
    length_penalty,
    repetition_penalty,
    trailing_text,
    truncation_penalty,
)
from fedgrpo.client.learner.rewards.program import code_tests, code_tests_unsafe, read_code
from fedgrpo.common.errors import ConfigError, RewardError
from hypothesis import given, settings
from hypothesis import strategies as st

REASONED = (
    "Natalia sold 48 clips in April and half as many in May, so 48 / 2 = 24 clips in May. Altogether she sold "
    "48 + 24 = 72 clips in the two months.\n#### 72"
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# the strict mark, partial credit, guards


@pytest.mark.parametrize(
    ("text", "paid"),
    [
        (REASONED, 1.0),
        ("#### -1,072.0\n", 0.0),
        ("#### 72.", 1.0),
        ("#### 72 #### 72", 0.0),
        ("#### " * 200 + "72", 0.0),
        ("#### #### ####", 0.0),
        ("##### 72", 0.0),
        ("#### 72 and that is all", 0.0),
        ("72", 0.0),
        ("####", 0.0),
        ("", 0.0),
    ],
)
def test_the_strict_mark_stands_once_and_the_number_ends_the_completion(text, paid):
    assert hash_correctness([text], answer=["72"]) == [paid]


def test_partial_credit_is_for_a_number_near_the_end():
    assert number_present([REASONED, "<answer>half of 72", "71", ""], answer=["72"] * 4) == [0.5, 0.5, 0.0, 0.0]
    counting = " ".join(map(str, range(1000)))
    paid = [number_present([counting], answer=[str(n)])[0] for n in range(1000)]
    assert sum(paid) == 8 * 0.5
    assert number_present(["Paris"], answer=["Paris"]) == [0.0]


@pytest.mark.parametrize("loop", ["#### ", "#### 72 ", "so 4 + 4 = 8. ", "ha", "7", "<answer>", "答案是", "\n"])
def test_a_loop_costs_nearly_all_and_no_loop_nothing(loop):
    (fine,) = repetition_penalty([loop * 400])
    assert fine < -0.9 or not loop.strip()
    assert repetition_penalty([REASONED, "", "72"]) == [0.0, 0.0, 0.0]


def test_reasoning_that_starts_to_loop_is_fined_in_proportion():
    fines = [repetition_penalty([REASONED + " so 72, or 72 again" * n])[0] for n in (0, 5, 20, 80)]
    assert fines == sorted(fines, reverse=True)
    assert fines[0] == 0.0 > fines[-1]


def test_length_and_trailing_text_cost_at_most_their_weight():
    assert length_penalty(["x" * 4000, "x" * 400_000]) == [-1.0, -1.0]
    assert trailing_text(["<answer>1</answer>" + "x" * 250, "<answer>1</answer>" + "x" * 9999]) == [-0.25, -1.0]


def test_cut_off_is_what_the_trainer_says_and_nothing_is_guessed():
    assert truncation_penalty(["a", "b"], truncated=[True, False]) == [-1.0, 0.0]
    assert truncation_penalty(["a", "b"]) == [None, None]


# math-verify


@pytest.fixture(scope="module")
def worker():
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'fedgrpo[rewards]'")
    made = MathWorker(limit_s=2.0)
    yield made
    made.end()


@pytest.mark.parametrize(
    ("text", "right", "same"),
    [
        (r"<answer>\frac{1}{2}</answer>", "0.5", True),
        (r"so the result is \boxed{2\sqrt{3}}", r"\sqrt{12}", True),
        (r"<answer>x^2 + 2x + 1</answer>", "(x+1)^2", True),
        (r"<answer>$(1, 2]$</answer>", "(1,2]", True),
        (r"<answer>$\{1, 2\}$</answer>", r"\{2, 1\}", True),
        ("<answer>0.6</answer>", "0.5", False),
        ("no idea", "0.5", False),
        ("", "", False),
        ("\\frac{" * 5000, "1", False),
        ("\ud800\n\0", "1", False),
    ],
)
def test_expressions_are_compared_by_meaning(worker, text, right, same):
    assert worker.equal(text, right) is same


def test_an_answer_that_never_ends_pays_nothing_and_the_next_is_judged(worker):
    assert worker.equal("<answer>0.5</answer>", "1/2")
    first, start = worker._process.pid, time.monotonic()
    assert not worker.equal("<answer>$9^{9^{9^{9^{9}}}} + 1$</answer>", "9^{9^{9^{9^{9}}}}")
    assert not worker.equal("<answer>$" + "(" * 400 + "x" + ")!" * 400 + "$</answer>", "(x^{77777777}+1)^{7777777}")
    assert time.monotonic() - start < 2 * (worker.limit_s + expressions.GRACE_S) + 1
    assert worker.equal("<answer>0.5</answer>", "1/2")
    assert worker._process.pid != first or worker._process.poll() is None


def test_a_worker_that_hangs_or_dies_is_replaced_and_none_is_left(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys, time\nprint('ready', flush=True)\nfor line in sys.stdin:\n"
        "    given = json.loads(line)['given']\n    if given == 'hang': time.sleep(60)\n"
        "    if given == 'die': os._exit(1)\n    print('true', flush=True)\n"
    )
    monkeypatch.setattr(expressions, "SCRIPT", script)
    monkeypatch.setattr(expressions, "GRACE_S", 0.1)
    own, before = MathWorker(limit_s=0.2), len(os.listdir("/proc/self/fd"))
    found, processes = [], []
    for text in ("1", "hang", "1", "die", "1"):
        found.append(own.equal(text, "1"))
        processes.append(own._process)
    assert found == [True, False, True, False, True]
    assert processes[1] is processes[3] is None
    own.end()
    assert all(process is None or process.poll() is not None for process in processes)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_real_worker_ends_itself_when_nobody_is_left_to_kill_it(worker):
    """The timer is the kernel's: it also ends a worker whose parent was killed."""
    own = MathWorker(limit_s=0.001)
    try:
        assert not own.equal(r"\boxed{\int_0^1 \frac{x^9}{1+x}}", r"\frac{1}{7}")
        assert own._process is None
    finally:
        own.end()


# JSON


SCHEMA = json.dumps({"type": "object", "required": ["age"], "properties": {"age": {"type": "integer", "minimum": 0}}})


@pytest.mark.parametrize(
    ("text", "valid", "fits"),
    [
        ('{"age": 4}', 1.0, 1.0),
        ('Here:\n```json\n{"age": 4}\n```\ndone', 1.0, 1.0),
        ('<think>{"age": -1}</think><answer>{"age": 4}</answer>', 1.0, 1.0),
        ('{"age": -4}', 1.0, 0.0),
        ('{"age": "4"}', 1.0, 0.0),
        ("[]", 1.0, 0.0),
        ('{"age": 4', 0.0, 0.0),
        ('{"age": NaN}', 0.0, 0.0),
        ("4", 0.0, 0.0),
        ("[" * 50_000, 0.0, 0.0),
        ('{"age": ' + "9" * 9000 + "}", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_json_is_read_where_it_belongs_and_checked_against_the_schema(text, valid, fits):
    pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install 'fedgrpo[rewards]'")
    assert valid_json([text]) == [valid]
    assert json_schema([text], schema=[SCHEMA]) == [fits]


def test_a_schema_that_is_none_or_points_elsewhere_is_an_error_and_fetches_nothing():
    pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install 'fedgrpo[rewards]'")
    with pytest.raises(ValueError, match="is not a JSON Schema"):
        json_schema(["{}"], schema=['{"type": "objekt"}'])
    with pytest.raises(Exception, match="Unresolvable"):
        json_schema(["{}"], schema=['{"$ref": "http://127.0.0.1:9/schema.json"}'])
    with pytest.raises(ConfigError, match="json-schema needs a column 'schema'.*data.labels"):
        json_schema(["{}"])


def test_fields_that_are_missing_wrong_or_made_up_count():
    right = '{"name": "Ann Lee", "ages": [4, 5], "none": {}}'
    texts = [right, '{"name": "ann lee", "ages": [4.0, 5], "none": {}}', '{"name": "Ann Lee"}', '{"x": 1}', "{}", "no"]
    assert json_fields(texts, answer=[right] * 6) == pytest.approx([1.0, 1.0, 0.25, 0.0, 0.0, 0.0])
    assert json_fields(['{"ok": 1}'], answer=['{"ok": true}']) == [0.0]
    many = json.dumps({**json.loads(right), **{str(n): n for n in range(96)}})
    assert json_fields([many], answer=[right]) == pytest.approx([0.04])


@given(ANY_JSON)
@settings(max_examples=40)
def test_a_document_equals_itself_after_any_way_of_writing_it(value):
    again = json.loads(json.dumps(value, indent=2))
    assert same_value(value, again)
    if isinstance(value, (dict, list)):
        assert json_fields([json.dumps(value)], answer=[json.dumps(value)]) == [1.0]


@given(st.text(max_size=80))
def test_reading_json_is_total(text):
    with contextlib.suppress(NoJSON):
        assert isinstance(read_json(text), (dict, list))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (None, False, False),
        ("a", "A", False),
        (0.1 + 0.2, 0.3, True),
        (0.3 * (1 + 1e-8), 0.3, False),
        (1e15, 1e15 + 0.125, True),
        (10**30, 10**30 + 1, False),
        (float(10**12), 10**12 + 1, False),
        (float(10**12), 10**12, True),
        (6.000000001, 6, False),
        (2432902008176640000 * (1 + 9e-10), 2432902008176640000, False),
        ([[1, {"a": 7.000000001}]], [[1, {"a": 7}]], False),
        ([[1, {"a": 7.0}]], [[1, {"a": 7}]], True),
        ([{"a": True}], [{"a": 1}], False),
        (float("inf"), 10**400, False),
        (10**400, 1.5, False),
        ([1, 2], [1, 2, 3], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("1", 1, False),
    ],
)
def test_values_are_the_same_or_not(one, other, same):
    assert same_value(one, other) is same
    assert same_value(other, one) is same


# multiple choice


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<answer>B</answer>", "B"),
        ("<answer> (b) </answer>", "B"),
        ("<answer>B. Paris</answer>", "B"),
        ("<answer>B) Paris\nand more</answer>", "B"),
        (r"<answer>\boxed{B}</answer>", "B"),
        ("<answer>The answer is B</answer>", "B"),
        ("<think>A? No.</think>\nB", "B"),
        ("#### B", "B"),
        ("I think A at first. The answer is **B**.", "B"),
        (r"so \boxed{\text{B}}", "B"),
        ("Answer: (B)", "B"),
        ("答案是B", "B"),
        ("答案:B。", "B"),
        ("It is this one:\nB", "B"),
        ("**B**", "B"),
        ("$B$", "B"),
        ("<answer>A or B</answer>", None),
        ("<answer>A, B</answer>", None),
        ("<answer>B and C</answer>", None),
        ("The answer is A or B", None),
        ("<answer>Because</answer>", None),
        ("<answer>A dog</answer>", None),
        ("The answer is Apple", None),
        ("A", "A"),
        ("a", None),
        ("Z", None),
        ("", None),
    ],
)
def test_a_letter_is_read_however_it_is_dressed_and_two_are_none(text, letter):
    assert chosen_letter(text) == letter


def test_the_reference_must_be_a_letter():
    assert multiple_choice(["<answer>C</answer>"], answer=["(c)"]) == [1.0]
    with pytest.raises(ValueError, match="letter from A to J as the answer, not 'Paris'"):
        multiple_choice(["<answer>C</answer>"], answer=["Paris"])


@given(st.text(st.sampled_from("ABCabc ()[]*.:$\\boxed{}answer is答案是\n"), max_size=60))
def test_choosing_is_total(text):
    assert chosen_letter(text) in {None, *"ABCDEFGHIJ"}


# citations


DOCUMENTS = json.dumps([{"id": "d1", "text": "Paris lies on the Seine."}, {"id": "d2", "text": "Bonn: the Rhine."}])


def test_only_documents_that_bear_the_answer_out_are_paid():
    texts = ["Seine [d1]", "Seine [d2]", "Seine [d1, d2]", "Seine [d1][d1]", "Seine [d1][x]", "Seine", "[d1][d2][x][y]"]
    paid = citation_support(texts, ["Seine"] * 7, documents=[DOCUMENTS] * 7)
    assert paid == [1.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.25]
    assert citation_support(["x [d2]"], ["Seine"], documents=[DOCUMENTS], sources=['["d2"]']) == [1.0]
    assert citation_support(["x [d9]"], ["Seine"], documents=[DOCUMENTS], sources=['["d9"]']) == [0.0]
    assert citation_support(["x [d1]"], ["Sein"], documents=[DOCUMENTS]) == [0.0]


def test_wrong_documents_are_named():
    with pytest.raises(ConfigError, match="needs a column 'documents'"):
        citation_support(["x"], ["y"])
    with pytest.raises(ValueError, match="needs documents as"):
        citation_support(["x"], ["y"], documents=["[1]"])
    with pytest.raises(ValueError, match="needs JSON in the column 'documents', not 'Paris'"):
        citation_support(["x"], ["y"], documents=["Paris"])


def test_precision_pays_neither_one_right_word_nor_all_words():
    right = "the river Seine in France"
    exact, part, stuffed, wrong = answer_precision(
        [f"<answer>{t}</answer>" for t in (right + " [d1]", "Seine", right + " or any other river", "Rhine")],
        answer=[right] * 4,
    )
    assert exact == 1.0 > part > 0.0 == wrong
    assert 0.0 < stuffed < 1.0


# code


ADD = json.dumps({"function": "add", "tests": [{"args": [1, 2], "result": 3}, {"args": [[1], [2]], "result": [1, 2]}]})
needs_sandbox = pytest.mark.skipif(sandbox.level().startswith("none"), reason=f"no sandbox here, {sandbox.level()}")


def fenced(code):
    return f"Here it is:\n```python\n{code}\n```\n"


@needs_sandbox
def test_code_is_paid_for_what_it_returns_and_for_nothing_else():
    claims = [
        "def add(a, b):\n    return a + b",
        "def add(a, b):\n    return 3",
        "def add(a, b):\n    print(3)",
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "class Any:\n    __eq__ = lambda *_: True\nadd = lambda a, b: Any()",
        "import json\njson.dumps = lambda *_, **__: '3'\ndef add(a, b):\n    return a + b",
        "import os\nos.write(3, b'[[3], [[1, 2]]]')\nos._exit(0)",
        "import builtins\nbuiltins.all = lambda *_: True\ndef add(a, b): return 0",
        "def sub(a, b):\n    return a - b",
        "",
    ]
    found = code_tests([fenced(code) for code in claims] + ["no code"], answer=[ADD] * 12)
    assert found[0] == 1.0
    assert found[1:7] == [0.0] * 6
    # Whoever writes the right values has worked them out: a claim is all that a sandbox can hand over.
    assert found[7] == 1.0
    assert found[8:] == [0.0] * 4


@needs_sandbox
def test_the_results_wanted_are_nowhere_in_the_sandbox():
    secret = 884_422_313
    code = (
        "import gc, sys\ndef find():\n    seen = [sys.argv, dict(globals())]\n    frame = sys._getframe()\n"
        "    while frame:\n        seen.append(dict(frame.f_locals)); frame = frame.f_back\n"
        "    text = repr(seen) + repr([o for o in gc.get_objects() if isinstance(o, (dict, list))])\n"
        "    return ''.join(['8844', '22313']) in text\n"
    )
    answer = json.dumps({"function": "find", "tests": [{"args": [], "result": secret}]})
    assert code_tests([fenced(code)], answer=[answer]) == [0.0]
    assert sandbox.call(code, "find", ["[]"]) == [sandbox.Returned(False)]


def test_the_code_is_in_the_last_fence_or_in_the_answer():
    assert read_code(fenced("a = 1") + fenced("def f(): 1")) == "def f(): 1\n"
    assert read_code("<answer>def f(): pass</answer>") == "def f(): pass"
    assert read_code("<answer>42</answer>") is None
    assert read_code("```\nx\n```") == "x\n"


@needs_sandbox
@pytest.mark.parametrize("answer", ["42", '{"function": "f"}', '{"function": "f", "tests": []}', "[1]", "{'a': 1}"])
def test_a_row_that_holds_no_tests_is_named(answer):
    with pytest.raises(ValueError, match="code-tests needs"):
        code_tests(["x"], answer=[answer])


def test_no_sandbox_is_found_before_training_and_unsafe_is_said_in_the_reward_s_name(monkeypatch):
    monkeypatch.setattr(sandbox.calls, "best", lambda: "none: nothing here")
    row = {"prompt": [{"role": "user", "content": "add"}], "answer": ADD}
    with pytest.raises(ConfigError, match=r"no sandbox for model-written code \(nothing here\).*code-tests-unsafe"):
        try_rewards(load_rewards("code-tests"), row)
    try_rewards(load_rewards("code-tests-unsafe"), row)
    assert code_tests_unsafe([fenced("def add(a, b): return a + b")], answer=[ADD]) == [1.0]


@needs_sandbox
def test_the_same_completion_is_run_once(monkeypatch):
    runs = []
    monkeypatch.setattr(program, "call", lambda *job, **_: runs.append(job) or [sandbox.Raised("Died")] * 2)
    assert code_tests([fenced("def add(a, b): pass")] * 8, answer=[ADD] * 8) == [0.0] * 8
    assert len(runs) == 1


# all of them


@pytest.mark.parametrize(("reward", "module"), [("math-verify", "math_verify"), ("json-schema", "jsonschema")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch, reward, module):
    monkeypatch.setitem(sys.modules, module, None)
    row = {"prompt": [{"role": "user", "content": "?"}], "answer": "1", "schema": "{}"}
    with pytest.raises(ConfigError, match=rf"The reward {reward} needs {module}.*pip install 'fedgrpo\[rewards\]'"):
        try_rewards(load_rewards(reward), row)


def test_every_function_says_what_it_pays():
    for name, function in FUNCTIONS.items():
        first = (function.__doc__ or "").splitlines()[0]
        assert first.endswith((".", ".)", "it.")) or ":" in first, name
        assert load_rewards(name)[0].name == name


def test_what_a_built_in_raises_about_the_data_names_the_reward():
    row = {"prompt": [{"role": "user", "content": "?"}], "answer": "Paris"}
    with pytest.raises(RewardError, match=r"The reward multiple-choice .* letter from A to J"):
        try_rewards(load_rewards("multiple-choice"), row)


def test_math_verify_is_a_reward():
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'fedgrpo[rewards]'")
    assert math_verify([r"\boxed{\frac{3}{4}}", "<answer>3/5</answer>"], answer=["0.75", "0.75"]) == [1.0, 0.0]
    assert columns.library("math-verify", "math_verify").__name__ == "math_verify"
