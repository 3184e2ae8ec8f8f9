import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.optim import scale_learning_rate


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
