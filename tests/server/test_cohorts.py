"""A run with secure aggregation whose rounds ask too few members is refused before it begins."""

import pytest
from federation import settings
from fedgrpo.common.errors import ConfigError
from fedgrpo.server.main import check_cohort
from masked_federation import Federation


def test_a_round_asks_at_least_as_many_members_as_must_open_its_sum(tmp_path):
    manifest = Federation(9).manifest
    assert manifest.threshold == 7
    for cohort in (0, 7, 9):
        check_cohort(settings(tmp_path, privacy__mode="secagg", federation__clients_per_round=cohort), manifest)
    config = settings(tmp_path, privacy__mode="secagg", federation__clients_per_round=6)
    with pytest.raises(ConfigError, match=r"clients-per-round is 6, and 7 of the manifest's 9 members must open a sum"):
        check_cohort(config, manifest)
