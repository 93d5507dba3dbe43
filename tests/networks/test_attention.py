"""Attention by the kernels of GPU and TPU, as far as a CPU runs them, against XLA's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_kernels import KERNELS
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jvflow.networks import attention as ways
from jvflow.networks import layers
from jvflow.parallel import hlo
from jvflow.parallel.mesh import make_mesh
from jvflow.parallel.sharding import AXES, ROWS
from jvflow.training import dryrun

pytestmark = [pytest.mark.slow, pytest.mark.own_attention]


def inputs(n: int, m: int, *, b: int = 2, h: int = 2, d: int = 16, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(n + m), 3)
    return [jax.random.normal(key, (b, length, h, d), dtype) for key, length in zip(keys, (n, m, m))]


def masked(b: int, m: int):
    """Returns a mask (b, 1, 1, m) with holes; the first row has the first key alone."""
    mask = jax.random.bernoulli(jax.random.key(0), 0.5, (b, m)).at[:, 0].set(True).at[0, 1:].set(False)
    return mask[:, None, None]


def value_and_gradients(attend, q, k, v, mask):
    """Returns the attention and the gradients of a sum over it, computed in one program."""

    def total(q, k, v):
        attended = attend(q, k, v, mask)
        return jnp.sum(jnp.sin(jnp.arange(attended.size).reshape(attended.shape)) * attended), attended

    (_, attended), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return attended, *gradients


def assert_equal(ours, theirs, atol=2e-5):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.float32(mine), np.float32(other), atol=atol)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("n, m, with_mask", [(128, 128, False), (150, 150, False), (130, 7, True), (520, 33, True)])
def test_kernels_equal_xla_in_values_and_gradients(name, n, m, with_mask):
    """Covers odd lengths, more than one block, and masks with holes."""
    arrays, mask = inputs(n, m), masked(2, m) if with_mask else None
    plain = lambda q, k, v, mask: jax.nn.dot_product_attention(q, k, v, mask=mask)
    ours, expected = (value_and_gradients(attend, *arrays, mask) for attend in (KERNELS[name], plain))
    assert_equal(ours, expected)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_take_half_precision(name):
    arrays = inputs(140, 140, dtype=jnp.bfloat16)
    attended = jax.jit(KERNELS[name])(*arrays)
    assert attended.dtype == jnp.bfloat16
    exact = jax.nn.dot_product_attention(*(jnp.float32(a) for a in arrays))
    assert_equal([attended], [exact], atol=0.02)


@pytest.mark.parametrize("sizes", [dict(data=2, sequence=2), dict(fsdp=2, tensor=2), dict(sequence=4), dict(tensor=4)])
def test_devices_share_rows_heads_and_queries(sizes):
    """Checks values and gradients; 4 devices do not divide the 2 heads, so each computes them all."""
    arrays, mask = inputs(260, 20), masked(2, 20)
    alone = value_and_gradients(KERNELS["splash"], *arrays, mask)
    with jax.set_mesh(make_mesh(sizes)):
        shared = value_and_gradients(partial(ways.on_mesh, KERNELS["splash"]), *arrays, mask)
    assert_equal(shared, alone)


def test_a_row_that_does_not_divide_is_computed_by_every_device():
    arrays = inputs(64, 64, b=1)
    with jax.set_mesh(make_mesh(dict(data=4))):
        shared = jax.jit(partial(ways.on_mesh, KERNELS["splash"]))(*arrays)
    assert_equal([shared], [jax.nn.dot_product_attention(*arrays)])


@pytest.mark.parametrize(
    "platform, tokens, d, dtype, expected",
    [
        ("cpu", 8192, 64, jnp.bfloat16, None),
        ("gpu", 256, 72, jnp.bfloat16, ways.cudnn),
        ("gpu", 8192, 128, jnp.float16, ways.cudnn),
        ("gpu", 8192, 64, jnp.float32, None),
        ("gpu", 8192, 384, jnp.bfloat16, None),
        ("gpu", 8192, 60, jnp.bfloat16, None),
        ("tpu", 256, 64, jnp.bfloat16, None),
        ("tpu", 1024, 64, jnp.bfloat16, ways.splash),
        ("tpu", 8192, 72, jnp.float32, ways.splash),
    ],
)
def test_the_rule(platform, tokens, d, dtype, expected):
    q = jax.ShapeDtypeStruct((1, tokens, 2, d), dtype)
    chosen = ways.choose("auto", platform, q, q)
    assert chosen is None if expected is None else chosen.args == (expected,)
    assert ways.choose("xla", platform, q, q) is None


def test_a_name_replaces_the_rule():
    q, k, v = inputs(8, 8)
    with pytest.raises(ValueError, match="unknown attention kernel 'flash': use auto, cudnn, splash or xla"):
        layers.attention(q, k, v, kernel="flash")
    with pytest.raises(ValueError, match="got float32 and 16: use config.network.dtype=bfloat16"):
        ways.choose("cudnn", "gpu", q, k)
    for kernel, device in dict(cudnn="GPU", splash="TPU").items():
        with pytest.raises(ValueError, match=f"'{kernel}' runs on a {device}, and this program on a CPU: use config"):
            layers.attention(q, k, v, kernel=kernel)


def test_the_operations_of_a_kernel_are_counted():
    """Compares splash attention with the two products of attention; its blocks are whole here."""
    (b, n, h, d), m = (2, 512, 2, 16), 1024
    arrays = inputs(n, m, b=b, h=h, d=d)
    assert hlo.flops(KERNELS["splash"], *arrays) == 4 * b * h * n * m * d
    with jax.set_mesh(make_mesh(dict(data=2, tensor=2))):
        assert hlo.flops(partial(ways.on_mesh, KERNELS["splash"]), *arrays) == 4 * b * h * n * m * d


@pytest.mark.integration
@pytest.mark.parametrize(
    "n, m, h, d, sizes",
    [
        pytest.param(2340, 2340, 32, 64, (2, 1, 2, 1), id="LTX-Video, 41 frames of 480 x 832"),
        pytest.param(17160, 17160, 12, 128, (1, 1, 2, 2), id="Wan, 41 frames of 480 x 832"),
        pytest.param(17160, 512, 12, 128, (1, 2, 1, 2), id="Wan, to its text"),
    ],
)
def test_programs_of_a_tpu_slice_have_no_logits_and_only_add_gradients(n, m, h, d, sizes):
    """Compiles attention with its gradients for a slice of four chips."""
    mesh = Mesh(np.array(dryrun.devices("v5e:2x2")).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 4)
    place = NamedSharding(mesh, P(ROWS))
    of = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    q, k, mask = of(2, n, h, d), of(2, m, h, d), of(2, 1, 1, m, dtype=bool) if m < n else None
    total = lambda q, k, v, mask: layers.attention(q, k, v, 512, mask).astype(jnp.float32).sum()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, k, mask).compile()
    text = program.as_text()
    assert "tpu_custom_call" in text
    assert not any(shape[-2:] in [(n, m), (n // 2, m)] for shape in hlo.shapes(text))
    assert set(hlo.by_kind(hlo.collectives(text, 4))) <= {"all-reduce"}  # of the gradients of keys and values


def test_a_large_program_on_a_tpu_or_gpu_would_have_no_logits(monkeypatch):
    """Lets the rule see another platform: the program that JAX traces has no array of n x n numbers."""
    n = 1536
    q, k, v = (jax.ShapeDtypeStruct((1, n, 2, 64), jnp.bfloat16) for _ in range(3))
    has_logits = lambda: f"{n},{n}" in str(jax.make_jaxpr(lambda *args: layers.attention(*args))(q, k, v))
    assert has_logits()
    monkeypatch.setattr(layers, "platform", lambda: "tpu")
    assert not has_logits()
