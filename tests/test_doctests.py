"""The examples in docstrings are true."""

import doctest
import importlib

import pytest

MODULES = [
    "fedgrpo.common.seeds",
    "fedgrpo.common.config",
    "fedgrpo.client.learner.answers",
    "fedgrpo.client.learner.rewards.choice",
    "fedgrpo.client.learner.rewards.citations",
    "fedgrpo.client.learner.rewards.columns",
    "fedgrpo.client.learner.rewards.expressions",
    "fedgrpo.client.learner.rewards.extraction",
    "fedgrpo.client.learner.rewards.gsm8k",
    "fedgrpo.client.learner.rewards.guards",
    "fedgrpo.client.learner.habits",
    "fedgrpo.server.scores",
    "fedgrpo.simulations.evaluation.chat_view",
    "fedgrpo.simulations.doctor.gpu",
    "fedgrpo.simulations.doctor.versions",
    "fedgrpo.simulations.planning.command",
    "fedgrpo.simulations.planning.view",
    "fedgrpo.simulations.screen",
    "fedgrpo.simulations.study.comparison",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
