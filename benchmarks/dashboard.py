"""How long a long run takes to open on the dashboard.

    python benchmarks/dashboard.py [--quick]

Writes a run of 1,000 rounds with 100 clients and every metric that clients report, and reads it as the page's server
does: everything at once, then one round more. In a browser, if Playwright and Chromium are here, until nine charts are
drawn. Ratios are to reading the same file with `json` alone, in the same run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedgrpo.common.messages.metric_names import TRAIN_METRICS
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.storage.jsonl import append_lines
from fedgrpo.common.web.serve import listen, serving
from fedgrpo.server.run.journal import Committed, Created, Planned, append
from fedgrpo.server.run.layout import RunFolder
from fedgrpo.simulations.dashboard.app import dashboard_app
from fedgrpo.simulations.dashboard.columns import OF_A_ROUND
from fedgrpo.simulations.dashboard.run_view import RunView
from fedgrpo.simulations.dashboard.runs_folder import RunsFolder
from rich.console import Console
from rich.table import Table

CHARTS = 9


def write_run(folder: Path, rounds: int, clients: int) -> None:
    folder.mkdir()
    run = RunFolder(folder)
    run.settings.write_text(RunConfig().with_values({"federation.rounds": rounds}).to_toml())
    names = [f"client-{i}" for i in range(clients)]
    common = dict.fromkeys(("federation", "base_model", "config", "schema", "adapter"), "00")
    append(run.journal, Created(**common), 1.0)
    for number in range(1, rounds + 1):
        planned = Planned(round=number, attempt=1, cohort=tuple(names), adapter="00")
        kept = {"positions": dict.fromkeys(names, number), "strikes": {}}
        append(run.journal, planned, number)
        append(run.journal, Committed(round=number, attempt=1, adapter="00", **kept), number)
    append_lines(run.metrics, (one_round(number, names) for number in range(1, rounds + 1)))


def one_round(number: int, names: list[str]) -> dict[str, object]:
    reported = {name: 0.12345678901234567 for name in TRAIN_METRICS if name != "reward/mean"}
    clients = {name: {"update/share": 0.01, "reward/mean": i + number / 7, **reported} for i, name in enumerate(names)}
    return {"kind": "round", "round": number, **dict.fromkeys(OF_A_ROUND, 1.0), "clients": clients}


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_browser(folder: Path, name: str) -> float | None:
    """Seconds until the charts are drawn, of a server that has not read the run yet; None without a browser."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if program is None:
        return None
    address = listen("127.0.0.1", 0)
    with serving(dashboard_app(RunsFolder(folder)), address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto("about:blank")
        start = time.perf_counter()
        page.goto(f"{address.url}#/run/{name}")
        page.locator(".plot canvas").nth(CHARTS - 1).wait_for(timeout=120_000)
        seconds = time.perf_counter() - start
        browser.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50 rounds of 20 clients")
    rounds, clients = (50, 20) if parser.parse_args().quick else (1000, 100)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        write_run(folder, rounds, clients)
        file = RunFolder(folder).metrics
        plain = seconds_of(lambda: [json.loads(line) for line in file.open("rb")])
        view = RunView(folder, "run")
        whole = seconds_of(lambda: (view.update(), view.overview()))
        append_lines(file, [one_round(rounds + 1, [f"client-{i}" for i in range(clients)])])
        more = seconds_of(lambda: (view.update(), view.overview()))
        drawn = in_browser(Path(place), "run")
        megabytes = file.stat().st_size / 1e6
    table = Table("what", "seconds")
    figures = {"json alone": plain, "the whole run": whole, "one round more": more, "charts in a browser": drawn}
    for name, seconds in figures.items():
        table.add_row(name, "no browser here" if seconds is None else f"{seconds:.2f}")
    Console(width=100).print(f"{rounds} rounds of {clients} clients, {megabytes:.0f} MB", table)
    ratios = {"the whole run to json alone": whole / plain, "one round more to the whole run": more / whole}
    print(json.dumps({"name": "dashboard", "ratios": ratios, "figures": figures}))


if __name__ == "__main__":
    main()
