"""The report in a real browser: both themes, a phone, printed, and without a request to anywhere."""

import export_runs
import pytest
from browser import browser_page, violations
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from fedgrpo.simulations.report.html import write_report

pytestmark = pytest.mark.e2e


@pytest.fixture
def report(tmp_path):
    export_runs.make_run(tmp_path / "run-7", BUILTIN_POLICY, export_runs.settings("builtin"))
    return write_report(Run.read(tmp_path / "run-7"))


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_it_is_accessible_and_fits(report, width, theme):
    with browser_page(width, theme) as page:
        page.goto(report.as_uri())
        assert violations(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(",")))
        assert (brightness > 600) == (theme == "light")


def test_it_is_printed_on_white(report):
    with browser_page(theme="dark") as page:
        page.goto(report.as_uri())
        page.emulate_media(media="print")
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert len(page.pdf()) > 10_000
