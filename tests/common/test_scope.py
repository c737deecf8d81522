"""Settings of a scenario that a real organisation ignores."""

from fedgrpo.common.settings.backend import Backend
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.settings.scope import LOCAL, for_organisation, ignored_settings

OWN = Backend(quantization="8bit")


def test_every_setting_that_only_a_simulation_or_a_server_has_is_replaced_by_the_organisations_own():
    sent = RunConfig().with_values(
        {
            "simulation.data": "/etc",
            "simulation.tools": "evil.py",
            "simulation.workers": 3,
            "output.dir": "/etc",
            "backend.sampler": "vllm",
            "grpo.learning-rate": 1e-3,
            "federation.rounds": 2,
        }
    )
    assert set(ignored_settings(sent)) == {
        "simulation.data", "simulation.tools", "simulation.workers", "output.dir", "backend.sampler"
    }  # fmt: skip
    applied = for_organisation(sent, OWN)
    default = RunConfig().flat()
    for key, value in applied.flat().items():
        if key.partition(".")[0] in LOCAL:
            assert value == ("8bit" if key == "backend.quantization" else default[key])
    assert (applied.grpo.learning_rate, applied.federation.rounds) == (1e-3, 2)
    assert (
        for_organisation(RunConfig(), OWN).sha256
        == for_organisation(RunConfig().with_values({"simulation.clients": 9}), OWN).sha256
    )
    assert ignored_settings(RunConfig()) == ()
