import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dit_sizes import forward_flops, parameter_count, preset

from jvflow.flow.field import Condition, guide, null
from jvflow.networks import as_field, build
from jvflow.networks.dit import DiTConfig
from jvflow.networks.layers import position_table

pytestmark = pytest.mark.slow

TINY = dict(name="dit", width=32, depth=2, heads=2, patch=(1, 4, 4), channels=3)


def random_params(network, seed=0):
    """Returns random parameters, all nonzero, without compiling `init`: a new adaLN-zero network is exactly 0."""
    rng = np.random.default_rng(seed)
    size = lambda shape: np.sqrt(0.01 + 1 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1
    draw = lambda a: jnp.asarray(size(a.shape) * rng.normal(size=a.shape), jnp.float32)
    return jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0)))


def field(seed=0, **options):
    network = build(**(TINY | options))
    return jax.jit(as_field(network, random_params(network, seed)))


def apply(network, params, x, s):
    return jax.jit(lambda p: network.apply(p, x, s)[0])(params)


def gradient(network, params, x, s):
    return jax.jit(jax.grad(lambda p: (network.apply(p, x, s)[0] ** 2).mean()))(params)


def inputs(shape=(2, 1, 8, 8, 3), coordinates=1):
    x = jax.random.normal(jax.random.key(5), shape)
    return x, tuple(jnp.linspace(0.2, 0.7, shape[0]) + 0.1 * i for i in range(coordinates))


@pytest.mark.parametrize(
    "name, expected",
    # table 1 of the DiT paper, in millions; XL/2 is the public checkpoint's 675,129,632
    [("S/2", 33), ("B/2", 130), ("L/2", 458), ("XL/2", 675), ("S/4", 33), ("B/4", 131)]
    + [pytest.param(*row, marks=pytest.mark.integration) for row in (("L/4", 459), ("XL/4", 675))],
)
def test_parameter_counts_of_the_presets(name, expected):
    config = DiTConfig(**preset(name), channels=4, velocities=2, labels=1000)
    assert parameter_count(config, (1, 32, 32)) / 1e6 == pytest.approx(expected, abs=1)
    if name == "XL/2":
        assert parameter_count(config, (1, 32, 32)) == 675_129_632


def test_the_parameter_count_agrees_with_init():
    for options in ({}, dict(scan=True), dict(text_width=5, labels=3, coordinates=2, velocities=2, local=True)):
        network = build(**(TINY | options))
        made = sum(a.size for a in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))))
        assert made == parameter_count(network.config)


def test_a_fresh_network_is_exactly_zero():
    network = build(**TINY, local=True)
    (v,) = jax.jit(lambda key, x, s: network.apply(network.init(key), x, s))(jax.random.key(0), *inputs())
    np.testing.assert_array_equal(v, 0)


def test_one_or_two_velocities_of_the_shape_of_x():
    for shape, patch in (((2, 1, 8, 8, 3), (1, 4, 4)), ((2, 4, 8, 4, 3), (2, 4, 2))):
        x, s = inputs(shape, 2)
        out = field(patch=patch, coordinates=2, velocities=2)(x, s, None)
        assert [v.shape for v in out] == [shape, shape]
        assert not np.allclose(*out)


def test_every_coordinate_and_every_input_channel_matters():
    x, s = inputs(coordinates=2)
    f = field(coordinates=2, velocities=2, context=3)
    condition = Condition(context=jax.random.normal(jax.random.key(8), x.shape))
    base = f(x, s, condition)[0]
    assert not np.allclose(base, f(x, (s[0] + 0.1, s[1]), condition)[0], atol=1e-4)
    assert not np.allclose(base, f(x, (s[0], s[1] + 0.1), condition)[0], atol=1e-4)
    assert not np.allclose(base, f(x, s, Condition(context=condition.context + 0.1))[0], atol=1e-4)


def test_each_frame_may_have_a_time_of_its_own():
    """Checks that equal times act like one, a time changes its frame most, and patches use their first frame's time."""
    x, (t,) = inputs((2, 4, 8, 8, 3))
    f = field(local=True)
    whole, each = f(x, (t,), None)[0], jnp.broadcast_to(t[:, None], (2, 4))
    np.testing.assert_allclose(f(x, (each,), None)[0], whole, atol=1e-5)
    change = np.abs(f(x, (each.at[:, 2].add(0.3),), None)[0] - whole).mean((0, 2, 3, 4))
    assert change.argmax() == 2 and change[2] > 3 * np.delete(change, 2).max()
    double = field(patch=(2, 4, 4))
    expected = double(x, (each,), None)[0]
    np.testing.assert_allclose(double(x, (each.at[:, 1::2].add(0.3),), None)[0], expected, atol=1e-5)
    assert not np.allclose(double(x, (each.at[:, ::2].add(0.3),), None)[0], expected, atol=1e-3)


@pytest.mark.parametrize("query_block", [3, 4, 8])
def test_attention_in_blocks_is_attention(query_block):
    """Checks values and gradients, also if the last block is not full; all 8 tokens fit into one block of 8."""
    x, s = inputs((2, 2, 8, 8, 3))
    whole, blocks = build(**TINY), build(**TINY, attention=query_block)
    params = random_params(whole)
    np.testing.assert_allclose(apply(blocks, params, x, s), apply(whole, params, x, s), atol=1e-5)
    a, b = gradient(whole, params, x, s), gradient(blocks, params, x, s)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), a, b)


@pytest.mark.own_attention
def test_attention_in_blocks_takes_memory_linear_in_the_tokens():
    def bytes_of(frames, query_block):
        network = build(**(TINY | dict(attention=query_block)))
        x = jax.ShapeDtypeStruct((1, frames, 64, 64, 3), jnp.float32)
        params = jax.eval_shape(network.init, jax.random.key(0))
        run = jax.jit(lambda p, x: network.apply(p, x, (jnp.zeros(1),))[0])
        return run.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    blocks = [bytes_of(frames, 128) for frames in (16, 24, 32)]  # 4,096 tokens and more
    np.testing.assert_allclose([blocks[1] / blocks[0], blocks[2] / blocks[0]], [1.5, 2.0], rtol=0.02)
    assert bytes_of(16, 0) > 5 * blocks[0]


def test_channels_are_those_it_was_built_for():
    x, s = inputs((2, 1, 8, 8, 4))
    with pytest.raises(ValueError, match="built for 3 channels, got 4 in x"):
        field()(x, s, None)


def test_examples_do_not_mix_and_tokens_do():
    x, s = inputs()
    f = field()
    change = jax.jit(jax.grad(lambda x: f(x, s, None)[0][0, 0, 0, 0, 0]))(x)
    assert np.abs(change[1]).max() == 0
    assert np.abs(change[0, 0, -1, -1]).max() > 0  # the opposite corner is another patch


def test_patches_return_to_their_place():
    """Checks with new blocks, which are the identity, that a pixel changes its own patch and no other."""
    network = build(**TINY)
    params = jax.jit(network.init)(jax.random.key(0))
    params["patch_out"]["kernel"] = jax.random.normal(jax.random.key(1), params["patch_out"]["kernel"].shape)
    f = jax.jit(as_field(network, params))
    x, s = inputs((1, 1, 16, 16, 3))
    change = np.abs(f(x.at[0, 0, 5, 9, 0].add(1.0), s, None)[0] - f(x, s, None)[0])[0, 0].max(-1)
    assert change[4:8, 8:12].min() > 0
    change[4:8, 8:12] = 0
    assert change.max() == 0


def test_scan_equals_unrolled_and_remat_equals_plain():
    x, s = inputs()
    unrolled, scanned = build(**TINY), build(**TINY, scan=True)
    params = random_params(unrolled)
    layers = [params["blocks"][i] for i in sorted(params["blocks"])]
    stacked = params | {"blocks": jax.tree.map(lambda *a: jnp.stack(a), *layers)}
    np.testing.assert_allclose(apply(scanned, stacked, x, s), apply(unrolled, params, x, s), atol=1e-5)
    plain, remat = gradient(unrolled, params, x, s), gradient(build(**TINY, remat="full"), params, x, s)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, remat)


def test_remat_saves_memory_inside_a_scan():
    sizes = dict(TINY, width=64, depth=8, scan=True)
    x, s = inputs((8, 1, 32, 32, 3))

    def temporaries(**options):
        network = build(**(sizes | options))
        params = jax.eval_shape(network.init, jax.random.key(0))
        loss = lambda p: (network.apply(p, x, s)[0] ** 2).mean()
        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(remat="full") < 0.6 * temporaries()


def test_bfloat16_computes_over_float32_parameters():
    network = build(**TINY, dtype="bfloat16")
    params = random_params(network)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    x, s = inputs()
    half, full = apply(network, params, x, s), apply(build(**TINY), params, x, s)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_text_is_attended_to_masked_and_guided():
    f = field(text_width=6)
    x, s = inputs()
    text = jax.random.normal(jax.random.key(1), (2, 3, 6))
    mask = jnp.array([[True, True, False], [True, True, False]])
    base = f(x, s, Condition(text=text, text_mask=mask))[0]
    masked_change = f(x, s, Condition(text=text.at[:, 2].add(1.0), text_mask=mask))[0]
    np.testing.assert_allclose(base, masked_change, atol=1e-6)
    assert not np.allclose(base, f(x, s, Condition(text=text + 1.0, text_mask=mask))[0], atol=1e-3)
    without = f(x, s, null(Condition(text=text, text_mask=mask)))[0]
    np.testing.assert_allclose(without, f(x, s, None)[0], atol=1e-6)
    guided = guide(f, 3.0)(x, s, Condition(text=text, text_mask=mask))[0]
    np.testing.assert_allclose(guided, without + 3 * (base - without), atol=1e-5)
    assert guide(f, 1.0) is f
    calls = []
    counted = lambda *args: calls.append(args[0].shape) or f(*args)
    np.testing.assert_allclose(guide(counted, 3.0)(x, s, Condition(text=text))[0], f_guided(f, x, s, text), atol=1e-5)
    assert calls == [(4, *x.shape[1:])]  # one evaluation, of twice the rows


def f_guided(f, x, s, text):
    """Returns guidance of weight 3 as two evaluations, without a mask."""
    without = f(x, s, null(Condition(text=text)))[0]
    return without + 3 * (f(x, s, Condition(text=text))[0] - without)


def test_labels_and_their_absence():
    f = field(labels=4)
    x, s = inputs()
    outs = [f(x, s, Condition(label=jnp.full(2, i)))[0] for i in (0, 3, -1)]
    assert not np.allclose(outs[0], outs[1], atol=1e-4) and not np.allclose(outs[0], outs[2], atol=1e-4)
    np.testing.assert_array_equal(outs[2], f(x, s, null(Condition(label=jnp.full(2, 0))))[0])


def test_per_token_times_agree_with_one_time():
    f = field()
    x, (t,) = inputs()
    np.testing.assert_allclose(f(x, (jnp.repeat(t[:, None], 4, 1),), None)[0], f(x, (t,), None)[0], atol=1e-6)


def test_position_table_is_the_public_one():
    """Checks that the table has sines before cosines and columns before rows, as the public DiT has."""
    table = position_table((1, 2, 3), 8)
    omega = np.array([1.0, 0.01])
    for row in range(2):
        for column in range(3):
            expected = np.concatenate(
                [np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega)]
            )
            np.testing.assert_allclose(table[3 * row + column], expected, atol=1e-6)


@pytest.mark.own_attention
@pytest.mark.parametrize("parts", [{}, dict(local=True), dict(text_width=256), dict(context=4)])
def test_forward_flops(parts):
    config = DiTConfig(width=384, depth=3, heads=6, patch=(1, 2, 2), channels=4, velocities=2, coordinates=2, **parts)
    network = build("dit", **dataclasses.asdict(config))
    x, s, tokens = jnp.zeros((2, 1, 32, 32, 4)), (jnp.zeros(2), jnp.zeros(2)), 77 if config.text_width else 0
    text = jnp.zeros((2, tokens, config.text_width)) if tokens else None
    params = jax.eval_shape(network.init, jax.random.key(0))
    given = lambda x, text: Condition(context=x if config.context else None, text=text)
    program = jax.jit(lambda params, x, s, text: network.apply(params, x, s, given(x, text)))
    compiled = program.lower(params, x, s, text).compile()
    assert compiled.cost_analysis()["flops"] == pytest.approx(2 * forward_flops(config, (1, 32, 32), tokens), rel=0.03)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DiTConfig(**preset("S/4"), channels=3).grid((1, 30, 32)), r"does not divide.*\(1, 32, 32\)"),
        (lambda: preset("M/2"), "unknown preset 'M/2'"),
        (lambda: build(**dict(TINY, heads=5)), "heads 5"),
        (lambda: build("unets"), "unknown network"),
        (lambda: field(coordinates=2)(*inputs(), None), "2 coordinates, got 1"),
        (lambda: field(context=3)(*inputs(), None), "3 context channels"),
        (lambda: as_field(build(**TINY)), "no parameters"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
