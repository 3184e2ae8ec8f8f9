"""configs/dli.py: the lab's net, its goal, and the time to it."""

import json

import pytest

from configs import dli
from scaling import flops
from scaling.config import model_config
from scaling.report.records import read_workdir
from scaling.studies.running import points_of, run_study
from scaling.studies.train.measure import _reached
from scaling.studies.train.report import KIND, read
from scaling.train.point import data_info, inputs_of, numbers_in, shapes_of_variables, task_of


def test_the_net_has_the_lab_s_parameters_and_operations():
    config = dli.get_config("throughput")
    task = task_of(config, data_info(config.data))
    assert numbers_in(shapes_of_variables(task)[0]) == 17_117_466
    assert flops.forward(task.model, inputs_of(task)) == pytest.approx(2 * 1.85e9, rel=0.01)


@pytest.mark.parametrize("task", dli.TASKS)
def test_every_task_is_a_config(task):
    assert points_of(dli.get_config(task))


def test_times_of_epochs_and_the_time_to_the_goal(tmp_path):
    config = dli.get_config("small")
    config.model = model_config("mlp", widths=(8,))
    config.data.train_size, config.duration = 256, "5 epochs"
    config.batch_sizes, config.devices = (64,), 1
    config.train.goal, config.train.patience = 1.0, 2  # met by any
    run_study(config, tmp_path, None, lambda text: None)
    study = read(read_workdir(tmp_path))
    (point,) = study.points
    assert [step for step, _ in point.clock] == [4, 8, 12, 16, 20]
    times = [seconds for _, seconds in point.clock]
    assert times == sorted(times) and times[-1] <= point.seconds["train"] + 1e-6
    assert point.reached == point.clock[1]
    rows = point.clocked
    assert sum(each.seconds for each in rows) == pytest.approx(times[-1])
    assert rows[-1].value == point.validation["error"]
    _, _, clock = KIND.sections([study])
    assert clock.title == "Time to accuracy" and len(clock.blocks[0].cells()) == 6


class Rows:
    """A run whose validation errors are known."""

    def __init__(self, path, errors):
        self.path = path
        lines = [{"split": "validation", "step": i, "error": e} for i, e in enumerate(errors)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path / "metrics.jsonl").write_text(text)


@pytest.mark.parametrize(
    "errors, expected",
    [
        ((0.2, 0.15, 0.1), (2, 20.0)),  # an error of 0.15 is an accuracy of 0.85
        ((0.1, 0.2, 0.1, 0.12), (3, 30.0)),
        ((0.1, 0.2, 0.1, 0.2), None),
    ],
)
def test_the_goal_has_to_hold_in_a_row(tmp_path, errors, expected):
    config = points_of(dli.get_config("small"))["bs32"]
    clock = [(i, 10.0 * i) for i in range(len(errors))]
    assert _reached(config, Rows(tmp_path, errors), clock) == expected
