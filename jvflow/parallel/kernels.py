"""The kernels of a compiled program, from its text: how often each runs, the bytes it moves and its operations.

    floor = sum over kernels of max(operations / rate, bytes / bandwidth)                        (1)   roofline model

(1) is a lower bound of the time: no kernel reaches both limits, and starting a kernel costs some microseconds more. A
kernel reads its operands and writes its results; a fusion that takes a slice of an operand, or writes one into a
buffer, moves the slice. Operations are those of matrix products and convolutions (also inside fusions, and those of
cuBLAS and cuDNN), of cuDNN's attention, and of splash attention, whose blocks are padded.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from jvflow.parallel.hlo import result_bytes, window_positions

FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "after-all", "partition-id"}
FREE |= {"replica-id", "opt-barrier", "async-update", "async-done"}
SLICES = {"slice", "dynamic-slice", "gather"}


class Kernel(NamedTuple):
    """A kernel: its name in the program, what it is, how often it runs, and bytes and operations of one run."""

    name: str
    kind: str
    times: int
    bytes: float
    flops: float


class _Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    operands: list[str]
    line: str
    root: bool


def kernels(text: str) -> list[Kernel]:
    """Returns the kernels of a compiled program's text (`compiled.as_text()`)."""
    computations, entry = _parse(text)
    return list(_walk(computations, entry, 1))


def floor_seconds(found: list[Kernel], *, rate: float, bandwidth: float) -> float:
    """Returns (1), for `rate` operations and `bandwidth` bytes a second."""
    return sum(one.times * max(one.flops / rate, one.bytes / bandwidth) for one in found)


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations, entry, name = {}, "", ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = []
            continue
        match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(", line)
        if name and match:
            operands = re.findall(r"%([\w.\-]+)", _inside(line[match.end() :]))
            computations[name].append(_Instruction(match[2], match[3], match[4], operands, line, bool(match[1])))
    return computations, entry


def _inside(rest: str) -> str:
    """Returns the text up to the parenthesis that closes the operands."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return rest[:place]
    return rest


def _walk(computations: dict, name: str, times: int) -> Iterator[Kernel]:
    shapes = {one.name: one.shape for one in computations[name]}
    for one in computations[name]:
        if one.op in FREE or one.op.endswith("-done"):
            continue
        if one.op == "while":
            condition, body = (_attribute(one.line, key) for key in ("condition", "body"))
            yield from _walk(computations, body, times * _trips(computations, one.line, condition))
        elif one.op in ("call", "conditional", "async-start"):
            for called in _called(one.line, computations):
                yield from _walk(computations, called, times)
        elif one.op == "fusion":
            inner = computations[_attribute(one.line, "calls")]
            inside = {i.name: i.shape for i in inner}
            flops = sum(PRODUCTS[i.op](i, inside) for i in inner if i.op in PRODUCTS)
            yield Kernel(one.name, "fusion with a product" if flops else "fusion", times, _fusion_bytes(inner), flops)
        else:
            given = [shapes[operand] for operand in one.operands if operand in shapes]
            result = re.sub(r"[su]8\[\d+\](\{0\})?", "", one.shape) if one.op == "custom-call" else one.shape
            moved = result_bytes(result) + sum(map(result_bytes, given))
            kind = _attribute(one.line, "custom_call_target") if one.op == "custom-call" else one.op
            yield Kernel(one.name, kind, times, moved, _call_flops(kind, one, given, shapes))


def _called(line: str, computations: dict) -> list[str]:
    found = re.findall(r"(?:to_apply|calls|called_computations|branch_computations)=\{?([%\w.\-, ]+)\}?", line)
    return [name for names in found for name in re.findall(r"%?([\w.\-]+)", names) if name in computations]


def _attribute(line: str, key: str) -> str:
    match = re.search(rf'{key}="?%?([\w.\-$]+)', line)
    return match[1] if match else ""


def _trips(computations: dict, line: str, condition: str) -> int:
    """Returns how often a loop runs; 1 if its end depends on data."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    limits = [int(n) for one in computations[condition] for n in re.findall(r"constant\((\d+)\)", one.line)]
    return max(limits, default=1)


def _fusion_bytes(inner: list[_Instruction]) -> float:
    """Returns the bytes that a fusion reads and writes."""
    shapes = {one.name: one.shape for one in inner}
    moved = 0.0
    for one in inner:
        if one.op == "parameter":
            moved += min(result_bytes(one.shape), _read(one.name, inner))
    (root,) = (one for one in inner if one.root)
    results = [one for one in inner if one.name in root.operands] if root.op == "tuple" else [root]
    return moved + sum(_written(one, inner, shapes) for one in results)


def _read(name: str, inner: list[_Instruction]) -> float:
    """Returns the bytes read of an operand: those of its slices, if only slices use it."""
    total = 0.0
    for user in (one for one in inner if name in one.operands):
        first = user.operands[0] == name
        if user.op in SLICES and first:
            total += result_bytes(user.shape)
        elif user.op == "bitcast":
            total += _read(user.name, inner)
        elif not (user.op == "dynamic-update-slice" and first):
            return math.inf
    return total


def _written(one: _Instruction, inner: list[_Instruction], shapes: dict) -> float:
    if one.op == "dynamic-update-slice":
        return result_bytes(shapes[one.operands[1]])
    if one.op == "bitcast":
        return _written(next(other for other in inner if other.name == one.operands[0]), inner, shapes)
    return result_bytes(one.shape)


def _call_flops(kind: str, one: _Instruction, given: list[str], shapes: dict) -> float:
    if one.op in PRODUCTS:
        return PRODUCTS[one.op](one, shapes)
    if "cublas" in kind:
        contracted = re.search(r'"lhs_contracting_dimensions":\[([\d",]*)\]', one.line)
        axes = [int(n) for n in re.findall(r"\d+", contracted[1])] if contracted else [-1]
        left = _sizes(given[0])
        return 2.0 * math.prod(_sizes(one.shape)) * math.prod(left[axis] for axis in axes)
    if "fmha" in kind:
        q, k = _sizes(given[0]), _sizes(given[1])  # (b, n, h, d) and (b, m, h, d): the layout is apart
        return 2.0 * (5 if "Backward" in kind else 2) * math.prod(q) * k[1]
    if splash := re.match(r"splash_m[hq]a_(fwd|dq|dkv)", one.name):
        q, k = [_sizes(shape) for shape in given if re.match(r"(bf16|f\d+)\[", shape)][
            :2
        ]  # (..., h, n, d), (..., m, d)
        return 2.0 * dict(fwd=2, dq=3, dkv=4)[splash[1]] * math.prod(q) * k[-2]
    if "$conv" in kind:
        image, kernel, out = given[0], given[1], one.shape
        if "BackwardInput" in kind:
            image, out = out, image
        elif "BackwardFilter" in kind:
            kernel, out = out, kernel
        return _window_flops(one, image, kernel, out)
    return 0.0


def _convolution_flops(one: _Instruction, shapes: dict) -> float:
    image, kernel = (shapes[operand] for operand in one.operands[:2])
    return _window_flops(one, image, kernel, one.shape)


def _window_flops(one: _Instruction, image: str, kernel: str, out: str) -> float:
    """Returns the operations of a convolution, see `hlo.window_positions`."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.line)
    dilation = re.search(r"lhs_dilate=([\dx]+)", one.line)
    sizes = [dict(zip(part, _sizes(shape))) for part, shape in zip(labels.groups(), (image, kernel, out))]
    axes = sorted(key for key in sizes[2] if key.isdigit())
    zeros = dilation[1].split("x") if dilation else ["1"] * len(axes)
    positions = [window_positions(*(size[axis] for size in sizes), int(n)) for axis, n in zip(axes, zeros)]
    return 2.0 * sizes[2]["b"] * sizes[2]["f"] * sizes[1]["i"] * math.prod(positions)


def _dot_flops(one: _Instruction, shapes: dict) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.line)
    left = _sizes(shapes[one.operands[0]])
    axes = [int(n) for n in contracted[1].split(",") if n] if contracted else []
    return 2.0 * math.prod(_sizes(one.shape)) * math.prod(left[axis] for axis in axes)


def _sizes(shape: str) -> list[int]:
    """Returns the sizes of the first array in a shape."""
    match = re.search(r"\[([\d,]*)\]", shape)
    return [int(n) for n in match[1].split(",") if n] if match else []


PRODUCTS = dict(dot=_dot_flops, convolution=_convolution_flops)
