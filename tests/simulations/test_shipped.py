"""Every TOML that comes along can be read, and says what it is meant to say."""

import json
from statistics import fmean, stdev

import pytest
from checkout import ROOT
from fedgrpo.common.analysis.bootstrap import Difference, t95
from fedgrpo.common.settings.run_config import load_scenario
from fedgrpo.simulations.engine.runner import SCENARIOS
from fedgrpo.simulations.study.comparison import sentence
from fedgrpo.simulations.study.study_file import read_study
from fedgrpo.simulations.study.table import markdown

STUDIES = ROOT / "benchmarks" / "studies"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_study_that_comes_along_can_be_played(path):
    study = read_study(path)
    assert len(study.seeds) >= 3
    fewest = 700 if study.scenario == "smollm2" else 1500  # a run on a real model takes 20 minutes
    assert len(study.seeds) * study.problems >= fewest


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_scenario_that_comes_along_can_be_read(path):
    assert load_scenario(path).federation.rounds > 0


def test_results_are_those_of_the_studies_that_come_along():
    kept = STUDIES.parent.parent / "docs" / "studies"
    for result in sorted(kept.glob("*/result.json")):
        assert (STUDIES / f"{result.parent.name}.toml").exists()
    assert len(list(kept.glob("*/table.md"))) >= 5


def results():
    return sorted((ROOT / "docs" / "studies").glob("*/result.json"))


@pytest.mark.parametrize("path", results(), ids=lambda path: path.parent.name)
def test_a_verdict_follows_from_the_seeds_as_well_as_from_the_bootstrap(path):
    result = json.loads(path.read_text())
    comparisons = [comparison for arm in result["arms"].values() for comparison in arm["against"]]
    for comparison in comparisons:
        low, high = comparison["interval"]
        by_seed = list(comparison["by_seed"].values())
        mean, half = fmean(by_seed), t95(len(by_seed)) * stdev(by_seed) / len(by_seed) ** 0.5
        assert low <= mean - half + 2e-5, comparison["sentence"]
        assert high >= mean + half - 2e-5, comparison["sentence"]
        found = Difference(mean=comparison["difference"], low=low, high=high, by_seed=tuple(by_seed))
        assert comparison["sentence"] == sentence(comparison["label"], result["baseline"], found)
    assert result["sentences"] == [comparison["sentence"] for comparison in comparisons]


@pytest.mark.parametrize("path", results(), ids=lambda path: path.parent.name)
def test_the_tables_of_the_results_page_are_those_of_the_result_files(path):
    result, page = json.loads(path.read_text()), (ROOT / "docs" / "results.md").read_text()
    assert (path.parent / "table.md").read_text() == markdown(result)
    rows = [line for line in markdown(result).splitlines() if line.startswith("|")]
    assert "\n".join(rows) in page
