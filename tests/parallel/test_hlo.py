"""Counts of collectives and operations in programs, compared with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import NamedSharding

from jvflow.parallel import hlo
from jvflow.parallel import mesh as meshes


def compiled(function, *args):
    mesh = meshes.make_mesh()
    return jax.jit(function, out_shardings=NamedSharding(mesh, P())).lower(*args).compile().as_text()


def split(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(meshes.make_mesh(), P("data")))


def test_bytes_of_gathering_and_of_reducing():
    """Checks 64 x 8 floats on 4 devices: each sends 3/4 of 2048 bytes for a gather, twice 3/4 of 8 floats for a sum."""
    gathered = hlo.by_kind(hlo.collectives(compiled(lambda a: a, split(64, 8)), 4))
    assert gathered == {"all-gather": dict(bytes=0.75 * 2048, count=1)}
    summed = hlo.by_kind(hlo.collectives(compiled(lambda a: a.sum(0), split(64, 8)), 4))
    assert summed == {"all-reduce": dict(bytes=2 * 0.75 * 32, count=1)}


def test_a_collective_in_a_loop_counts_as_often_as_it_runs():
    def loop(a):
        step = lambda x, _: (jnp.tanh(x + (a * x.sum()).sum(0)), None)
        return jax.lax.scan(step, jnp.zeros(8), None, length=7)[0]

    found = hlo.by_kind(hlo.collectives(compiled(loop, split(64, 8)), 4))
    assert found["all-reduce"]["count"] == 7
    assert found["all-reduce"]["bytes"] == pytest.approx(7 * 2 * 0.75 * 32)


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            "  %a = bf16[16,8]{1,0} all-gather(%p), channel_id=1, "
            "replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}",
            ("all-gather", 256 * 3 / 4, 4),
        ),
        (
            "  %a = f32[16]{0} all-reduce(%p), channel_id=2, replica_groups={{0,1},{2,3}}, to_apply=%add",
            ("all-reduce", 64.0, 2),
        ),
        (
            "  %a = (f32[4], f32[16], u32[]) all-gather-start(%p), channel_id=3, replica_groups=[2,8]<=[16]",
            ("all-gather", 64 * 7 / 8, 8),
        ),
        (
            "  %a = (bf16[16], f32[2]) all-to-all(%p, %q), channel_id=4, replica_groups=[1,4]<=[4]",
            ("all-to-all", 40 * 3 / 4, 4),
        ),
        (
            "  %a = f32[4]{0} reduce-scatter(%p), channel_id=5, replica_groups=[1,4]<=[4], to_apply=%add",
            ("reduce-scatter", 48.0, 4),
        ),
        (
            "  %a = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%p), channel_id=6, "
            "source_target_pairs={{0,1},{1,0}}",
            ("collective-permute", 32.0, 16),
        ),
    ],
)
def test_every_form_that_xla_writes(line, expected):
    (one,) = hlo.collectives("ENTRY %main (p: f32[4]) -> f32[4] {\n" + line + "\n}\n", 16)
    assert (one.kind, one.bytes, one.group) == expected


def test_a_loop_whose_length_depends_on_data_counts_once():
    def loop(a):
        go = lambda carry: (carry[0] < 50) & (carry[1].sum() < 100)
        return jax.lax.while_loop(go, lambda carry: (carry[0] + 1, carry[1] + a.sum(0)), (0, jnp.ones(8)))[1]

    assert hlo.by_kind(hlo.collectives(compiled(loop, split(64, 8)), 4))["all-reduce"]["count"] == 1


def test_operations_count_loops_in_full():
    w = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    x = jax.ShapeDtypeStruct((4, 32), jnp.float32)

    def loop(w, x):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(jnp.tanh)(x @ w), None), x, None, length=5)[0]

    one = 2 * 4 * 32 * 32
    assert hlo.flops(loop, w, x) == 5 * one
    assert hlo.flops(jax.grad(lambda w, x: loop(w, x).sum(), argnums=(0, 1)), w, x) == 15 * one
    image, kernel = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
    conv = lambda a, k: jax.lax.conv_general_dilated(a, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert hlo.flops(conv, image, kernel) == 2 * 8 * 8 * 5 * 27


def test_shapes_of_a_program():
    assert {(16, 8), (64, 8)} <= hlo.shapes(compiled(lambda a: a, split(64, 8)))
    assert np.prod([s for s in hlo.shapes("f32[] pred[2,3]{1,0}") if s][0]) == 6


def looping(root: str) -> str:
    """Returns a program with a loop whose condition ends in `root` and contains the constant 50."""
    return f"""HloModule loop
%condition (c: (s32[], f32[4])) -> pred[] {{
  %c = (s32[], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %n = s32[] constant(50)
  %less = pred[] compare(%i, %n), direction=LT
  ROOT %go = {root}
}}
%body (c: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %c = (s32[], f32[4]) parameter(0)
  %a = f32[4]{{0}} get-tuple-element(%c), index=1
  %sum = f32[4]{{0}} all-reduce(%a), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %next = (s32[], f32[4]) tuple(%i, %sum)
}}
ENTRY %main (p: (s32[], f32[4])) -> (s32[], f32[4]) {{
  ROOT %loop = (s32[], f32[4]) while(%p), condition=%condition, body=%body
}}
"""


@pytest.mark.parametrize("root, times", [("pred[] compare(%i, %n), direction=LT", 50), ("pred[] and(%less, %wide)", 1)])
def test_a_loop_counts_to_its_number_only_where_nothing_else_ends_it(root, times):
    (one,) = hlo.collectives(looping(root), 4)
    assert one.times == times
