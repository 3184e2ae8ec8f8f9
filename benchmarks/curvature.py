"""Cost and accuracy of `scaling.curvature`.

    python benchmarks/curvature.py [--examples=10000] [--draws=500] [--name=RESULT]

Times, of F1 (Keskar 2016) at a quarter of its width, five layers of 128 units with batch norm on
its running statistics, and synthetic images of 28 x 28, in alternating calls:
    product_over_gradient: a Hessian-vector product over a gradient of the same chunks.
    kept_product_over_gradient: the same with `keep`.
    lanczos_over_products: 30 steps of Lanczos over 30 bare products, both without `keep`.
Accuracy, on digits and a net 64-16-16-10 after 300 steps of gradient descent, against its Hessian
in float64 (1,482 parameters):
    top_10: largest error of the first ten eigenvalues after 60 steps, over the largest.
    lambda_min: error after 60 steps and its bound, over the largest.
    xtrace, hutchinson: at 30 products, the error over the trace (root of the mean square), the
      share of the 95% intervals that hold the trace, and their mean half-width over it.
"""

import argparse
import itertools
import math
import statistics

import numpy as np
from common import machine, seconds, write

REPEATS, STEPS = 5, 30


def net(params, images):
    import jax

    for kernel, bias in params[:-1]:
        images = jax.nn.relu(images @ kernel + bias)
    return images @ params[-1][0] + params[-1][1]


def losses(params, examples):
    import optax

    images, labels = examples
    return optax.softmax_cross_entropy_with_integer_labels(net(params, images), labels)


def weights(rng, sizes):
    """He normal kernels and biases of 0."""
    draw = lambda m, n: np.float32(rng.standard_normal((m, n)) * math.sqrt(2 / m))
    return [(draw(m, n), np.zeros(n, np.float32)) for m, n in itertools.pairwise(sizes)]


def times(count):
    """Ratios of times of neighbours, their median and all."""
    import jax
    import optax

    from scaling import curvature
    from scaling.models.mlp import MLP

    model = MLP(10, (128,) * 5, norm="batch")
    rng, rows, vector_key = np.random.default_rng(0), 250, jax.random.key(0)
    examples = np.float32(rng.standard_normal((count, 784))), rng.integers(0, 10, count)
    variables = model.init(vector_key, examples[0][:2], train=False)
    whole = lambda tree, value: jax.tree.map(lambda _: value, tree)
    chosen = {name: whole(tree, name == "params") for name, tree in variables.items()}

    @curvature.summed
    def loss(variables, examples):
        logits = model.apply(variables, examples[0], train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, examples[1])

    chunks = jax.device_put(curvature.in_chunks(examples, rows))
    given = (loss, variables, chunks, chosen)
    operator, kept = (curvature.hessian_product(*given, keep=keep) for keep in (False, True))
    vector = jax.random.normal(vector_key, (operator.size,))
    start, _ = curvature.flatten(variables, chosen)
    gradient, ready = curvature.value_and_grad(*given), jax.block_until_ready
    calls = {
        "gradient": lambda: gradient(start),
        "product": lambda: ready(operator(vector)),
        "kept_product": lambda: ready(kept(vector)),
        "products": lambda: [ready(operator(vector)) for _ in range(STEPS)],
        "lanczos": lambda: curvature.lanczos(operator, vector_key, STEPS),
    }
    for call in calls.values():
        call()
    result = {"examples": count, "chunk": rows, "parameters": operator.size}
    pairs = [("product", "gradient"), ("kept_product", "gradient"), ("lanczos", "products")]
    for top, bottom in pairs:
        ratios = [seconds(calls[top]) / seconds(calls[bottom]) for _ in range(REPEATS)]
        result[f"{top}_over_{bottom}"] = {
            "median": round(statistics.median(ratios), 3),
            "all": [round(ratio, 3) for ratio in ratios],
        }
    return result


def accuracy(draws):
    """Errors on digits."""
    import jax
    from sklearn.datasets import load_digits

    from scaling import curvature

    images, labels = load_digits(return_X_y=True)
    examples, loss = (np.float32(images / 16), labels), curvature.summed(losses)
    mean = lambda params: losses(params, examples).mean()
    step = lambda _, p: jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(mean)(p))
    params = weights(np.random.default_rng(0), (64, 16, 16, 10))
    params = jax.jit(lambda p: jax.lax.fori_loop(0, 300, step, p))(params)
    params = jax.tree.map(np.asarray, params)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, float), params)
        x, restore = curvature.flatten(wide)
        hessian = np.asarray(jax.jit(jax.hessian(lambda x: mean(restore(x))))(x))
    truth, total = np.linalg.eigvalsh(hessian)[::-1], np.trace(hessian)
    operator = curvature.hessian_product(loss, params, curvature.in_chunks(examples, 600))
    values, bounds = curvature.ritz(curvature.lanczos(operator, jax.random.key(0), 60))
    result = {
        "top_10": float(abs(values[:10] - truth[:10]).max() / truth[0]),
        "lambda_min": {
            "error": float(abs(values[-1] - truth[-1]) / truth[0]),
            "bound": float(bounds[-1] / truth[0]),
        },
    }
    # The dense matrix is the faster operator here; its products are those of the net.
    matrix = curvature.Operator(
        lambda v, h: h @ v, (jax.numpy.asarray(hessian, "float32"),), len(hessian)
    )
    for method in ("xtrace", "hutchinson"):
        found = [curvature.trace(matrix, jax.random.key(i), 30, method) for i in range(draws)]
        held = [one.interval[0] <= total <= one.interval[1] for one in found]
        errors = [one.value / total - 1 for one in found]
        half = [(one.interval[1] - one.interval[0]) / 2 / total for one in found]
        result[method] = {
            "products": found[0].products,
            "error": round(math.sqrt(np.mean(np.square(errors))), 4),
            "coverage": round(float(np.mean(held)), 3),
            "half_width": round(float(np.mean(half)), 4),
        }
    return {"parameters": len(hessian), "draws": draws, **result}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--name", default="curvature")
    options = parser.parse_args()
    result = {"machine": machine(), "times": times(options.examples)}
    write(options.name, result | {"accuracy": accuracy(options.draws)})


if __name__ == "__main__":
    main()
