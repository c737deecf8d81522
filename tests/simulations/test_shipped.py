"""Every TOML that comes along can be read, and says what it is meant to say."""

import pytest
from checkout import ROOT
from fedgrpo.common.settings.run_config import load_scenario
from fedgrpo.simulations.engine.runner import SCENARIOS
from fedgrpo.simulations.study.study_file import read_study

STUDIES = ROOT / "benchmarks" / "studies"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_study_that_comes_along_can_be_played(path):
    study = read_study(path)
    assert len(study.seeds) >= 3
    assert study.problems >= 600


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_scenario_that_comes_along_can_be_read(path):
    assert load_scenario(path).federation.rounds > 0


def test_results_are_those_of_the_studies_that_come_along():
    kept = STUDIES.parent.parent / "docs" / "studies"
    for result in sorted(kept.glob("*/result.json")):
        assert (STUDIES / f"{result.parent.name}.toml").exists()
    assert len(list(kept.glob("*/table.md"))) >= 5
