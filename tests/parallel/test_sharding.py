"""Sharding: rules split the train state with a reason for each array, and every activation is split."""

import jax
import jax.numpy as jnp
from conftest import load_config
from jax import P

from jvflow.data.pipeline import Batch
from jvflow.experiment import assemble
from jvflow.networks.dit import RULES
from jvflow.parallel import hlo, sharding
from jvflow.parallel import mesh as meshes
from jvflow.training.sharded import compiled_step, init_and_abstract_state


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_the_state_is_split_by_rules_and_every_decision_has_a_reason():
    mesh = meshes.make_mesh(dict(fsdp=2, tensor=2))
    tree = {
        "blocks": {"qkv": {"kernel": shape(28, 128, 384), "bias": shape(384)}, "proj": {"kernel": shape(128, 128)}},
        "odd": {"kernel": shape(999, 33)},
        "free": shape(64, 512),
    }
    found = {d.path: d for d in sharding.decide(tree, RULES, mesh)}
    assert found["blocks/qkv/kernel"].spec == P(None, "fsdp", "tensor")  # scanned layers: rules split the last axes
    assert found["blocks/proj/kernel"].spec == P("tensor", "fsdp")
    assert found["blocks/qkv/bias"].spec == P() and "fewer than" in found["blocks/qkv/bias"].why
    assert found["odd/kernel"].spec == P() and "divides no axis" in found["odd/kernel"].why
    assert found["free"].spec == P(None, "fsdp") and "largest axis that it divides, 512" in found["free"].why
    uneven = sharding.decide({"qkv": {"kernel": shape(1151, 512)}}, RULES, mesh)[0]
    assert uneven.spec == P(None, "tensor") and "fsdp 2 does not divide 1151" in uneven.why


def test_average_and_optimizer_are_split_as_the_parameters(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_ELEMENTS", 2**8)
    config = load_config("biflow/procedural.py", "debug")
    config.network.update(width=64)
    experiment = assemble(config)
    _, abstract = init_and_abstract_state(experiment, config, meshes.make_mesh(dict(fsdp=4)))
    specs = lambda tree: [a.sharding.spec for a in jax.tree.leaves(tree) if a.ndim]
    assert specs(abstract.params) == specs(abstract.ema) == specs(abstract.opt_state)[: len(specs(abstract.params))]
    assert sum(any(spec) for spec in specs(abstract.params)) > 5


def test_no_activation_of_the_whole_batch_is_on_one_device():
    """Checks 24 rows on 4 devices: no array of a device has 24 rows and all tokens, or 24 rows and the full width."""
    config = load_config("biflow/procedural.py", "debug")
    config.network.update(width=64, depth=2, heads=2)
    config.train.batch_size = 24
    experiment, mesh = assemble(config), meshes.make_mesh(dict(fsdp=4))
    _, abstract = init_and_abstract_state(experiment, config, mesh)
    rows = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((24, *sizes), dtype, sharding=meshes.batched(mesh))
    batch = Batch(rows(2, 16, 16, 3, dtype=jnp.uint8), rows(), rows())
    with jax.set_mesh(mesh):
        step = compiled_step(experiment, config, jax.tree.map(lambda a: a.sharding, abstract))
        text = step.lower(abstract, batch, jax.random.key(0), None).compile().as_text()
    seen = hlo.shapes(text)
    tokens = 16
    assert any(s[0] == 6 and tokens in s[1:] for s in seen if len(s) > 2), "no activation has the 6 rows of one device"
    assert not [s for s in seen if len(s) > 2 and s[0] == 24 and (tokens in s[1:] or 64 in s[1:])]
