import csv

import pytest
from readers import read_study
from synthetic_warm_start import write_warm_start_workdir

from scaling.report import write_report
from scaling.studies.warm_start.report import KIND


@pytest.fixture
def workdir(tmp_path):
    return write_warm_start_workdir(tmp_path / "runs", diverged=((1, 200),))


def test_the_answer_compares_the_first_and_the_last_start(workdir):
    """Errors 0.2 + 0.005 from the beginning, 0.04 from step 200 = epoch 2, of seed 0 alone."""
    assert KIND.answer(read_study(workdir)).endswith(
        "batch 1,000 ends at a validation error of 20.5% from initial weights and of 4% from the "
        "weights of batch 50 after 2 epochs; batch 50 itself comes to 10.5% there. The sharpness "
        "φ, ε 0.001 of batch 1,000 is 160 and 53.3 (batch 50: 20)."
    )


def test_a_point_for_every_start_and_a_caution(workdir, tmp_path):
    study = read_study(workdir)
    (section,) = KIND.sections([study])
    error, phi, top = section.blocks[0].panels
    _, small, _, warm = error.marks
    assert small.x == warm.x == [0, 1, 2] and warm.y == pytest.approx(
        [0.205, 0.2 / 3 + 0.005, 0.04]
    )
    assert (warm.low[0], warm.high[0]) == pytest.approx((0.2, 0.21))
    assert phi.marks[3].y == pytest.approx([160, 80, 160 / 3]) and top.y.label.startswith("largest")
    assert KIND.cautions(study) == [
        "bs50: some large-batch training diverged; the means are of the other seeds."
    ]
    title, *rows = KIND.table([study]).cells()
    assert [row[title.index("seeds")] for row in rows] == ["2 of 2", "2 of 2", "1 of 2"]
    write_report([workdir], tmp_path / "page", lambda _: None)
    with open(tmp_path / "page" / "tables" / "warm_start_nets.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11 * 3 and {row["net"] for row in rows} == {"small", "warm"}


def test_nothing_came_to_its_end(tmp_path):
    everything = [(seed, step) for seed in (0, 1) for step in (0, 100, 200)]
    workdir = write_warm_start_workdir(tmp_path / "runs", diverged=everything)
    assert "diverged from every start" in KIND.answer(read_study(workdir))
    write_report([workdir], tmp_path / "page", lambda _: None)
