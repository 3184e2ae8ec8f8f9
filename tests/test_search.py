"""Spaces and trials against written-out formulas; every trial the same whoever asks for it."""

import json
import math
import random
import warnings

import numpy as np
import pytest
from scipy.stats import qmc

from scaling.errors import UserError
from scaling.optim.build import HYPERPARAMETERS
from scaling.optim.schedules import SHAPES
from scaling.search import LIMITS, check_space, edges, inside, sample, unit_positions, widen

# The worked space of Shallue et al. 2018 for ResNet-50.
SPACE = {
    "base_lr": ("log", 1e-4, 10.0),
    "momentum": ("reverse_log", 0.9, 0.9999),
    "end_factor": ("log", 1e-4, 0.1),
    "decay_steps": ("integer", 300_000, 600_000),
    "label_smoothing": ("discrete", 0, 0.01, 0.1),
    "power": ("linear", 0.5, 2.0),
}
# Its worked trial.
TRIAL = {
    "base_lr": 0.01249,
    "momentum": 0.97882,
    "end_factor": 2.86e-4,
    "decay_steps": 522_526,
    "label_smoothing": 0.01,
    "power": 1.0,
}
READABLE = [*SPACE, *LIMITS]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def column(space, count=512, **options):
    """The values of a space's only name."""
    (name,) = space
    return np.array([trial[name] for trial in sample(space, range(count), seed=3, **options)])


# ---- Scales ----

SAMPLERS = pytest.mark.parametrize("sampler", ["sobol", "halton"])
QUANTILES = np.linspace(0.05, 0.95, 19)


@SAMPLERS
def test_log_is_uniform_in_the_logarithm(sampler):
    values = column({"base_lr": ("log", 1e-4, 10.0)}, sampler=sampler)
    expected = 10.0 ** (-4 + 5 * QUANTILES)
    np.testing.assert_allclose(np.quantile(values, QUANTILES), expected, rtol=0.05)
    assert 1e-4 <= values.min() < 1.1e-4 and 9.5 < values.max() <= 10


@SAMPLERS
def test_reverse_log_is_uniform_in_the_logarithm_of_one_minus_momentum(sampler):
    values = column({"momentum": ("reverse_log", 0.9, 0.9999)}, sampler=sampler)
    expected = 1 - 10.0 ** (-1 - 3 * QUANTILES)
    np.testing.assert_allclose(1 - np.quantile(values, QUANTILES), 1 - expected, rtol=0.05)
    assert 0.9 <= values.min() < 0.905 and 0.9998 < values.max() <= 0.9999


@SAMPLERS
def test_linear_is_uniform(sampler):
    values = column({"power": ("linear", -1.0, 3.0)}, sampler=sampler)
    np.testing.assert_allclose(np.quantile(values, QUANTILES), -1 + 4 * QUANTILES, atol=0.02)


@SAMPLERS
@pytest.mark.parametrize(
    "given, values",
    [
        (("integer", -2, 1), [-2, -1, 0, 1]),
        (("integer", 3.0, 6.0), [3, 4, 5, 6]),
        (["discrete", 0.1, 0, 0.01, 3], [0.1, 0, 0.01, 3]),
    ],
)
def test_integers_and_discrete_values_are_equally_likely_and_of_their_type(given, values, sampler):
    drawn = [trial["x"] for trial in sample({"x": given}, range(512), seed=3, sampler=sampler)]
    for value in values:
        assert sum(v == value for v in drawn) == pytest.approx(128, abs=2)
        assert all(type(v) is type(value) for v in drawn if v == value)
    assert set(drawn) == set(values)


def test_positions_are_the_formulas():
    assert unit_positions(SPACE, TRIAL) == {
        "base_lr": pytest.approx((math.log10(0.01249) + 4) / 5),
        "momentum": pytest.approx((-1 - math.log10(1 - 0.97882)) / 3),
        "end_factor": pytest.approx((math.log10(2.86e-4) + 4) / 3),
        "decay_steps": pytest.approx(222_526 / 300_000),
        "power": pytest.approx(0.5 / 1.5),
    }
    low, high = ({k: r[end] for k, r in SPACE.items()} for end in (1, 2))
    assert list(unit_positions(SPACE, low).values()) == pytest.approx([0] * 5)
    assert list(unit_positions(SPACE, high).values()) == pytest.approx([1] * 5)
    beyond = unit_positions(SPACE, TRIAL | {"base_lr": 100.0, "power": 0.2})
    assert (beyond["base_lr"], beyond["power"]) == pytest.approx((1.2, -0.2))


def test_trials_lie_at_the_positions_of_scrambled_sobol_points():
    """Names take the dimensions in sorted order; the points come straight from SciPy."""
    del (space := dict(SPACE))["label_smoothing"]
    trials = sample(space, range(64), seed=11)
    try:
        points = qmc.Sobol(5, rng=np.random.default_rng(11)).random(64)
    except TypeError:  # SciPy before 1.15
        points = qmc.Sobol(5, seed=np.random.default_rng(11)).random(64)
    for trial, point in zip(trials, points, strict=True):
        positions = unit_positions(space, trial)
        for name, u in zip(sorted(space), point, strict=True):
            atol = 1e-5 if name == "decay_steps" else 1e-9
            assert positions[name] == pytest.approx(u, abs=atol)


@SAMPLERS
def test_points_are_more_even_than_random_ones(sampler):
    space = {name: SPACE[name] for name in ("base_lr", "momentum", "power")}
    rng = np.random.default_rng(0)
    by_chance = [qmc.discrepancy(rng.random((100, 3))) for _ in range(20)]
    for seed in range(5):
        trials = sample(space, range(100), seed=seed, sampler=sampler)
        points = [list(unit_positions(space, trial).values()) for trial in trials]
        assert qmc.discrepancy(np.array(points)) < 0.5 * min(by_chance)


# ---- Which trial is which ----


@SAMPLERS
@pytest.mark.parametrize("outside", [None, {**SPACE, "base_lr": ("log", 1e-4, 1.0)}])
def test_a_trial_is_the_same_whoever_asks_for_it(sampler, outside):
    options = {"seed": 5, "sampler": sampler, "outside": outside}
    expected = sample(SPACE, range(150), **options)
    numbers = list(range(150))
    random.Random(0).shuffle(numbers)
    for start in range(0, 150, 37):
        chunk = numbers[start : start + 37]
        assert sample(SPACE, chunk, **options) == [expected[t] for t in chunk]
    for trial in (0, 1, 2, 37, 64, 149):
        assert sample(SPACE, [trial], **options) == [expected[trial]]
    assert sample(SPACE, range(32, 64), **options) == expected[32:64]
    assert sample(SPACE, [7, 7, 3], **options) == [expected[7], expected[7], expected[3]]
    assert sample(SPACE, [], **options) == []


def test_a_trial_does_not_depend_on_the_order_of_names_or_on_json():
    expected = sample(SPACE, range(20), seed=5)
    backwards = dict(reversed(SPACE.items()))
    assert sample(backwards, range(20), seed=5) == expected
    assert sample(json.loads(json.dumps(SPACE)), range(20), seed=5) == expected


def test_seeds_and_samplers_differ():
    draws = [
        sample(SPACE, range(8), seed=s, sampler=k) for k in ("sobol", "halton") for s in (0, 1)
    ]
    firsts = {trial["base_lr"] for draw in draws for trial in draw}
    assert len(firsts) == 4 * 8


def test_the_first_trials_never_change():
    """A study that goes on tomorrow needs tomorrow's trials to be today's."""
    space = {"base_lr": ("log", 1e-3, 10.0), "momentum": ("reverse_log", 0.9, 0.999)}
    (sobol,), (halton,) = (sample(space, [5], seed=1, sampler=s) for s in ("sobol", "halton"))
    assert (sobol["base_lr"], sobol["momentum"]) == pytest.approx((4.939116622, 0.996673909397))
    assert (halton["base_lr"], halton["momentum"]) == pytest.approx((0.06409132228, 0.933966385100))


def test_one_dimension():
    assert len(set(column({"base_lr": ("log", 0.1, 1.0)}, 64))) == 64


# ---- Edges ----


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, []),
        ({"base_lr": 1e-4 * 10**0.24}, [("base_lr", "low")]),  # 0.048 of five decades
        ({"base_lr": 1e-4 * 10**0.26}, []),  # 0.052
        ({"base_lr": 10**0.76}, [("base_lr", "high")]),
        ({"base_lr": 10**0.74}, []),
        ({"momentum": 1 - 10**-1.14}, [("momentum", "low")]),
        ({"momentum": 1 - 10**-3.86}, [("momentum", "high")]),
        ({"momentum": 0.999}, []),  # close to 0.9999 on no scale but the linear one
        ({"decay_steps": 314_999, "power": 1.93}, [("decay_steps", "low"), ("power", "high")]),
        ({"decay_steps": 600_000}, [("decay_steps", "high")]),
        ({"power": 5.0, "base_lr": 1e-9}, [("base_lr", "low"), ("power", "high")]),
        ({"label_smoothing": 0}, []),
        ({"label_smoothing": 0.1}, []),
    ],
)
def test_edges(changes, expected):
    assert edges(SPACE, TRIAL | changes) == expected


def test_edges_of_few_integers_are_the_first_and_last():
    space = {"k": ("integer", 1, 4)}
    found = [edges(space, {"k": k}) for k in (1, 2, 3, 4)]
    assert found == [[("k", "low")], [], [], [("k", "high")]]


def test_a_wider_margin():
    # Positions 0.42, 0.22, 0.15, 0.74 and 0.33.
    expected = [("momentum", "low"), ("end_factor", "low"), ("decay_steps", "high")]
    assert edges(SPACE, TRIAL, margin=0.3) == expected


# ---- Widening ----


@pytest.mark.parametrize(
    "given, low, high",
    [
        (("log", 1e-4, 10.0), 1e-5, 100.0),  # five decades: one more
        (("log", 0.1, 1.6), 0.025, 6.4),  # four octaves: two more
        (("log", 1.0, 1.5), 0.5, 3.0),  # an octave at least
        (("reverse_log", 0.9, 0.9999), 0.0, 0.99999),
        (("reverse_log", 0.5, 0.96875), 0.0, 0.9921875),  # four octaves of 1 - value: 1/128 left
        (("reverse_log", -0.5, 0.5), -2.0, 0.75),
        (("linear", 2.0, 4.0), 1.0, 5.0),
        (("linear", 0.5, 2.0), 0.0, 2.75),  # not below 0
        (("linear", -1.0, 1.0), -2.0, 2.0),
        (("linear", -4.0, -1.0), -5.5, 0.0),
        (("integer", 300_000, 600_000), 150_000, 750_000),
        (("integer", 5, 6), 4, 7),  # 1 at least
        (("integer", 2, 8), 1, 11),  # a positive count stays one
        (("integer", -3, 1), -5, 3),
    ],
)
def test_each_side_widens_alone(given, low, high):
    scale, first, last = given
    space = {"x": list(given), "y": ["discrete", 1, 2]}
    for sides, bounds in (
        (["low"], (low, last)),
        (["high"], (first, high)),
        (["low", "high", "low"], (low, high)),
    ):
        widened = widen(space, [("x", side) for side in sides])
        assert widened["x"][0] == scale and widened["y"] == ["discrete", 1, 2]
        assert widened["x"][1:] == pytest.approx(bounds, rel=1e-9)
        assert all(type(b) is int for b in widened["x"][1:]) or scale != "integer"
        check_space(widened, ["x", "y"])
    assert space == {"x": list(given), "y": ["discrete", 1, 2]}


def test_the_factor_is_of_the_length():
    assert widen({"x": ("linear", 2.0, 4.0)}, [("x", "high")], 0.25)["x"] == ("linear", 2.0, 4.5)
    assert widen({"x": ("log", 1.0, 16.0)}, [("x", "high")], 0.75)["x"] == ("log", 1.0, 128.0)


@pytest.mark.parametrize(
    "given, side",
    [
        (["linear", 0.0, 1.0], "low"),
        (["integer", 0, 9], "low"),
        (["integer", 1, 9], "low"),
        (["reverse_log", 0.0, 0.9], "low"),
        (["reverse_log", 0.9, 1 - 1e-12], "high"),
        (["log", 1e-300, 1e308], "high"),
    ],
)
def test_a_side_without_room_stays(given, side):
    assert widen({"x": given}, [("x", side)]) == {"x": given}


# ---- A second round ----


@SAMPLERS
def test_a_second_round_fills_what_was_added_evenly(sampler):
    """Two sides of one name and one of another: an L-shaped region, every part by its volume."""
    space = {"a": ("linear", 4.0, 6.0), "b": ("log", 1.0, 100.0)}
    widened = widen(space, [("a", "low"), ("a", "high"), ("b", "high")])
    assert widened == {"a": ("linear", 3.0, 7.0), "b": ("log", 1.0, 1000.0)}
    trials = sample(widened, range(600), seed=4, outside=space, sampler=sampler)
    assert not any(inside(space, trial) for trial in trials)
    assert all(inside(widened, trial) for trial in trials)
    # Of 4 x 3 unit cells 2 x 2 are the old space; each of the other eight has a 1/8 share.
    cells = [(int(t["a"]), int(math.log10(t["b"]))) for t in trials]
    added = {(a, b) for a in range(3, 7) for b in range(3)} - {
        (a, b) for a in (4, 5) for b in (0, 1)
    }
    assert set(cells) == added
    assert all(cells.count(cell) == pytest.approx(75, abs=12) for cell in added)


def test_a_second_round_over_integers_and_new_discrete_values():
    space = {"k": ("integer", 1, 2), "s": ("discrete", 0, 0.1)}
    wider = {"k": ("integer", 1, 3), "s": ("discrete", 0, 0.1, 0.2)}
    drawn = {(t["k"], t["s"]) for t in sample(wider, range(100), seed=0, outside=space)}
    assert drawn == {(3, 0), (3, 0.1), (1, 0.2), (2, 0.2), (3, 0.2)}


def test_a_second_round_where_nothing_was_added_says_so():
    with pytest.raises(UserError, match=r"Only 0 of 65,536 points .* and 3 are needed; widen more"):
        sample(SPACE, range(3), seed=0, outside=SPACE)


# ---- What is refused ----


@pytest.mark.parametrize(
    "space, words",
    [
        ({}, ("search space is empty",)),
        ({"momentun": ("log", 0.1, 1)}, ("does not read 'momentun'", "did you mean 'momentum'")),
        ({"power": ("lgo", 0.1, 1)}, ("'power'", "unknown scale 'lgo'", "did you mean 'log'")),
        ({"power": ("log", 1, 0.1)}, ("'power' goes from 1 to 0.1", "write the low bound first")),
        ({"power": ("linear", 1, 1)}, ("from 1 to 1",)),
        ({"power": ("log", 0, 1)}, ("'power' has the bound 0;", "'log'", "must be above 0")),
        ({"power": ("log", -1, 1)}, ("bound -1",)),
        ({"momentum": ("reverse_log", 0.9, 1)}, ("bound 1;", "must be below 1")),
        ({"power": ("linear", 0, math.nan)}, ("bound nan",)),
        ({"power": ("linear", -math.inf, 0)}, ("bound -inf",)),
        ({"power": ("integer", 1, 2.5)}, ("bound 2.5; use whole numbers",)),
        ({"power": ("log", 0.1)}, ("('log', 0.1)", "'log' takes two numbers, low and high")),
        ({"power": ("log", 0.1, 1, 2)}, ("takes two numbers",)),
        ({"power": ["log", "1e-4", 1]}, ("takes two numbers",)),
        ({"power": ("log", True, 2)}, ("takes two numbers",)),
        ({"power": ("discrete",)}, ("'discrete' takes one or more numbers",)),
        ({"power": ("discrete", 1, "2")}, ("takes one or more numbers",)),
        ({"power": ()}, ("range of 'power' is ()", "write a scale and its bounds")),
        ({"power": 0.1}, ("is 0.1; write a scale",)),
        ({"power": (0.1, 1)}, ("is (0.1, 1); write a scale",)),
        ({"power": "log"}, ("is 'log'; write a scale",)),
        ({"learning_rate": ("linear", 0.0, 1.0)}, ("contains 0; learning_rate must be above 0",)),
        (
            {"momentum": ("linear", -0.1, 0.9)},
            ("contains -0.1; momentum must be at least 0 and below 1",),
        ),
        (
            {"momentum": ("discrete", 0.9, 1)},
            ("contains 1; momentum must be at least 0 and below 1",),
        ),
        ({"momentum": ("reverse_log", -1.0, 0.9)}, ("contains -1;",)),
        (
            {"label_smoothing": ("linear", 0.0, 1.0)},
            ("label_smoothing must be at least 0 and below 1",),
        ),
        ({"decay_share": ("linear", 0.0, 1.0)}, ("decay_share must be above 0 and at most 1",)),
        ({"decay_share": ("linear", 0.5, 1.1)}, ("contains 1.1;",)),
        ({"decay_steps": ("integer", 0, 9)}, ("decay_steps must be at least 1",)),
        ({"weight_decay": ("linear", -1e-4, 0.1)}, ("weight_decay must be at least 0",)),
        ({"warmup_steps": ("integer", -1, 9)}, ("warmup_steps must be at least 0",)),
        ({"b1": ("linear", 0.5, 1.0)}, ("b1 must be at least 0 and below 1",)),
        ({"b2": ("discrete", -0.1)}, ("b2 must be at least 0 and below 1",)),
        ({"eps": ("discrete", 0.0, 1e-8)}, ("eps must be above 0",)),
        ({"weight_decay": ("discrete", math.nan)}, ("contains nan;",)),
    ],
)
def test_what_is_no_space(space, words):
    with pytest.raises(UserError) as error:
        check_space(space, READABLE)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("reader", [*HYPERPARAMETERS.values(), *SHAPES.values()])
def test_every_hyperparameter_has_limits_that_its_default_is_within(reader):
    for name, default in reader.items():
        if name != "boundaries" and math.isfinite(default):
            assert LIMITS[name].contains(default), name


def test_bounds_that_are_just_possible():
    space = {
        "momentum": ("linear", 0, 0.999),
        "decay_share": ("linear", 0.1, 1.0),
        "decay_steps": ("integer", 1, 9),
        "weight_decay": ("discrete", 0.0, 0.1),
        "max_grad_norm": ("discrete", 0, 5),
    }
    check_space(space, READABLE)


def test_widening_stops_at_what_can_be():
    space = {
        "momentum": ("linear", 0.1, 0.9),
        "decay_share": ("linear", 0.5, 0.9),
        "label_smoothing": ("linear", 0.0, 0.6),
        "decay_steps": ("integer", 1, 9),
    }
    widened = widen(space, [(name, side) for name in space for side in ("low", "high")], 1.0)
    assert widened["momentum"] == ("linear", 0, 0.9)  # 1 itself cannot be: it stays
    assert widened["decay_share"] == ("linear", pytest.approx(0.1), 1)
    assert widened["label_smoothing"] == ("linear", 0.0, 0.6)
    assert widened["decay_steps"] == ("integer", 1, 17)
    check_space(widened, READABLE)


def test_what_is_a_space():
    check_space(SPACE, READABLE)
    check_space(json.loads(json.dumps(SPACE)), READABLE)
    check_space({"power": ("discrete", 1)}, READABLE)


def test_an_unknown_sampler_names_the_nearest():
    with pytest.raises(UserError, match="Unknown sampler 'sobel': did you mean 'sobol'"):
        sample(SPACE, range(3), seed=0, sampler="sobel")


def test_trials_count_from_zero():
    with pytest.raises(ValueError, match="Trial -1"):
        sample(SPACE, [3, -1], seed=0)
