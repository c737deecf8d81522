"""A real browser for tests of pages: Chromium as the system has it, through Playwright, which downloads none."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser_page(width: int = 1280, theme: str = "light") -> Generator[Any]:
    """Yield a page that fails the test where a script failed or a request went to another machine.

    Skips the test where Playwright or a browser is missing.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is on the path")
    errors: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: _only_local(request.url, errors))
        yield page
        browser.close()
    assert not errors, errors


def violations(page: Any) -> list[str]:
    """Return what axe-core finds wrong with a page's accessibility."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    found = axe.run(page).response["violations"]
    return [f"{each['id']}: {each['help']} ({each['nodes'][0]['html'][:120]})" for each in found]


def _only_local(url: str, errors: list[str]) -> None:
    place = urlsplit(url)
    if place.scheme not in ("data", "blob", "file") and place.hostname not in ("127.0.0.1", "localhost"):
        errors.append(f"a request left this machine: {url}")
