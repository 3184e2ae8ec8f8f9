import importlib
import math
import re

import numpy as np
import pytest
from parsed import Parsed
from readers import read_studies, read_study
from synthetic import edit_result, keep_reached, write_workdir

from scaling.ratios import Ratio
from scaling.report import write_report
from scaling.studies.steps_to_target import answer, cautions, compared
from scaling.studies.steps_to_target.analysis import critical_batch_against, fit_of

GONE = {
    "steps_to_target": None,
    "best": None,
    "best_trial": None,
    "resolution": None,
    "repeats": [],
    "test": None,
}
DIVERGED = GONE | {"status": "all_diverged"}
MET = GONE | {"status": "met_at_start", "steps_to_target": 0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, r"On digits with an MLP, steps to 2\.5% validation error fall in proportion to the "
             r"batch up to about [\d.]+ \(95%: .*\); beyond about \d+ \(95%: .*\) doubling the "
             r"batch saves less than 10% of the steps\."),
        ({"batch_sizes": (1, 2, 4, 8, 16, 32, 64), "b_crit": 1e6, "s_min": 0.004},
         r"in proportion to the batch all the way from 1 to 64 \(end of that, 95%: above "
         r"[\d,.]+\); doubling the batch still saves more than 10% of the steps at 64, the largest "
         r"\(end of that, 95%: above [\d,.]+\)\."),
        ({"batch_sizes": (1024, 2048, 8192), "b_crit": 16},
         r"more slowly than the batch grows from 1,024, the smallest measured, on \(end of "
         r"perfect scaling, 95%: .*\); doubling the batch saves less than 10% of the steps at "
         r"every batch measured \(maximum useful batch, 95%: .*\)\."),
        ({"batch_sizes": (64,)}, r"takes \d+ steps at batch 64; one batch size does not tell"),
        ({"batch_sizes": (16, 64)}, r"go from \d+ at batch 16 to \d+ at 64; two batch sizes do"),
        ({"budget_steps": 30}, r"was not reached at 7 batch sizes from 1 to 4,096 within the steps "
                               r"tried, up to 30; ease the goal"),
        ({"budget_steps": 300}, r"\(95%: .*; batches 1 and 4 did not reach it within the steps"),
        ({"metric": "loss", "goal": 0.3}, r"steps to a validation loss of 0\.3 fall"),
    ],
)  # fmt: skip
def test_answers(tmp_path, options, says):
    text = answer(read_study(write_workdir(tmp_path, trials=24, **options)))
    assert re.search(says, text), text
    assert text.endswith(".") and text.count("\n") == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([DIVERGED] * 3, "every trial diverged at batches 1, 4 and 16; search smaller"),
        ([MET] * 3, "2.5% validation error is met before training at batches 1, 4 and 16"),
        ([DIVERGED, MET, MET], "no batch size was trained to 2.5% validation error; batch 1 "
                               "diverged in every trial; batches 4 and 16 met it before training."),
        ([DIVERGED, {}, {}], "two batch sizes do not tell where that ends; batch 1 diverged in"),
    ],
)  # fmt: skip
def test_answers_when_nothing_was_trained_to_the_goal(tmp_path, changes, says):
    write_workdir(tmp_path, (1, 4, 16), trials=12)
    for batch, change in zip((1, 4, 16), changes, strict=True):
        edit_result(tmp_path / f"bs{batch}", **change)
    assert says in answer(read_study(tmp_path))


def test_a_study_is_held_against_the_first(tmp_path):
    sizes = (1, 4, 16, 64, 256, 1024)
    for name, options in {
        "near": {"b_crit": 20},
        "far": {"b_crit": 320},
        "same": {"b_crit": 20, "optimizer": "sgd"},
        "easy": {"b_crit": 20, "goal": 0.1},
    }.items():
        write_workdir(tmp_path / name, sizes, trials=24, title=name, **options)
    write_workdir(tmp_path / "two", (4, 16), trials=24, title="two")
    names = ("near", "far", "same", "easy", "two")
    near, far, same, easy, two = read_studies([tmp_path / name for name in names])
    ratio = critical_batch_against(far, near)
    assert 8 < ratio.value < 32 and ratio.interval[0] > 1  # 16 as it was made
    says = f"Its critical batch size is {ratio.describe()} times that of near."
    assert compared(far, near) == says
    ratio = critical_batch_against(same, near)
    assert 0.4 < ratio.value < 2.5
    says = f"Its critical batch size cannot be told from that of near: {ratio.describe()} times it."
    assert compared(same, near) == says
    assert "that of near, to 2.5% validation error" in compared(easy, near)
    assert compared(two, near) == compared(near, two) == ""

    said = []
    page = write_report([tmp_path / n for n in ("near", "far", "two")], tmp_path, said.append)
    assert compared(far, near) in said[1] and "Its critical" not in said[0] + said[2]
    texts = Parsed(page.read_text()).texts
    assert critical_batch_against(far, near).describe() in texts
    page = write_report([tmp_path / n for n in ("two", "near", "far")], tmp_path, said.append)
    assert "over that of" not in " ".join(Parsed(page.read_text()).texts)


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (Ratio(math.nan, (0.0, math.inf), 0.95), "How its critical batch size compares with that "
                                                 "of a is not told by these batch sizes."),
        (Ratio(math.inf, (7.2, math.inf), 0.95), "Its critical batch size is larger than that of a "
                                                 "(95%: above 7.2 times it)."),
        (Ratio(0.0, (0.0, 0.3), 0.95), "Its critical batch size is smaller than that of a "
                                       "(95%: below 0.3 times it)."),
        (Ratio(math.inf, (0.4, math.inf), 0.95), "Its critical batch size cannot be told from that "
                                                 "of a (95%: above 0.4 times it)."),
    ],
)  # fmt: skip
def test_ratios_of_curves_measured_at_one_end(tmp_path, monkeypatch, ratio, says):
    studies = [write_workdir(tmp_path / name, (4, 16), trials=8, title=name) for name in "ab"]
    first, other = read_studies(studies)
    module = importlib.import_module("scaling.studies.steps_to_target.answer")
    monkeypatch.setattr(module, "critical_batch_against", lambda *_: ratio)
    assert compared(other, first) == says


def test_what_a_reader_must_know(tmp_path):
    write_workdir(tmp_path, (1, 4, 16, 64), trials=12, budget_steps=1500)
    (tmp_path / "bs2").mkdir()
    (tmp_path / "bs2" / "config.json").write_text("{}")
    (tmp_path / "bs64" / "metrics.jsonl").unlink()
    edit_result(
        tmp_path / "bs16", at_edge=[["learning_rate", "high"]], repeats=[{"steps_to_target": None}]
    )
    devices = {"kind": "cpu", "platform": "cpu", "count": 8, "simulated": True}
    edit_result(tmp_path / "bs4", devices=devices)
    keep_reached(tmp_path / "bs4", 3)
    found = cautions(read_study(tmp_path))
    for part in (
        "not in here: bs2.",
        "Batch 1: 2.5% validation error was not reached in 1,500 steps",
        "Batch 16: the best trial has its learning rate at the high edge of 0.001 to 10",
        "Batch 16: no repeat of the best trial reached the goal",
        "Batch 4: only ",
        "Batch 64: no evaluations are recorded",
        "Measured on simulated devices: bs4.",
    ):
        assert sum(part in sentence for sentence in found) == 1, (part, found)
    assert len(found) == 7


def test_more_trials_than_elsewhere_are_told_and_do_not_count(tmp_path):
    write_workdir(tmp_path, (4, 16, 64), trials=12)
    write_workdir(tmp_path, (256,), trials=24)
    found = [sentence for sentence in cautions(read_study(tmp_path)) if "fewer steps" in sentence]
    assert found == [
        "Batch 256: 24 trials, where another batch size had 12, and more trials find fewer steps; "
        "the curve is fitted to what 12 of them find on average."
    ]
    study = read_study(tmp_path)
    steps = sorted(t.steps_to_target or math.inf for t in study.points[-1].trials)
    # The best of 24 is among 12 of them half of the time, the second best a quarter, ...
    fewest = math.exp(np.average(np.log(steps[:9]), weights=0.5 ** np.arange(9)))
    fitted = np.exp(fit_of(study)[0].problem.log_steps)
    assert fitted[-1] == pytest.approx(fewest, rel=0.03) and fitted[-1] > steps[0]
    assert fitted[:-1] == pytest.approx([p.steps_to_target for p in study.points[:-1]])
