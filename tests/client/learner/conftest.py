"""One model for all tests of the learner."""

import pytest
from learners import make_config, make_model


@pytest.fixture(scope="package")
def config():
    return make_config()


@pytest.fixture(scope="package")
def model(config):
    return make_model(config)
