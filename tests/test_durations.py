import pytest

from scaling.durations import to_steps
from scaling.errors import UserError

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("  500   steps ", 500),
        ("90 epochs", 450_410),  # 90 x 1281167 / 256 = 450410.3
        ("1 epoch", 5_005),  # 5004.56, up
        ("0.5 epochs", 2_502),  # 2502.3, down
        ("1.5e6 examples", 5_859),  # 5859.4
        ("128 examples", 1),  # half a step, up
        ("640 examples", 3),  # 2.5 steps, up, where Python's round() gives 2
    ],
)
def test_rounds_to_the_nearest_step(duration, steps):
    assert to_steps(duration, global_batch=256, train_size=IMAGENET) == steps


def test_other_units_and_letters():
    assert to_steps("5M tokens", 32, 10**6, {"tokens": 128}) == round(5e6 / 128 / 32)
    assert to_steps("1.5k steps", 32, 10**6) == 1500
    with pytest.raises(UserError, match="Known: epochs, examples, steps, tokens"):
        to_steps("5M token_", 32, 10**6, {"tokens": 128})


def test_epochs_cost_fewer_steps_at_a_larger_batch():
    # You et al. 2017, "ImageNet Training in Minutes", Table 2: 100 epochs of 1.28M images.
    assert to_steps("100 epochs", 512, 1_280_000) == 250_000
    assert to_steps("100 epochs", 8192, 1_280_000) == 15_625


def test_a_positive_duration_is_at_least_one_step_and_only_zero_is_zero():
    assert to_steps("0.001 epochs", 4096, 1000) == 1
    assert to_steps("1 example", 4096, 1000) == 1
    assert to_steps("0 epochs", 4096, 1000) == 0


@pytest.mark.parametrize(
    ("duration", "says"),
    [
        ("250steps", "'250steps'"),
        ("steps", "a number, a space and a unit"),
        ("90", "90 epochs"),
        (90, "90"),
        ("ninety epochs", "'ninety epochs'"),
        ("90 epochs 5 steps", "'90 epochs 5 steps'"),
        ("", "''"),
        ("90 epocs", "did you mean 'epochs'"),
        ("90 minutes", "Known: epochs, examples, steps"),
        ("-1 epochs", "'-1 epochs'"),
        ("inf steps", "finite"),
        ("nan steps", "finite"),
        ("1e400 examples", "finite"),
    ],
)
def test_errors_name_the_value_and_what_works(duration, says):
    with pytest.raises(UserError) as error:
        to_steps(duration, 256, 1000)
    assert says in str(error.value)
    assert "90 epochs" in str(error.value)
