"""The examples in docstrings are true."""

import doctest
import importlib

import pytest

MODULES = [
    "fedgrpo.common.seeds",
    "fedgrpo.common.settings.run_config",
    "fedgrpo.client.learner.data.answers",
    "fedgrpo.client.learner.rewards.choice",
    "fedgrpo.client.learner.rewards.citations",
    "fedgrpo.client.learner.rewards.columns",
    "fedgrpo.client.learner.rewards.expressions",
    "fedgrpo.client.learner.rewards.extraction",
    "fedgrpo.common.cli.extras",
    "fedgrpo.client.learner.rewards.gsm8k",
    "fedgrpo.client.learner.rewards.guards",
    "fedgrpo.client.learner.training.completion_stats",
    "fedgrpo.common.analysis.scores",
    "fedgrpo.simulations.evaluation.chat_view",
    "fedgrpo.simulations.doctor.gpu",
    "fedgrpo.simulations.doctor.versions",
    "fedgrpo.simulations.planning.command",
    "fedgrpo.simulations.planning.view",
    "fedgrpo.simulations.report.live_view",
    "fedgrpo.simulations.study.comparison",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
