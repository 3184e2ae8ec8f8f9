import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from scaling import tasks
from scaling.errors import UserError
from scaling.models import build_model
from scaling.tasks import Classification, Language, MultiLabel, Regression, Segmentation


class Given(nn.Module):
    """Its input is its output."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train, positions=None):
        return x


def classification(model, shape, classes):
    return Classification(model, {"image": (shape, "float32"), "label": ((), "int32")}, classes)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_error_written_out(smoothing):
    """Shallue's smoothing: 1 - s on the true class, s / (K - 1) on each other."""
    rng = np.random.RandomState(0)
    images = rng.randn(20, 3, 3, 1).astype(np.float32)
    labels = rng.randint(0, 5, 20)
    task = classification(build_model("mlp", 5, widths=()), (3, 3, 1), 5)
    params, stats = task.init(jax.random.key(0))
    kernel = np.float64(params["Dense_0"]["kernel"])
    logits = images.reshape(20, -1) @ kernel
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((20, 5), smoothing / 4)
    target[np.arange(20), labels] = 1 - smoothing
    batch = {"image": images, "label": jnp.asarray(labels)}
    positions, key = jnp.arange(20), jax.random.key(1)
    hparams = {"label_smoothing": smoothing}
    sums, weights, _ = task.losses(params, stats, batch, positions, key, hparams)
    assert weights is None  # each counts 1
    np.testing.assert_allclose(sums["loss"], -(target * log_p).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(sums["error"], logits.argmax(1) != labels)
    # Never smoothed in an evaluation; and only of rows in the mask.
    evaluated = task.finish(task.sums(params, stats, batch, np.arange(20) < 15))
    assert evaluated["loss"] == pytest.approx(-log_p[np.arange(15), labels[:15]].mean(), rel=1e-5)
    assert evaluated["error"] == pytest.approx((logits.argmax(1) != labels)[:15].mean())


def test_smoothing_may_be_traced():
    task = classification(build_model("mlp", 5, widths=()), (3, 3, 1), 5)
    params, stats = task.init(jax.random.key(0))
    batch = {"image": jnp.ones((2, 3, 3, 1)), "label": jnp.array([0, 1])}

    def loss(smoothing):
        hparams = {"label_smoothing": smoothing}
        return task.losses(params, stats, batch, jnp.arange(2), jax.random.key(0), hparams)[0]

    stacked = jax.vmap(loss)(jnp.array([0.0, 0.3]))["loss"]
    np.testing.assert_allclose(stacked, [loss(0.0)["loss"], loss(0.3)["loss"]], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_wrong_whatever_the_label(bad):
    logits = np.float32([[2, 1, 0], [2, 1, 0], [bad, 1, 0], [bad, 1, 0], [2, 1, bad], [bad] * 3])
    batch = {"label": jnp.array([0, 1, 0, 1, 0, 0])}
    scores, _ = classification(Given(), (3,), 3).score(logits, batch)
    np.testing.assert_array_equal(scores["error"], [0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(np.isfinite(scores["loss"]), [True] * 2 + [False] * 4)


def test_a_model_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"'Given' returns \(1, 4\) for 1 example.*needs \(1, 3\)"):
        classification(Given(), (4,), 3).init(jax.random.key(0))


def evaluated(task, outputs, batch, parts=1):
    """The metrics of outputs; the sums are added over some parts."""
    pieces = [np.array_split(a, parts) for a in (outputs, *batch.values())]
    total = {}
    for piece, *values in zip(*pieces, strict=True):
        part = {name: jnp.asarray(v) for name, v in zip(batch, values, strict=True)}
        sums = task.statistics(jnp.asarray(piece), part, jnp.ones(len(piece)))
        total = {name: total.get(name, 0.0) + np.float64(v) for name, v in sums.items()}
    return task.finish(total)


# ---- Language ----

V, L = 11, 6
ROWS = {"tokens": ((L,), "uint16")}
PADDED = ROWS | {"weights": ((L,), "float32")}


def text(rows=5, ragged=True):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (rows, L)).astype(np.uint16)
    length = rng.integers(1, L + 1, rows) if ragged else np.full(rows, L)
    weights = np.float32(np.arange(L) < length[:, None])
    return tokens, weights, rng.normal(0, 3, (rows, L, V)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_tokens_is_that_of_one_hot_targets(smoothing):
    tokens, weights, logits = text()
    task = Language(Given(), PADDED, V)

    def ours(logits):
        batch = {"tokens": tokens, "weights": weights}
        scores, weight = task.score(logits, batch, jnp.float32(smoothing))
        return scores["loss"].sum() / weight.sum()

    def theirs(logits):
        target = jax.nn.one_hot(tokens, V)
        target = target * (1 - smoothing) + (1 - target) * smoothing / (V - 1)
        return (weights * -(target * jax.nn.log_softmax(logits)).sum(-1)).sum() / weights.sum()

    for one, other in zip(*(jax.value_and_grad(f)(logits) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_metrics_of_tokens():
    tokens, weights, logits = text()
    task = Language(Given(), PADDED, V, bytes_per_token=2.5)
    found = evaluated(task, logits, {"tokens": tokens, "weights": weights}, parts=3)
    log_p = np.asarray(jax.nn.log_softmax(np.float64(logits)))
    each = -np.take_along_axis(log_p, tokens[..., None].astype(int), -1)[..., 0]
    loss = (each * weights).sum() / weights.sum()
    wrong = ((logits.argmax(-1) != tokens) * weights).sum() / weights.sum()
    expected = {"loss": loss, "error": wrong, "perplexity": np.exp(loss)}
    expected["bits_per_byte"] = loss / np.log(2) / 2.5
    assert found == pytest.approx(expected, rel=1e-5) and set(found) == set(task.metrics)
    assert "bits_per_byte" not in Language(Given(), PADDED, V).metrics


def test_the_model_reads_the_tokens_before():
    task = Language(Given(), ROWS, V)
    inputs = task.inputs({"tokens": np.array([[7, 8, 9]], np.uint16)})
    np.testing.assert_array_equal(inputs, [[1, 7, 8]])
    assert inputs.dtype == jnp.int32 and task.headline == "loss" and task.unit == "tokens"
    assert Language(Given(), ROWS, V, start=4).inputs({"tokens": np.ones((1, 2))})[0, 0] == 4


def test_a_padded_row_is_the_row_without_its_padding():
    tokens, weights, logits = text(rows=1)
    short = int(weights.sum())
    padding = np.where(weights > 0, tokens, 3)
    spoiled = np.where(weights[..., None] > 0, logits, np.nan)
    task = Language(Given(), PADDED, V)
    scores, weight = task.score(spoiled, {"tokens": padding, "weights": weights})
    plain = Language(Given(), {"tokens": ((short,), "uint16")}, V)
    alone, count = plain.score(logits[:, :short], {"tokens": tokens[:, :short]})
    assert weight == count == short
    for name in ("loss", "error"):
        np.testing.assert_allclose(scores[name], alone[name], rtol=1e-6)


# ---- Several labels, numbers, pixels ----


def test_average_precision_against_sklearn():
    rng = np.random.default_rng(1)
    label = (rng.random((900, 30)) < rng.uniform(0.02, 0.4, 30)).astype(np.uint8)
    logits = (rng.normal(-1, 2, label.shape) + 1.5 * label).astype(np.float32)
    task = MultiLabel(Given(), {"x": ((30,), "float32"), "label": ((30,), "uint8")}, 30)
    for each, tolerance in ((task, 1e-3), (task.finer(), 1e-5)):
        found = evaluated(each, logits, {"label": label}, parts=4)
        for name, average in (("ap", "micro"), ("ap_macro", "macro")):
            exact = sk.average_precision_score(label, logits, average=average)
            assert found[name] == pytest.approx(exact, abs=tolerance), name
        loss = np.logaddexp(0, np.where(label, -logits, logits)).sum(1).mean()
        assert found["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "rate, centre, spread, gap", [(1e-3, -14, 1.5, 3), (1e-3, -12, 8, 6), (0.1, 25, 6, 5)]
)
def test_average_precision_of_logits_far_from_zero(rate, centre, spread, gap):
    rng = np.random.default_rng(3)
    label = (rng.random((3000, 40)) < rate).astype(np.uint8)
    logits = (rng.normal(centre, spread, label.shape) + gap * label).astype(np.float32)
    logits[0, 0], logits[1, 0] = np.inf, -np.inf
    task = MultiLabel(Given(), {"x": ((40,), "float32"), "label": ((40,), "uint8")}, 40)
    finite = np.nan_to_num(logits)
    known = label.any(0)
    exact = {
        "ap": sk.average_precision_score(label, finite, average="micro"),
        "ap_macro": sk.average_precision_score(label[:, known], finite[:, known], average="macro"),
    }
    for each, tolerance in ((task, 5e-3), (task.finer(), 5e-4)):
        found = evaluated(each, logits, {"label": label}, parts=4)
        for name, value in exact.items():
            assert found[name] == pytest.approx(value, abs=tolerance), name


def test_average_precision_of_labels_that_never_occur():
    task = MultiLabel(Given(), {"x": ((2,), "float32"), "label": ((2,), "uint8")}, 2)
    logits, label = np.float32([[3, 0], [-3, 0]]), np.uint8([[1, 0], [0, 0]])
    found = evaluated(task, logits, {"label": label})
    assert found["ap_macro"] == found["ap"] == 1.0
    assert evaluated(task, logits, {"label": np.zeros_like(label)})["ap"] == 0.0


@pytest.mark.parametrize("shape", [(), (3,)])
def test_regression_against_sklearn(shape):
    rng = np.random.default_rng(2)
    y = rng.normal(4, 2, (50, *shape)).astype(np.float32)
    outputs = (y + rng.normal(0, 1, y.shape)).astype(np.float32).reshape(50, -1)
    task = Regression(Given(), {"x": ((4,), "float32"), "y": (shape, "float32")}, outputs.shape[1])
    y = y.reshape(50, -1)
    expected = {
        "loss": sk.mean_squared_error(y, outputs),
        "mae": sk.mean_absolute_error(y, outputs),
        "r2": sk.r2_score(y, outputs),
    }
    assert evaluated(task, outputs, {"y": y.reshape(50, *shape)}, parts=3) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("class_weights", [(), (0.5, 1.0, 4.0, 1.0)])
def test_segmentation_against_sklearn(class_weights):
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, (7, 5, 4))  # the last class does not occur
    logits = rng.normal(0, 1, (*label.shape, 4)).astype(np.float32) + np.eye(4)[label]
    logits[..., 3] = -9
    example = {"image": ((5, 4, 3), "float32"), "label": ((5, 4), "uint8")}
    task = Segmentation(Given(), example, 4, class_weights=class_weights)
    found = evaluated(task, np.float32(logits), {"label": label}, parts=2)
    predicted, true = logits.argmax(-1).ravel(), label.ravel()
    assert found["iou"] == pytest.approx(sk.jaccard_score(true, predicted, average="macro"))
    assert found["error"] == pytest.approx(1 - sk.accuracy_score(true, predicted))
    weight = np.asarray(class_weights or (1.0,) * 4)[true]
    log_p = np.asarray(jax.nn.log_softmax(logits)).reshape(-1, 4)[np.arange(len(true)), true]
    assert found["loss"] == pytest.approx(-(weight * log_p).sum() / weight.sum(), rel=1e-5)


@pytest.mark.parametrize("class_weights", [(), (0.5, 1.0, 4.0)])
def test_void_pixels_have_no_part_in_any_metric(class_weights):
    rng = np.random.default_rng(4)
    label = rng.integers(0, 3, (6, 5, 4))
    logits = np.float32(rng.normal(0, 1, (*label.shape, 3)))
    example = {"image": ((5, 4, 3), "float32"), "label": ((5, 4), "uint8")}
    counted = rng.random(label.shape) < 0.7
    given = {"label": np.where(counted, label, 255)}
    task = Segmentation(Given(), example, 3, class_weights=class_weights, void=255)
    found = evaluated(task, logits, given, parts=2)
    predicted, true = logits.argmax(-1)[counted], label[counted]
    assert found["iou"] == pytest.approx(sk.jaccard_score(true, predicted, average="macro"))
    assert found["error"] == pytest.approx(1 - sk.accuracy_score(true, predicted))
    weight = np.asarray(class_weights or (1.0,) * 3)[true]
    log_p = np.asarray(jax.nn.log_softmax(logits))[counted][np.arange(len(true)), true]
    assert found["loss"] == pytest.approx(-(weight * log_p).sum() / weight.sum(), rel=1e-5)


def test_pixels_without_a_finite_output_are_wrong():
    label = np.zeros((2, 3, 4), np.uint8)
    example = {"image": ((3, 4, 3), "float32"), "label": ((3, 4), "uint8")}
    task = Segmentation(Given(), example, 2)
    logits = np.zeros((2, 3, 4, 2), np.float32) + np.float32([1, 0])
    assert evaluated(task, logits, {"label": label})["error"] == 0
    logits[0] = np.nan
    found = evaluated(task, logits, {"label": label})
    assert found["error"] == 0.5 and found["iou"] == pytest.approx(0.25)


def test_more_pixels_of_a_class_than_float32_counts():
    shape = (18, 1000, 1000)
    task = Segmentation(Given(), {"label": (shape[1:], "uint8")}, 2)
    outputs = np.broadcast_to(np.float32([1, 0]), (*shape, 2))
    batch, mask = {"label": np.zeros(shape, np.uint8)}, np.ones(shape[0])
    found = jax.jit(task.statistics)(outputs, batch, mask)["confusion"]
    assert found[0, 0] == np.prod(shape)


def test_weights_of_classes_are_those_of_the_authors():
    """Kurth's code is given the square roots of the frequencies, .991, .0266 and .13."""
    frequencies = np.square((0.991, 0.0266, 0.13))
    found = tasks.weighted(frequencies, "inverse_sqrt")
    np.testing.assert_allclose(found, (0.0218, 0.8120, 0.1662), atol=1e-4)
    deepcam = np.array(tasks.weighted((0.986267818, 0.000457871, 0.013274311), "eighth_root"))
    np.testing.assert_allclose(deepcam / deepcam[0] * 1.0017, (1.0017, 2.6146, 1.7164), atol=1e-4)
    inverse = np.array(tasks.weighted(frequencies, "inverse"))
    np.testing.assert_allclose(inverse * frequencies, inverse[0] * 0.991**2)
    assert sum(inverse) == pytest.approx(1) and len(set(tasks.weighted(frequencies, "none"))) == 1
    with pytest.raises(UserError, match="did you mean 'inverse'"):
        tasks.weighted(frequencies, "invers")


def test_labels_that_no_example_has_are_found_by_chance_alone():
    assert MultiLabel.constant({"label": np.zeros((3, 2), np.uint8)})["ap_macro"] == 0


@pytest.mark.parametrize(
    "kind, example, arrays",
    [
        (Language, ROWS, {"tokens": text()[0]}),
        (Regression, {"y": ((), "float32")}, {"y": np.float32([1, 2, 6])}),
        (MultiLabel, {"label": ((2,), "uint8")}, {"label": np.uint8([[1, 0], [1, 1], [0, 0]])}),
    ],
)
def test_what_one_answer_for_all_examples_scores(kind, example, arrays):
    """Against the task's own metrics of that answer."""
    known = kind.constant(arrays)
    task = kind(Given(), example, kind.outputs_of(example) or V)
    rates = np.mean(arrays.get("label", [0.5]), 0)
    answer = {
        Language: lambda: np.log(np.bincount(arrays["tokens"].ravel(), minlength=V) + 1e-9),
        Regression: lambda: arrays["y"].mean(keepdims=True),
        MultiLabel: lambda: np.log(rates / (1 - rates)),
    }[kind]()
    rows = len(next(iter(arrays.values())))
    outputs = np.broadcast_to(np.float32(answer), (rows, *task.output_shape))
    found = evaluated(task, outputs, arrays)
    assert known and known.keys() <= found.keys()
    for name, value in known.items():
        tolerance = 0.35 if name == "ap_macro" else 1e-5  # all scores of a label are in one bin
        assert value == pytest.approx(found[name], rel=1e-4, abs=tolerance), name


def test_tasks_of_ones_own(monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))

    class Mine(Regression):
        pass

    tasks.register("mine", Mine)
    assert tasks.TASKS["mine"] is Mine and MultiLabel.options() == ("bins",)
    for name, kind, words in (
        ("language", Mine, "'language' already exists"),
        ("other", nn.Module, "a class made from tasks.Task"),
        ("other", type("Less", (Mine,), {"metrics": {"mae": 1}}), "metrics mae; add 'loss'"),
    ):
        with pytest.raises(UserError, match=words):
            tasks.register(name, kind)


class Mixer(nn.Module):
    """Adds to every place what `reach` places later holds; with 0 it is causal."""

    num_classes: int = 5
    reach: int = 0

    @nn.compact
    def __call__(self, x, *, train, positions=None):
        x = nn.Embed(self.num_classes, 8)(x)
        x += jnp.roll(x, -self.reach, 1)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(x)


@pytest.mark.parametrize("model", ["transformer", "lstm"])
def test_the_language_models_here_are_causal(model):
    options = {"width": 16, "layers": 1} | (
        {"heads": 2, "ffn": 16} if model == "transformer" else {}
    )
    Language(build_model(model, 11, **options), {"tokens": ((9,), "uint8")}, 11).check_model()


@pytest.mark.parametrize("reach", [1, 2, 7])
def test_a_language_model_that_sees_later_tokens_is_refused(reach):
    """Whatever its first weights, which here make all logits zero."""
    example = {"tokens": ((8,), "uint8")}
    with pytest.raises(UserError, match=r"Mixer sees the tokens .* first 4 places change"):
        Language(Mixer(reach=reach), example, 5).check_model()
    Language(Mixer(), example, 5).check_model()


def test_padding_has_no_part_in_what_one_answer_scores():
    tokens, weights, _ = text()
    known = Language.constant({"tokens": tokens, "weights": weights})
    assert known == pytest.approx(Language.constant({"tokens": tokens[weights > 0]}))
