"""The playground in a real browser: values change as one types, languages are switched, a saved file is read again."""

import json

import pytest
from browser import browser_page, violations
from fedgrpo.client.learner.rewards.advantages import advantages
from fedgrpo.client.playground.app import playground_app
from fedgrpo.client.playground.scoring import Workbench
from fedgrpo.common.web.serve import listen, serving

pytestmark = pytest.mark.e2e
OWN = "def mine(completions, **_):\n    return [{PAY} * len(c[0]['content']) for c in completions]\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN.replace("{PAY}", "1.0"))
    return path


@pytest.fixture
def site(file, tmp_path):
    samples = tmp_path / "samples.jsonl"
    rows = [{"question": "q", "answer": "4", "completion": text} for text in ("<b>four</b>", "4", "no")]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    address = listen("127.0.0.1", 0)
    with serving(playground_app(Workbench(f"correctness,{file}:mine=0.5", samples)), address):
        yield address.url


def number(text):
    return float(text.split()[-1])


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_it_is_accessible_and_fits(site, width, theme):
    with browser_page(width, theme) as page:
        page.goto(site)
        page.get_by_text("pays").first.wait_for()
        assert violations(page) == []
        page.get_by_role("button", name="中文").click()
        assert violations(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_values_change_as_one_types_and_advantages_are_the_formulas(site):
    with browser_page() as page:
        page.goto(site)
        page.get_by_text("sum 5.5").wait_for()  # eleven characters, half a point each
        page.get_by_label("Completion 3").fill("<answer>4</answer>")
        page.get_by_text("read 4, which equals 4").wait_for()
        sums = [number(text) for text in page.locator(".sum").all_inner_texts()]
        shown = [number(text) for text in page.locator(".advantage").all_inner_texts()]
        assert sums == [5.5, 0.5, 2 + 9]
        expected = advantages([[[x] for x in sums]], [1.0]).advantage[0]
        assert shown == pytest.approx(expected.tolist(), abs=6e-5)
        page.get_by_label("Weight of mine").fill("0")
        page.locator(".sum", has_text="sum 2").wait_for()
        page.get_by_label("Completion 3").fill("no")
        page.get_by_text("nothing is learned from it").wait_for()


def test_the_language_is_switched_with_every_text(site):
    with browser_page() as page:
        page.goto(site)
        page.get_by_text("pays").first.wait_for()
        page.get_by_role("button", name="中文").click()
        page.get_by_role("heading", name="奖励试验台").wait_for()
        assert page.locator("html").get_attribute("lang") == "zh"
        text = page.locator("body").inner_text()
        assert "规定位置没有答案" in text
        assert "found no answer" not in text
        page.reload()
        page.get_by_role("heading", name="奖励试验台").wait_for()


def test_a_saved_file_is_read_again(site, file):
    with browser_page() as page:
        page.goto(site)
        page.get_by_text("sum 5.5").wait_for()
        file.write_text(OWN.replace("{PAY}", "2.0"))
        page.get_by_text("sum 11").wait_for(timeout=10_000)
        assert [number(text) for text in page.locator(".sum").all_inner_texts()] == [11, 1, 2]
        assert page.get_by_role("status").first.inner_text().startswith("read again at")


def test_completions_stay_text_and_groups_can_be_changed(site):
    with browser_page() as page:
        page.goto(site)
        page.get_by_text("pays").first.wait_for()
        assert page.get_by_label("Completion 1").input_value() == "<b>four</b>"
        assert page.locator("main b", has_text="four").count() == 0
        page.get_by_role("button", name="Add a completion").click()
        assert page.locator(".completion").count() == 4
        page.get_by_role("button", name="Remove").last.click()
        assert page.locator(".completion").count() == 3
        page.locator("#rewards").select_option("extraction")
        page.get_by_text("age is missing, and should be 4").first.wait_for()
        assert page.get_by_label("Column schema").count() == 1
