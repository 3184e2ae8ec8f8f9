"""Transformers and LSTMs against the same nets written out in float64, place by place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.models import build_model
from scaling.models.transformer import MODERN, rotated

V, L, N = 11, 7, 3
SMALL = {"layers": 2, "width": 12, "ffn": 20, "heads": 3}
TRANSFORMERS = {
    "2018": {},
    "2018, without biases": {"bias": False},
    "modern": MODERN,
    "gated, untied": MODERN | {"activation": "swiglu", "tied": False},
}
LSTMS = {"one layer": {}, "tied": {"tied": True}, "two layers": {"layers": 2}}
MODELS = {name: ("transformer", SMALL | options) for name, options in TRANSFORMERS.items()} | {
    f"LSTM, {name}": ("lstm", {"width": 6, "cells": 9} | options) for name, options in LSTMS.items()
}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (N, L)), jnp.int32)


@pytest.fixture(params=MODELS)
def built(request):
    """(model, its options, parameters that no initialisation has at 0 or 1)."""
    name, options = MODELS[request.param]
    model = build_model(name, V, **options)
    params = jax.jit(lambda: model.init(jax.random.key(0), TOKENS, train=False))()["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [p + 0.3 * jax.random.normal(key, p.shape) for key, p in zip(keys, leaves, strict=True)]
    return model, options, jax.tree.unflatten(tree, noisy)


def logits(model, params, tokens, **kwargs):
    return jax.jit(lambda p, x: model.apply({"params": p}, x, train=False, **kwargs))(
        params, tokens
    )


# ---- The nets, written out ----


def normalised(x, p, centred):
    """Of one vector: layer norm or root mean square, with scale and, where there is one, bias."""
    x = x - x.mean() if centred else x
    return x / np.sqrt(np.mean(x**2) + 1e-6) * p["scale"] + p.get("bias", 0.0)


def turned(x, place):
    """Pairs (i, i + D/2) as complex numbers, turned."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * place * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "swiglu": lambda x: np.split(x, 2)[0] * sigmoid(np.split(x, 2)[0]) * np.split(x, 2)[1],
}


def transformer(p, row, options):
    """Logits [L, V] of one row."""
    heads, modern = options["heads"], options.get("rotary", False)
    activation = ACTIVATIONS[options.get("activation", "relu")]
    norm = lambda x, name: normalised(x, p[name], centred=not modern)
    stream = [p["embedding"][token] for token in row]
    if not modern:
        stream = [x + p["positions"][t] for t, x in enumerate(stream)]
    for i in range(options["layers"]):
        parts = [
            np.split(norm(x, f"norm{i}_attention") @ p[f"qkv{i}"]["kernel"], 3) for x in stream
        ]
        q, k, v = ([np.split(part[n], heads) for part in parts] for n in range(3))
        if modern:
            for n, vectors in (("q", q), ("k", k)):
                for t in range(len(row)):
                    own = [normalised(x, p[f"norm{i}_{n}"], centred=False) for x in vectors[t]]
                    vectors[t] = [turned(x, t) for x in own]
        for t in range(len(row)):
            mixed = []
            for h in range(heads):
                scores = np.array([q[t][h] @ k[s][h] for s in range(t + 1)])
                weights = np.exp(scores / np.sqrt(len(q[t][h])))
                weights /= weights.sum()
                mixed.append(sum(w * v[s][h] for s, w in enumerate(weights)))
            stream[t] = stream[t] + np.concatenate(mixed) @ p[f"out{i}"]["kernel"]
        for t, x in enumerate(stream):
            up, down = p[f"up{i}"], p[f"down{i}"]
            hidden = activation(norm(x, f"norm{i}_ffn") @ up["kernel"] + up.get("bias", 0.0))
            stream[t] = x + hidden @ down["kernel"] + down.get("bias", 0.0)
    head = p["head"] if "head" in p else p["embedding"].T
    return np.stack([norm(x, "norm") @ head for x in stream])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(p, row, options):
    """Logits [L, V] of one row."""
    stream = [p["embedding"][token] for token in row]
    for layer in range(options.get("layers", 1)):
        own = p[f"lstm{layer}"]
        c, h = np.zeros(options["cells"]), np.zeros(options["width"])
        for t, x in enumerate(stream):
            gates = x @ own["input"] + h @ own["recurrent"] + own["bias"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = (sigmoid(o) * np.tanh(c)) @ own["projection"]
            stream[t] = h
    head = p["head"] if "head" in p else p["embedding"].T
    return np.stack([h @ head for h in stream])


def test_logits_are_those_of_the_net_written_out(built):
    model, options, params = built
    written = transformer if "heads" in options else lstm
    exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    expected = np.stack([written(exact, row, options) for row in np.asarray(TOKENS)])
    np.testing.assert_allclose(logits(model, params, TOKENS), expected, rtol=2e-5, atol=2e-5)


# ---- What must hold of any ----


@pytest.mark.parametrize("place", [0, 3, L - 1])
def test_a_token_changes_no_logits_before_it(built, place):
    model, _, params = built
    before = logits(model, params, TOKENS)
    after = logits(model, params, TOKENS.at[1, place].set((TOKENS[1, place] + 1) % V))
    differs = np.any(np.asarray(before != after), -1)
    expected = np.zeros((N, L), bool)
    expected[1, place:] = True
    np.testing.assert_array_equal(differs, expected)


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32(built):
    model, _, params = built
    exact, rounded = (
        logits(model.clone(dtype=dtype), params, TOKENS) for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.abs(exact - rounded).max() / jnp.abs(exact).max() < 0.1


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_dropout_goes_with_the_place_in_the_global_batch(name):
    options = SMALL if name == "transformer" else {"width": 6, "cells": 9}
    model = build_model(name, V, dropout=0.5, **options)
    variables = model.init(jax.random.key(0), TOKENS, train=False)

    def trained(tokens, positions):
        rngs = {"dropout": jax.random.key(1)}
        return model.apply(variables, tokens, train=True, positions=positions, rngs=rngs)

    places = jnp.array([5, 0, 9])
    whole = trained(TOKENS, places)
    np.testing.assert_allclose(trained(TOKENS[1:], places[1:]), whole[1:], rtol=1e-5, atol=1e-5)
    assert jnp.abs(trained(TOKENS, places + 1) - whole).max() > 1e-3


def test_rotated_products_depend_on_the_distance_alone():
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
    q, k = (rotated(jnp.broadcast_to(x, (1, 50, 1, 16)))[0, :, 0] for x in (q, k))
    scores = np.asarray(q @ k.T)
    for distance in range(-49, 50, 7):
        of_distance = np.diagonal(scores, distance)
        np.testing.assert_allclose(of_distance, of_distance[0], atol=1e-4)
    assert np.ptp(scores[0]) > 1


def test_at_first_every_token_is_about_as_likely():
    """The loss is ln V to within a few percent, so no trial starts from confident mistakes."""
    for name in ("transformer", "lstm"):
        model = build_model(name, 512, width=64, **({"cells": 128} if name == "lstm" else {}))
        tokens = jax.random.randint(jax.random.key(1), (4, 32), 0, 512)
        first = jax.jit(
            lambda m=model, x=tokens: m.init_with_output(jax.random.key(0), x, train=False)[0]
        )()
        loss = -jax.nn.log_softmax(first)[:, :-1]
        loss = jnp.take_along_axis(loss, tokens[:, 1:, None], -1).mean()
        assert float(loss) == pytest.approx(np.log(512), rel=0.03), name


# ---- Sizes ----


def parameters(name, vocabulary, length, **options):
    model, tokens = build_model(name, vocabulary, **options), jnp.zeros((1, length), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, train=False)["params"])
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "size, layers, width, ffn",
    [
        ("base", 6, 512, 2048),
        ("shallow", 2, 512, 2048),
        ("narrow_and_shallow", 2, 256, 1024),
        ("wide", 6, 1024, 4096),
    ],
)
def test_parameters_of_the_named_transformers(size, layers, width, ffn):
    vocabulary, length = 32_000, 128
    matrices = 4 * width**2 + 2 * width * ffn
    norms, biases = 2 * width, width + ffn
    total = (vocabulary + length) * width + layers * (matrices + 2 * norms + biases) + norms
    assert parameters("transformer", vocabulary, length, size=size) == total

    scales = 2 * width + 2 * 64  # of the sublayers, of queries and keys
    modern = vocabulary * width + layers * (matrices + scales) + width
    own = parameters("transformer", vocabulary, length, size=size, **MODERN)
    assert own == modern
    gated = MODERN | {"activation": "swiglu", "tied": False}
    more = layers * width * ffn + vocabulary * width
    assert parameters("transformer", vocabulary, length, size=size, **gated) == own + more


def test_parameters_of_small_ones():
    small = {"layers": 2, "width": 64, "ffn": 256, "heads": 4, "bias": False}
    assert parameters("transformer", 512, 32, **small) == 133_440
    # Shallue's: embedding and head of V x 512 each, and gates from 2 x 512 inputs.
    lstm = 2 * 32_000 * 512 + 4 * 2048 * (1024 + 1) + 2048 * 512
    assert parameters("lstm", 32_000, 128) == lstm
    assert parameters("lstm", 32_000, 128, tied=True) == lstm - 32_000 * 512
    assert parameters("lstm", 2048, 64, width=128, cells=256, tied=True) == 558_080


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": "bas"}, "did you mean 'base'"),
        ({"activation": "silu"}, "model.activation is 'silu': "),
        ({"heads": 5}, "model.heads is 5; use a divisor of model.width, 512."),
        ({"width": 8, "heads": 8, "rotary": True}, "heads of an even width, and 8 / 8 is odd."),
    ],
)
def test_wrong_options_are_told(options, words):
    with pytest.raises(UserError) as error:
        build_model("transformer", V, **options)
    assert words in str(error.value)


def test_blocks_of_a_transformer_begin_as_the_identity():
    model = build_model("transformer", V, **SMALL)
    params = model.init(jax.random.key(0), TOKENS, train=False)["params"]
    for i in range(SMALL["layers"]):
        for layer in (f"out{i}", f"down{i}"):
            assert not np.any(params[layer]["kernel"]), layer


def test_an_lstm_begins_by_remembering():
    """Jozefowicz 2015: the bias of the forget gate, the second of four, is 1 at first."""
    model = build_model("lstm", V, width=6, cells=9)
    params = model.init(jax.random.key(0), TOKENS, train=False)["params"]
    expected = np.repeat([0.0, 1.0, 0.0, 0.0], 9)
    np.testing.assert_array_equal(params["lstm0"]["bias"], expected)
