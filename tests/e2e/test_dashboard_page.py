"""The dashboard in a real browser: a run watched to its end, runs compared, both themes, a phone, a long run."""

import json
import shutil
import subprocess
import sys
import threading
import time

import pytest
from browser import browser_page, violations
from federation import play, settings
from fedgrpo.common.storage.jsonl import append_line, append_lines
from fedgrpo.common.web.serve import listen, serving
from fedgrpo.simulations.dashboard.app import dashboard_app, organisation_app
from fedgrpo.simulations.dashboard.egress_view import EgressView
from fedgrpo.simulations.dashboard.runs_folder import RunsFolder

pytestmark = pytest.mark.e2e
EVIL = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>\x1b[2J"


@pytest.fixture
def folder(tmp_path):
    return play(settings(tmp_path)).folder


@pytest.fixture
def site(folder):
    """Address of a dashboard of a folder that holds one finished run."""
    address = listen("127.0.0.1", 0)
    with serving(dashboard_app(RunsFolder(folder.parent)), address):
        yield address.url


def drawn(page):
    return page.locator(".plot canvas")


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_list_and_run_are_drawn_and_accessible(folder, site, width, theme):
    with browser_page(width, theme) as page:
        page.goto(site)
        page.get_by_role("link", name=folder.name).wait_for()
        assert violations(page) == []
        page.get_by_role("link", name=folder.name).click()
        drawn(page).nth(5).wait_for()
        assert "finished" in page.locator("main").inner_text()
        assert violations(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.evaluate("() => document.documentElement.dataset.theme") == theme


def test_the_theme_is_switched_and_kept(folder, site):
    with browser_page() as page:
        page.goto(f"{site}#/run/{folder.name}")
        drawn(page).first.wait_for()
        page.get_by_role("button", name="Switch between dark and light").click()
        assert page.locator("html").get_attribute("data-theme") == "dark"
        page.reload()
        drawn(page).first.wait_for()
        assert page.locator("html").get_attribute("data-theme") == "dark"


def test_values_can_be_read_without_the_picture(folder, site):
    with browser_page() as page:
        page.goto(f"{site}#/run/{folder.name}")
        figure = page.locator("figure", has_text="Reward of each client")
        figure.locator("canvas").wait_for()
        assert "Last values: " in figure.get_by_role("img").get_attribute("aria-label")
        figure.locator("summary").click()
        last = figure.locator("tbody tr").first.locator("td").all_inner_texts()
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        final = [line for line in metrics if line["kind"] == "round"][-1]
        assert last[0] == str(final["round"])
        rewards = [part["reward/mean"] for _, part in sorted(final["clients"].items())]
        assert [float(text) for text in last[1:]] == pytest.approx(rewards, rel=0.06)


def test_runs_are_compared(folder, site):
    shutil.copytree(folder, folder.parent / "other")
    with browser_page() as page:
        page.goto(site)
        for name in (folder.name, "other"):
            page.get_by_role("checkbox", name=f"Compare {name}").check()
        page.get_by_role("button", name="Compare").click()
        drawn(page).nth(1).wait_for()
        assert page.get_by_role("heading", level=1).inner_text() == "2 runs compared"
        assert violations(page) == []


def test_texts_of_others_stay_text(folder, site):
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().replace('"org-0"', json.dumps(EVIL)))
    sample = {"round": 0, "client": EVIL, "question": EVIL, "answer": EVIL, "before": EVIL, "after": EVIL}
    append_line(folder / "samples.jsonl", sample)
    with browser_page() as page:
        page.goto(f"{site}#/run/{folder.name}")
        page.locator(".sample").first.wait_for()
        assert "<img src=x" in page.locator(".sample pre").first.inner_text()
        assert page.evaluate("() => window.hacked") is None
        assert page.locator("main img[src]").count() == 0


def test_a_run_that_cannot_be_read_is_told(folder, site):
    with (folder / "journal.jsonl").open("a") as file:
        file.write("[]\n")
    with browser_page() as page:
        page.goto(site)
        row = page.get_by_role("row", name="damaged")
        row.wait_for()
        assert "is damaged: it is not a JSON object" in row.inner_text()
        assert row.get_by_role("link").count() == 0


def test_a_live_run_is_watched_to_its_end(tmp_path):
    words = ["simulate", "builtin", "--clients", "2", "--rounds", "3", "--out", str(tmp_path), "--run", "live"]
    quick = ["--set", "train.steps-per-round=1", "--set", "evaluation.problems=20", "--dashboard"]
    command = [sys.executable, "-m", "fedgrpo", *words, *quick]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        line = next(line for line in process.stderr if line.startswith("Dashboard"))
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        url = line.split()[1].partition("#")[0]
        address = listen("127.0.0.1", 0)
        with browser_page() as page:
            page.goto(url)
            assert page.get_by_role("heading", level=1).inner_text() == "Runs"
            with serving(dashboard_app(RunsFolder(tmp_path)), address):  # the run's own page ends with it
                deadline = time.monotonic() + 120
                while not (tmp_path / "live" / "journal.jsonl").exists() and time.monotonic() < deadline:
                    time.sleep(0.2)
                page.goto(f"{address.url}#/run/live")
                page.locator("span.state.running").wait_for(timeout=60_000)
                page.locator("span.state.finished").wait_for(timeout=240_000)
                assert "3 rounds, finished. Sampled accuracy" in page.locator("main").inner_text()
                assert page.locator(".sample").count() > 0
                page.goto("about:blank")
        assert process.wait(60) == 0
        rest.join()
    finally:
        process.kill()


def test_a_run_of_a_thousand_rounds_and_a_hundred_clients_is_drawn(folder, site):
    big = folder.parent / "big"
    shutil.copytree(folder, big)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    line = next(line for line in metrics if line["kind"] == "round")
    part = next(iter(line["clients"].values()))
    part = {**part, **{f"reward/one-{i}/mean": 0.5 for i in range(24 - len(part))}}
    line["clients"] = {f"client-{i}": {**part, "reward/mean": i / 100} for i in range(100)}
    append_lines(big / "metrics.jsonl", ({**line, "round": number} for number in range(4, 1001)))
    with browser_page() as page:
        page.goto(f"{site}#/run/big")
        page.get_by_text("100 lines; names and values in the table").first.wait_for()
        assert drawn(page).count() > 8
        reward = page.locator("figure", has_text="Reward of each client").get_by_role("img")
        assert "rounds 1 to 1000" in reward.get_attribute("aria-label")


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_an_organisation_sees_what_leaves_while_it_leaves(tmp_path, width, theme):
    field = {"name": "vector.update", "type": "f4", "bytes": 40, "sha256": "ab" * 32, "norm": 1.25}
    line = {"time": 1e9, "answers": "train", "to": EVIL, "sent": True, "bytes": 100, "fields": [field]}
    record = tmp_path / "egress.jsonl"
    append_line(record, {**line, "number": 1})
    address = listen("127.0.0.1", 0)
    with (
        serving(organisation_app(EgressView(record, "clinic-a")), address),
        browser_page(width, theme) as page,
    ):
        page.goto(address.url)
        page.get_by_role("heading", name="clinic-a: what has left").wait_for()
        page.locator("summary").first.click()
        page.get_by_text("vector.update").wait_for()
        assert violations(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        append_line(record, {**line, "number": 3})
        page.get_by_text("Messages are missing from the record: 2").wait_for()
        assert page.get_by_text("vector.update").last.is_visible()  # what was opened stays open
        assert page.evaluate("() => window.hacked") is None
        page.goto("about:blank")
