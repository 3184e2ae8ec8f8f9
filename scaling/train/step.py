"""One optimizer update: scan over microbatches, one mean over devices.

The only file that says `pmap`. What goes into a program must be committed to the devices first
(`replicate`, `shard`), or the second call compiles again.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from scaling import hosts
from scaling.batch import BatchPlan

AXIS = "batch"  # the pmap axis; models' norm layers and `lax.pmean` name it
# Updates per measurement of the gradient noise, so that it costs less than 2% of the time. A batch
# in one piece is cut in halves, which nearly doubles the time of that update; the norms of
# microbatches take a pass over the weights for each; those of devices are there anyway.
NOISE_EVERY = {"halves": 64, "microbatches": 32}

# hparams -> (optimizer, learning rate as a function of the step); called inside the traced step,
# so that every hyperparameter may be a traced value.
MakeOptimizer = Callable[[Mapping[str, Any]], tuple[optax.GradientTransformation, Callable]]


@flax.struct.dataclass
class TrainState:
    """Everything that changes in training; with the step number, all that a checkpoint holds."""

    step: jax.Array  # int32 [], optimizer updates done
    params: Any
    batch_stats: Any
    opt_state: Any


def on_devices(function: Callable, devices: Sequence, in_axes, out_axes=None, donate=()):
    """`jax.pmap` over `devices` on the axis that the batch is shared on."""
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=in_axes,
        out_axes=out_axes,
        devices=list(devices),
        donate_argnums=donate,
    )


def replicate(tree, devices: Sequence):
    """Commit one logical copy of `tree`, replicated over `devices`."""
    return _committed(tree, devices, PartitionSpec())


def shard(tree, devices: Sequence):
    """Commit `tree`, one row to each device: leaves [devices, ...], of all devices or only of those
    of this process."""
    return _committed(tree, devices, PartitionSpec(AXIS))


def _committed(tree, devices, spec):
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), spec)
    if not hosts.several():
        return jax.device_put(tree, sharding)

    def one(leaf):  # every process gives what its own devices hold: nothing is sent
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)))
        leaf = np.asarray(leaf)
        shape = (len(devices), *leaf.shape[1:]) if spec else leaf.shape
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(one, tree)


def rows_here(devices: Sequence, sharing: int | None = None) -> list[int]:
    """The places of this process's devices among the first `sharing` of `devices`; None: of all."""
    here = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
    return here[:sharing]


def lowered(mapped, *shapes):
    """A function of `on_devices` for arguments of these shapes, which are to be committed."""
    # As abstract values: pmap would take shapes for arrays of this process alone.
    return mapped.lower(*jax.tree.map(jax.api_util.shaped_abstractify, shapes))


def mean_over_devices(tree):
    """`lax.pmean` of all leaves. Between processes of CPUs they travel as one vector, for each
    message takes milliseconds there; elsewhere XLA puts them together itself."""
    if not (hosts.several() and jax.default_backend() == "cpu"):
        return lax.pmean(tree, AXIS)
    vector, unravel = ravel_pytree(tree)
    # The barrier leaves what follows as it is without this, to the bit.
    sums = lax.optimization_barrier(unravel(lax.psum(vector, AXIS)))
    return jax.tree.map(lambda leaf: leaf / lax.axis_size(AXIS), sums)


def squared_norm(tree) -> jax.Array:
    """Sum of squares of all leaves, float32 []."""
    return sum(_sum_of_squares(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(tree))


def _sum_of_squares(x: jax.Array) -> jax.Array:
    """Sixteen parts are squared and added elementwise first, which uses a CPU's vector units.

    XLA keeps the order of a plain sum there, one addition after another, and for a small model
    that took a quarter of the step. Squaring the parts rather than the whole spares a copy of it.
    """
    x = x.ravel()
    if x.size >= 1024 and x.size % 16 == 0:
        return jnp.sum(sum(map(jnp.square, jnp.split(x, 16))))
    return jnp.sum(jnp.square(x))


def init_state(task, make_optimizer: MakeOptimizer, hparams, key: jax.Array) -> TrainState:
    """The state before the first update."""
    params, batch_stats = task.init(key)
    tx, _ = make_optimizer(hparams)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))


def make_gradient(
    task, plan: BatchPlan, preprocess: Callable, noise_every: int | None = None
) -> Callable:
    """The gradient of one device's microbatches, before anything is divided by the weights.

    Returns `gradient(params, batch_stats, data, batch, key, hparams, step)`, to be called inside
    `on_devices`, giving (gradient, batch statistics as this device estimates them, sums): the
    gradient of the examples' loss sums and {"loss", ..., "weight"}, all per row. Per row, and not
    added up, they have the same size whatever the batch; `per_weight` makes them the batch's own.
    Where examples have no weights there is no "weight".
    `batch` leaves are [accum_steps, micro_batch, ...].

    Args:
      noise_every: also give "part_grad_sq_norm", the mean of |g|^2 over the gradients of the parts
        that `noise_parts` names, at every `noise_every`-th update, and NaN at the others.
    """
    whole, in_halves = _gradients_of_a_microbatch(task, plan, preprocess)

    def gradient(params, batch_stats, data, batch, key, hparams, step):
        def one(batch_stats, micro, index):
            args = params, batch_stats, data, micro, index, key, hparams
            if noise_every is None:
                grads, (sums, batch_stats), _ = whole(*args)
                return (grads, sums), batch_stats
            measure = step % noise_every == 0
            if plan.devices * plan.accum_steps == 1:
                grads, (sums, batch_stats), norm = lax.cond(measure, in_halves, whole, *args)
            else:
                grads, (sums, batch_stats), unknown = whole(*args)
                norm = lax.cond(measure, squared_norm, lambda _: unknown, grads)
            return (grads, sums | {"part_grad_sq_norm": norm}), batch_stats

        def add(carry, inputs):
            total, batch_stats = carry
            more, batch_stats = one(batch_stats, *inputs)
            return (jax.tree.map(jnp.add, total, more), batch_stats), None

        micro = jax.tree.map(lambda leaf: leaf[0], batch)
        if plan.accum_steps == 1:
            (grads, sums), batch_stats = one(batch_stats, micro, 0)
            return grads, batch_stats, sums
        shapes = jax.eval_shape(one, batch_stats, micro, 0)[0]
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        inputs = batch, jnp.arange(plan.accum_steps)
        (total, batch_stats), _ = lax.scan(add, (zeros, batch_stats), inputs)
        grads, sums = jax.tree.map(lambda leaf: leaf / plan.accum_steps, total)
        return grads, batch_stats, sums

    return gradient


def per_weight(grads, sums: Mapping[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
    """The gradient of a batch's loss and its metrics, from the means over devices of what
    `make_gradient` gives: the one division by the weights, if there are any."""
    if "weight" not in sums:
        return grads, dict(sums)
    sums = dict(sums)
    weight = sums.pop("weight")
    powers = {name: jnp.square(weight) if "sq_norm" in name else weight for name in sums}
    metrics = {name: value / powers[name] for name, value in sums.items()}
    return jax.tree.map(lambda leaf: leaf / weight, grads), metrics


def gradient_noise(key: jax.Array, positions: jax.Array, variance: jax.Array) -> jax.Array:
    """z ~ N(1, variance), [N], one for each example's loss and so for its gradient (Hoffer 2017,
    section 4). A function of the example's place in the global batch, whatever the layout."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(positions)
    return 1.0 + jnp.sqrt(variance) * jax.vmap(jax.random.normal)(keys)


def _gradients_of_a_microbatch(task, plan: BatchPlan, preprocess: Callable):
    """(whole, in_halves), two ways to the same: (gradient, (sums, batch statistics), norm), norm
    being NaN for the first and the mean of |g|^2 over the microbatch's halves for the second."""

    def losses(params, batch_stats, data, micro, index, key, hparams):
        device = lax.axis_index(AXIS) if plan.devices > 1 else 0
        first = (index * plan.devices + device) * plan.micro_batch
        positions = first + jnp.arange(plan.micro_batch)
        augment_key, task_key = jax.random.split(key)
        micro = preprocess(data, micro, augment_key, positions)
        scores, weights, batch_stats = task.losses(
            params, batch_stats, micro, positions, task_key, hparams
        )
        loss = scores["loss"]
        if "gradient_noise" in hparams:
            noise_key = jax.random.fold_in(key, 2)  # the third, after the two above
            loss *= gradient_noise(noise_key, positions, hparams["gradient_noise"])
        weights = {} if weights is None else {"weight": weights}
        return loss, (jax.tree.map(jnp.mean, scores | weights), batch_stats)

    def mean_loss(*args):
        loss, aux = losses(*args)
        return loss.mean(), aux

    def in_halves(params, *args):
        loss, pull_back, aux = jax.vjp(lambda p: losses(p, *args), params, has_aux=True)
        first = jnp.arange(plan.micro_batch) < plan.micro_batch // 2
        total, norms = None, 0.0
        for half in (first, ~first):
            (grads,) = pull_back(half.astype(loss.dtype) / plan.micro_batch)
            norms += squared_norm(grads) * jnp.square(plan.micro_batch / jnp.sum(half)) / 2
            total = grads if total is None else jax.tree.map(jnp.add, total, grads)
        return total, aux, norms

    def whole(*args):
        grads, aux = jax.grad(mean_loss, has_aux=True)(*args)
        return grads, aux, jnp.float32(jnp.nan)

    return whole, in_halves


def noise_parts(plan: BatchPlan) -> tuple[str, float]:
    """Which parts of a batch have gradients of their own, and the examples in each.

    Microbatches where there are several, else devices; else the batch is cut in halves for this,
    of which one may be larger: the size is their harmonic mean, for |g|^2 exceeds |G|^2 by
    tr(Sigma) / size (McCandlish 2018, A.1). g and G are gradients of loss sums per row over the
    batch's one mean weight, so this holds whatever the weights of the rows, and Sigma is of rows.
    """
    if plan.accum_steps > 1:
        return "microbatches", plan.micro_batch
    if plan.devices > 1:
        return "devices", plan.micro_batch
    small = plan.micro_batch // 2
    return "halves", 2 * small * (plan.micro_batch - small) / plan.micro_batch


def noise_every(config: ConfigDict, plan: BatchPlan) -> int | None:
    """How often an update measures the gradient noise; None: never."""
    if not config.noise_scale:
        return None
    source = noise_parts(plan)[0]
    if source == "devices":
        return 1
    return config.noise_every or NOISE_EVERY[source]


def make_update(
    task,
    make_optimizer: MakeOptimizer,
    plan: BatchPlan,
    preprocess: Callable,
    noise_every: int | None = None,
) -> Callable:
    """One optimizer update on the whole global batch, to be called inside `on_devices`.

    Returns `update(state, data, batch, hparams, key, initial)`. Its metrics are those of the task,
    and
      grad_sq_norm: |G|^2 of the global batch's mean gradient.
      local_grad_sq_norm: [devices], the same of every device's own part of the batch, over the
        weight of all of it. Where a ghost batch spans devices the parts are not independent:
        gradients cross between them.
      learning_rate: of this update.
      weight_distance: ||w - w_0|| after the update, where `initial` holds w_0.
      part_grad_sq_norm: see `make_gradient`, where `noise_every` is given; and part_batch, the
        examples in such a part.
    """
    gradient = make_gradient(task, plan, preprocess, noise_every)

    def update(state, data, batch, hparams, key, initial):
        key = jax.random.fold_in(key, state.step)
        grads, batch_stats, sums = gradient(
            state.params, state.batch_stats, data, batch, key, hparams, state.step
        )
        if plan.devices == 1:  # XLA would copy everything through a mean over one device
            norms = squared_norm(grads)[None]
        else:
            # A device's norm rides in its own slot of the one mean, so that all learn all of them.
            slots = jnp.arange(plan.devices) == lax.axis_index(AXIS)
            norms = jnp.where(slots, squared_norm(grads) * plan.devices, 0.0)
            everything = grads, batch_stats, sums, norms
            grads, batch_stats, sums, norms = mean_over_devices(everything)
        grads, metrics = per_weight(grads, sums | {"local_grad_sq_norm": norms})

        tx, learning_rate = make_optimizer(hparams)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if noise_every is not None:
            metrics["part_batch"] = jnp.float32(noise_parts(plan)[1])
        metrics = metrics | {
            "grad_sq_norm": squared_norm(grads),
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
        }
        if initial is not None:
            moved = jax.tree.map(jnp.subtract, params, initial)
            metrics["weight_distance"] = jnp.sqrt(squared_norm(moved))
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return update
