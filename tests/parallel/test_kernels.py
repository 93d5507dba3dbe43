"""The kernels of a program, counted by hand in a short text of the form that XLA writes."""

import jax
import numpy as np
import pytest

from jvflow.parallel import hlo
from jvflow.parallel.kernels import floor_seconds, kernels

TEXT = """HloModule jit_f, entry_computation_layout={(f32[4,64]{1,0}, bf16[8,16]{1,0})->f32[4,64]{1,0}}

%slice_one (p.0: f32[10,64], p.1: s32[]) -> f32[1,64] {
  %p.0 = f32[10,64]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %c.1 = s32[] constant(0)
  ROOT %cut = f32[1,64]{1,0} dynamic-slice(%p.0, %p.1, %c.1), dynamic_slice_sizes={1,64}
}

%write_one (p.2: f32[10,64], p.3: f32[1,64], p.4: s32[]) -> f32[10,64] {
  %p.2 = f32[10,64]{1,0} parameter(0)
  %p.3 = f32[1,64]{1,0} parameter(1)
  %p.4 = s32[] parameter(2)
  %c.2 = s32[] constant(0)
  ROOT %put = f32[10,64]{1,0} dynamic-update-slice(%p.2, %p.3, %p.4, %c.2)
}

%body (state: (s32[], f32[10,64])) -> (s32[], f32[10,64]) {
  %state = (s32[], f32[10,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %buffer = f32[10,64]{1,0} get-tuple-element(%state), index=1
  %one = f32[1,64]{1,0} fusion(%buffer, %i), kind=kLoop, calls=%slice_one
  %next = f32[10,64]{1,0} fusion(%buffer, %one, %i), kind=kLoop, calls=%write_one
  ROOT %out = (s32[], f32[10,64]{1,0}) tuple(%i, %next)
}

%condition (state.1: (s32[], f32[10,64])) -> pred[] {
  %state.1 = (s32[], f32[10,64]{1,0}) parameter(0)
  %limit = s32[] constant(10)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x: bf16[8,16], y: bf16[16,32], q: bf16[2,10,3,8], k: bf16[2,20,3,8], start: (s32[], f32[10,64])) -> s32[] {
  %x = bf16[8,16]{1,0} parameter(0)
  %y = bf16[16,32]{1,0} parameter(1)
  %q = bf16[2,10,3,8]{3,2,1,0} parameter(2)
  %k = bf16[2,20,3,8]{3,2,1,0} parameter(3)
  %start = (s32[], f32[10,64]{1,0}) parameter(4)
  %mm = (bf16[8,32]{1,0}, s8[4096]{0}) custom-call(%x, %y), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm":{"lhs_contracting_dimensions":["1"]}}
  %attended = (bf16[2,10,3,8]{3,2,1,0}, u8[0]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax"
  %loop = (s32[], f32[10,64]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"10"}}
  ROOT %i.2 = s32[] get-tuple-element(%loop), index=0
}
"""


def test_kernels_of_a_program():
    found = {one.name: one for one in kernels(TEXT)}
    assert set(found) == {"mm", "attended", "one", "next"}
    product = found["mm"]
    assert product.flops == 2 * 8 * 32 * 16
    assert product.bytes == 2 * (8 * 16 + 16 * 32 + 8 * 32)  # without the workspace
    attended = found["attended"]
    assert attended.flops == 4 * 2 * 3 * 10 * 20 * 8
    assert attended.bytes == 2 * (2 * 2 * 10 * 3 * 8 + 2 * 2 * 20 * 3 * 8)
    assert found["one"].times == found["next"].times == 10
    assert found["one"].bytes == 4 + 2 * 4 * 64  # the index, and the slice read and written
    assert found["next"].bytes == 4 + 2 * 4 * 64


def test_the_floor_adds_the_larger_of_both_limits():
    found = kernels(TEXT)
    assert floor_seconds(found, rate=1.0, bandwidth=float("inf")) == 2 * 8 * 32 * 16 + 4 * 2 * 3 * 10 * 20 * 8
    moved = sum(one.times * one.bytes for one in found)
    assert floor_seconds(found, rate=float("inf"), bandwidth=2.0) == pytest.approx(moved / 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_and_their_gradients_count_as_traced(stride, groups):
    image, kernel = (
        jax.ShapeDtypeStruct((2, 16, 16, 8), np.float32),
        jax.ShapeDtypeStruct((3, 3, 8 // groups, 12), np.float32),
    )
    options = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)
    convolve = lambda a, k: jax.lax.conv_general_dilated(a, k, (stride, stride), "SAME", **options)
    square = lambda a, k: (convolve(a, k) ** 2).sum()
    for function in (convolve, jax.grad(square, argnums=(0, 1))):
        compiled = jax.jit(function).lower(image, kernel).compile()
        counted = sum(one.times * one.flops for one in kernels(compiled.as_text()))
        assert counted == pytest.approx(hlo.flops(function, image, kernel), rel=1e-6)


def test_a_convolution_of_cudnn():
    text = """HloModule jit_f

ENTRY %main (x: bf16[2,16,16,8], k: bf16[12,3,3,8], g: bf16[2,8,8,12]) -> bf16[2,8,8,12] {
  %x = bf16[2,16,16,8]{3,2,1,0} parameter(0)
  %k = bf16[12,3,3,8]{3,2,1,0} parameter(1)
  %g = bf16[2,8,8,12]{3,2,1,0} parameter(2)
  %out = (bf16[2,8,8,12]{3,2,1,0}, u8[64]{0}) custom-call(%x, %k), window={size=3x3 stride=2x2 pad=0_1x0_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %back = (bf16[2,16,16,8]{3,2,1,0}, u8[64]{0}) custom-call(%g, %k), window={size=3x3 stride=2x2 pad=0_1x0_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %filter = (bf16[12,3,3,8]{3,2,1,0}, u8[64]{0}) custom-call(%x, %g), window={size=3x3 stride=2x2 pad=0_1x0_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %result = bf16[2,8,8,12]{3,2,1,0} get-tuple-element(%out), index=0
}
"""
    assert [one.flops for one in kernels(text)] == [2 * 2 * 8 * 8 * 12 * 9 * 8] * 3


def test_splash_attention():
    text = """HloModule jit_f

ENTRY %main (s: s8[1,5,5], q: bf16[2,32,512,64], k: bf16[2,32,256,64]) -> bf16[2,32,512,64] {
  %s = s8[1,5,5]{2,1,0} parameter(0)
  %q = bf16[2,32,512,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[2,32,256,64]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  ROOT %splash_mha_fwd_segmented_no_residuals.8 = bf16[2,32,512,64]{3,2,1,0} custom-call(%s, %q, %k, %k), \
custom_call_target="tpu_custom_call"
}
"""
    assert [one.flops for one in kernels(text)] == [2 * 2 * (2 * 32 * 512 * 64) * 256]


def test_products_that_the_tpu_compiler_writes_as_convolutions():
    text = """HloModule jit_f

ENTRY %main (x: bf16[17,15,1], k: bf16[12,8,15], y: bf16[6,20,10], z: bf16[6,10,7]) -> bf16[17,12,8] {
  %x = bf16[17,15,1]{2,1,0} parameter(0)
  %k = bf16[12,8,15]{2,1,0} parameter(1)
  %y = bf16[6,20,10]{2,1,0} parameter(2)
  %z = bf16[6,10,7]{2,1,0} parameter(3)
  %batch = bf16[6,20,7]{2,1,0} convolution(%y, %z), window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf
  ROOT %heads = bf16[17,12,8]{2,1,0} convolution(%x, %k), window={size=12 pad=11_11 rhs_reversal=1}, \
dim_labels=bf0_0oi->b0f
}
"""
    assert [one.flops for one in kernels(text)] == [2 * 6 * 20 * 10 * 7, 2 * 17 * 15 * 12 * 8]
