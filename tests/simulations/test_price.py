"""What a private simulation says before it begins is what its clients are charged."""

import json

import pytest
from fedgrpo.client.learner.privacy.spent import FILE, Spent
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine.price import price_in_words

import fedgrpo

SETTINGS = {
    "dp.noise-multiplier": 1.5,
    "dp.clip-norm": 0.05,
    "grpo.loss-type": "dr_grpo",
    "aggregation.weights": "uniform",
    "simulation.problems": 90,
    "evaluation.problems": 12,
    "train.steps-per-round": 2,
}


@pytest.mark.e2e
@pytest.mark.parametrize("mode", [pytest.param("none", marks=pytest.mark.slow), "secagg"])
def test_a_private_simulation_charges_what_it_said(tmp_path, mode):
    settings = SETTINGS | {"privacy.mode": mode}
    folder = fedgrpo.simulate("builtin", clients=3, rounds=1, settings=settings, out=tmp_path, progress=False).folder
    run = Run.read(folder)
    charged = {k: Spent(run.files.client(f"client-{k}") / FILE).epsilon(run.config.dp.delta) for k in range(3)}
    most = max(charged, key=lambda k: charged[k])
    assert charged[most] > min(charged.values())
    assert (
        f"epsilon {charged[most]:.2f} at delta 1e-05 after 1 round for client-{most}, which pays most"
        in price_in_words(run.config)
    )
    result = run.result()
    assert result["reward"] == {"first": None, "last": None}
    json.dumps(result, allow_nan=False)
