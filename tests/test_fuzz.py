"""Mutated configs of every study: each is done or refused in one sentence, and nothing else."""

import json

import pytest
from mutations import mutated

from scaling.errors import UserError
from scaling.studies import STUDIES
from scaling.studies.running import points_of, run_study, study_of

COUNT, TRAINED = 12, 1  # configs of every study, and how many of those that are good also train


@pytest.mark.parametrize("study", sorted(STUDIES))
def test_a_config_is_good_or_refused_in_a_sentence(study, tmp_path):
    refused, good = 0, []
    for seed in range(COUNT):
        config, told = mutated(seed, study)
        try:
            for point in points_of(config).values():
                study_of(point).check(point)
            good.append((config, told))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).endswith("."), (told, error)
            with pytest.raises(UserError):
                run_study(config, tmp_path / str(seed), None, print)
            assert not (tmp_path / str(seed)).exists(), told
    assert refused and good
    for number, (config, _) in enumerate(good[:TRAINED]):
        run_study(config, tmp_path / f"good{number}", None, print)
        results = list((tmp_path / f"good{number}").glob("*/result.json"))
        assert results and all(json.loads(path.read_text()) for path in results)
