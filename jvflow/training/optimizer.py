"""Grams, an optimizer in the form of optax.

    m, v as in Adam;  p <- p - lr sqrt(1 - b2^t) / (1 - b1^t) sign(g) |m| / (sqrt(v) + eps)     (1)   arXiv 2412.17107

An update has the sign of the gradient and the size of Adam's update. `eps` is added before the bias correction, unlike
in optax's Adam.
"""

import jax
import jax.numpy as jnp
import optax


def scale_by_grams(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, *, correct_bias: bool = True
) -> optax.GradientTransformation:
    """Returns the update (1) of Grams without the learning rate."""

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros(), nu=zeros())

    def update(gradients, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, gradients)
        corrected = lambda b, dtype: 1 - jnp.asarray(b, dtype) ** count if correct_bias else 1.0

        def step(g, m, v):
            rate = corrected(b2, m.dtype) ** 0.5 / corrected(b1, m.dtype)
            return rate * jnp.sign(g) * jnp.abs(m) / (jnp.sqrt(v) + eps)  # (1)

        return jax.tree.map(step, gradients, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def grams(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Returns Grams: the sign of the gradient with the size of Adam's momentum (Cao et al., arXiv 2412.17107).

    Weight decay is decoupled: it subtracts lr weight_decay p, so `update` needs the parameters.
    """
    return optax.chain(
        scale_by_grams(b1, b2, eps),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
