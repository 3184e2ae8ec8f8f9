import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.optim import scale_learning_rate
from scaling.optim.rules import decay_of_half_life, scale_adam


def test_linear_gives_goyals_rates():
    rates = [scale_learning_rate(0.1, "linear", batch, 256) for batch in (128, 256, 8192, 65536)]
    np.testing.assert_allclose(rates, [0.05, 0.1, 3.2, 25.6])


def test_sqrt_gives_hoffers_rate():
    assert scale_learning_rate(0.1, "sqrt", 4096, 128) == pytest.approx(0.1 * 32**0.5)


def test_none_leaves_the_rate_alone():
    assert scale_learning_rate(0.1, "none", 4096, 128) == 0.1


def test_base_rate_may_be_traced():
    rates = jax.jit(jax.vmap(lambda lr: scale_learning_rate(lr, "sqrt", 1024, 256)))(
        jnp.array([0.1, 0.3])
    )
    np.testing.assert_allclose(rates, [0.2, 0.6], rtol=1e-6)


def test_unknown_rule_names_the_nearest():
    with pytest.raises(UserError, match="Unknown scaling rule 'lineer': did you mean 'linear'"):
        scale_learning_rate(0.1, "lineer", 1024, 256)


@pytest.mark.parametrize("ratio", [0.25, 1, 8])
def test_adam_at_another_batch_follows_malladis_rule(ratio):
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1}
    scaled = scale_adam(numbers, ratio)
    assert scaled == {
        "b1": pytest.approx(1 - ratio * 0.1),
        "b2": pytest.approx(1 - ratio * 0.001),
        "eps": pytest.approx(1e-8 / ratio**0.5),
    }
    # As the papers' equation has it, averages span the same number of examples.
    assert ratio / (1 - scaled["b2"]) == pytest.approx(1 / (1 - 0.999))


def test_an_average_over_less_than_an_update_is_refused():
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
    with pytest.raises(UserError, match=r"moves b1 from 0.9 to -0.6, at 16 times optim.base_batch"):
        scale_adam(numbers, 16)


def test_half_of_an_average_is_gone_after_the_half_life():
    for batch in (1, 8, 1000):
        updates = 10_000 / batch
        assert decay_of_half_life(10_000, batch) ** updates == pytest.approx(0.5)
