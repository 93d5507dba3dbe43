"""The U-Net as Bi-flow's network, with one U-Net for each velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from public_models import FIXTURES, read_fixture

from jvflow import networks, pretrained
from jvflow.flow.field import Condition
from jvflow.networks import Keys
from jvflow.networks.unet import UNet
from jvflow.networks.unet_field import concat_fields
from jvflow.parallel import mesh as meshes

SMALL = dict(width=8, levels=(1, 2), attends=(False, True), groups=4, head=4, channels=3, blocks=1)


def random_params(network, seed=0):
    """Returns random parameters without compiling `init`, which would take longer than these tests."""
    rng = np.random.default_rng(seed)
    draw = lambda a: jnp.asarray(rng.normal(size=a.shape) / np.sqrt(max(np.prod(a.shape[:-1]), 4)), jnp.float32)
    return jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0)))


def frames(channels=3, seed=1, size=8, count=2):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 1, size, size, channels)), jnp.float32)


@pytest.mark.integration
def test_each_velocity_has_a_network_of_its_own():
    network = networks.build("unet", **SMALL, coordinates=2, velocities=2, scales=(0.5, 2.0))
    params = random_params(network)
    s = jnp.array([0.2, 0.7]), jnp.array([0.1, 0.0])
    apply = jax.jit(network.apply)
    v, d = apply(params, frames(), s)
    assert v.shape == d.shape == (2, 1, 8, 8, 3)
    other = jax.tree.map(lambda a: a, params)
    other["velocities"][1] = jax.tree.map(jnp.zeros_like, params["velocities"][1])
    same, none = apply(other, frames(), s)
    assert (same == v).all() and not none.any() and d.any()
    alone = networks.build("unet", **SMALL, coordinates=2)
    np.testing.assert_allclose(
        2.0 * jax.jit(alone.apply)(dict(velocities={0: params["velocities"][1]}), frames(), s)[0], d, rtol=1e-5
    )


def test_one_network_may_return_both_velocities():
    """Checks the paper's network, from 3 channels to 6: the halves of a U-Net's output, with scales of their own."""
    network = networks.build("unet", **SMALL, coordinates=2, velocities=2, scales=(0.5, 2.0), shared=True)
    params = random_params(network)
    assert len(params["velocities"]) == 1 and params["velocities"][0]["conv_out"]["kernel"].shape[-1] == 6
    s = jnp.array([0.2, 0.7]), jnp.array([0.1, 0.0])
    v, d = jax.jit(network.apply)(params, frames(), s)
    six = networks.functional(UNet, network.config.unet)
    both = jax.jit(six.apply)(params["velocities"][0], frames()[:, 0], *s)
    np.testing.assert_allclose(jnp.concatenate([2 * v, d / 2], axis=-1)[:, 0], both, rtol=1e-5, atol=1e-6)
    apart = networks.build("unet", **SMALL, coordinates=2, velocities=2)
    size = lambda network: sum(a.size for a in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))))
    assert 0.5 < size(network) / size(apart) < 0.51


def test_context_text_and_both_coordinates_are_seen():
    network = networks.build("unet", **SMALL, context=6, coordinates=2, text_width=5, time_scale=3.0)
    params = random_params(network)
    condition = dict(
        context=frames(6, seed=2),
        text=frames(5, size=2)[:, 0].reshape(2, 4, 5),
        text_mask=jnp.arange(4)[None] < jnp.array([[3], [2]]),
    )
    s = jnp.array([0.2, 0.7]), jnp.array([0.1, 0.5])
    apply = jax.jit(network.apply)
    say = lambda s=s, **changed: apply(params, frames(), s, Condition(**condition | changed))[0]
    usual = say()
    for changed in (
        say((s[0] + 0.1, s[1])),
        say((s[0], s[1] + 0.1)),
        say(context=condition["context"] + 0.1),
        say(text=condition["text"] + 0.1),
    ):
        assert float(jnp.abs(changed - usual).max()) > 1e-3
    plain = networks.build("unet", **SMALL, context=6, coordinates=2, text_width=5)
    np.testing.assert_allclose(
        jax.jit(plain.apply)(params, frames(), (3 * s[0], 3 * s[1]), Condition(**condition))[0], usual, rtol=1e-5
    )
    padded = condition["text"].at[:, 3].set(7.0)
    np.testing.assert_array_equal(say(text=padded), usual)  # masked tokens have no effect


@pytest.mark.integration
def test_remat_gives_the_same_gradient():
    """Checks that remat keeps the gradient and costs more operations."""
    network = {remat: networks.build("unet", **SMALL, remat=remat) for remat in ("none", "full")}
    params, x = random_params(network["none"]), frames(size=16, count=8)

    def gradient(remat):
        loss = lambda params: jnp.square(network[remat].apply(params, x, (jnp.linspace(0, 1, 8),))[0]).mean()
        return jax.jit(jax.grad(loss)).lower(params).compile()

    compiled = {remat: gradient(remat) for remat in network}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), *(c(params) for c in compiled.values())
    )
    flops = {remat: c.cost_analysis()["flops"] for remat, c in compiled.items()}
    assert 1.2 < flops["full"] / flops["none"] < 1.45


def test_frames_of_a_chunk_are_channels_of_one_image():
    sizes = SMALL | dict(velocities=2, shared=True, scales=(2.0, 1.0))
    image, chunk = (networks.build("unet", **sizes | size) for size in (dict(channels=9), dict(channels=3, frames=3)))
    params = random_params(image)
    x, s = jax.random.normal(jax.random.key(1), (2, 3, 8, 8, 3)), (jnp.array([0.2, 0.7]),)
    joined = jnp.concatenate([x[:, :1], x[:, 1:2], x[:, 2:]], axis=-1)
    for a, b in zip(chunk.apply(params, x, s), image.apply(params, joined, s)):
        np.testing.assert_allclose(a, jnp.concatenate(jnp.split(b, 3, axis=-1), axis=1), rtol=1e-5, atol=1e-5)
    assert networks.tokens(chunk, (3, 8, 8, 3)) == 3 * 64


@pytest.mark.integration
def test_the_networks_of_biflows_authors_are_its_field():
    """Checks that two imported networks stream as BI-FLOW's field, and agree with the network named "unet"."""
    config, tensors, io = read_fixture(FIXTURES / "unet_biflow.safetensors")
    video = pretrained.import_checkpoint("unet2d", config, tensors)
    noise = pretrained.import_checkpoint("unet2d", config, {name: 0.9 * a for name, a in tensors.items()})
    field = concat_fields(networks.as_field(video), networks.as_field(noise))
    x, s = jnp.moveaxis(io["sample"], 1, -1)[:, None], (jnp.asarray(io["timestep"]), jnp.asarray(io["class_labels"]))
    v, d = jax.jit(lambda x, s: field(x, s, None))(x, s)
    np.testing.assert_allclose(jnp.moveaxis(v[:, 0], -1, 1), io["output"], atol=2e-5 * np.abs(io["output"]).max())
    first, channels = config["block_out_channels"][0], config["block_out_channels"]
    ours = networks.build(
        "unet",
        width=first,
        levels=tuple(n // first for n in channels),
        attends=tuple("Attn" in name for name in config["down_block_types"]),
        blocks=config["layers_per_block"],
        groups=config["norm_num_groups"],
        head=config["attention_head_dim"],
        channels=config["in_channels"],
        coordinates=2,
        velocities=2,
    )
    both = jax.jit(ours.apply)(dict(velocities={0: video.params, 1: noise.params}), x, s)
    for a, b in zip(both, (v, d)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    biflow = pytest.importorskip("jvflow.biflow")
    solver = dict(method="euler", steps=2)
    frame, nfe = next(biflow.stream(field, jnp.clip(x, -1, 1), jax.random.key(0), solver=solver))
    assert frame.shape == x.shape and nfe.tolist() == [2] * len(x)


def test_autoencoders_are_no_field():
    config, tensors, _ = read_fixture(FIXTURES / "vae_plain.safetensors")
    with pytest.raises(ValueError, match="a sd_vae is no field: call its apply"):
        networks.as_field(pretrained.import_checkpoint("sd_vae", config, tensors))(frames(), (jnp.zeros(2),), None)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda n: networks.check(n, (2, 8, 8, 3)),
            "takes chunks of frames=1, and these latents have 2: use config.network.frames=2, or the network dit",
        ),
        (
            lambda n: networks.check(n, (1, 9, 8, 3)),
            "2 levels of the U-Net need height and width in multiples of 2, got 9 x 8",
        ),
        (
            lambda n: n.apply(jax.eval_shape(n.init, jax.random.key(0)), frames(), ()),
            "conditioned on 1 coordinates, got 0",
        ),
        (
            lambda n: n.apply(jax.eval_shape(n.init, jax.random.key(0)), jnp.zeros((2, 2, 8, 8, 3)), (jnp.zeros(2),)),
            r"takes \(b, 1, h, w, c\), got \(2, 2, 8, 8, 3\)",
        ),
        (lambda n: networks.build("unet", **SMALL, coordinates=3), "not on 3 coordinates"),
        (
            lambda n: networks.build("unet", **SMALL, remat="dots").init(jax.random.key(0)),
            "unknown remat 'dots' of a U-Net",
        ),
    ],
)
def test_unsupported_shapes_and_options_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(networks.build("unet", **SMALL))


def test_only_rows_and_parameters_are_split():
    network = networks.build("unet", **SMALL)
    networks.check_mesh(network, (1, 8, 8, 3), meshes.make_mesh(dict(data=1, fsdp=-1)))
    for axis in ("sequence", "tensor"):
        with pytest.raises(
            ValueError, match=f"has no {axis} axis to split, config.run.mesh.{axis} is {len(jax.devices())}"
        ):
            networks.check_mesh(network, (1, 8, 8, 3), meshes.make_mesh({"data": 1, axis: -1}))


def test_layers_get_the_keys_of_nnx():
    """Compares the keys of layers that are made one after the other, and of layers that are made together."""
    ours, theirs = Keys(jax.random.key(3)), nnx.Rngs(params=jax.random.key(3))
    same = lambda a, b: np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
    for _ in range(3):
        same(ours.params(), theirs.params())
    a, b = ours.split(4), theirs.split(4)
    make = nnx.vmap(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    np.testing.assert_array_equal(make(a).kernel[...], make(b).kernel[...])
    same(ours.params(), theirs.params())
