"""Counts the collectives of a compiled program, with their sizes, and the operations of a function.

In a ring of n devices, each device sends

    all-gather           (n - 1) / n of the output
    reduce-scatter       (n - 1) / n of the input
    all-reduce           the sum of these two
    all-to-all           (n - 1) / n of the output
    collective-permute   the output

The body of a loop counts once for each iteration, or once if their number depends on data (an adaptive solver). XLA
counts the operations of a loop's body once, so `flops` counts them before compilation.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

import jax
import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: one of `KINDS`.
      bytes: bytes that a device sends each time.
      times: how often it runs.
      group: number of devices in a group.
    """

    kind: str
    bytes: float
    times: int
    group: int


def collectives(text: str, devices: int) -> list[Collective]:
    """Returns the collectives in a compiled program's text, for `devices` devices.

    A collective that XLA has split into parts counts once.
    """
    program = _Program(text)
    found = {}
    for name, times in program.times.items():
        for line in program.computations[name]:
            match = re.search(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
            if not match:
                continue
            kind, group = match[2], _group(line, devices)
            size = result_bytes(match[1])
            if f" {kind}-start(" in line and kind in ("all-gather", "collective-permute"):
                size = result_bytes(match[1], entry=1)  # its result is (input, output, ...)
            around = (group - 1) / group
            other = {"all-reduce": 2 * size * around, "reduce-scatter": size * (group - 1), "collective-permute": size}
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else line)
            one = Collective(kind, other.get(kind, size * around), times, group)
            if key not in found or one.times < found[key].times:  # a part of it may be in the body of a loop
                found[key] = one
    return list(found.values())


def by_kind(found: list[Collective]) -> dict[str, dict]:
    """Returns the bytes that each device sends and the number of collectives, for each kind, the largest first."""
    total = defaultdict(lambda: dict(bytes=0.0, count=0))
    for one in found:
        total[one.kind]["bytes"] += one.bytes * one.times
        total[one.kind]["count"] += one.times
    return dict(sorted(total.items(), key=lambda entry: -entry[1]["bytes"]))


def shapes(text: str) -> set[tuple[int, ...]]:
    """Returns the shapes of all arrays in a program, for one device if the program is split over devices."""
    return {tuple(int(n) for n in dims.split(",") if n) for dims in re.findall(r"\b[a-z]+\d*\[([\d,]*)\]", text)}


class _Program:
    """The computations of a program, and how often each runs."""

    def __init__(self, text: str):
        self.computations, entry, name = {}, None, None
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
            if head:
                name = head[2]
                entry = name if head[1] else entry
                self.computations[name] = []
            elif name and line.startswith(" "):
                self.computations[name].append(line)
        self.times = defaultdict(int)
        self._count(entry, 1)

    def _count(self, name: str, times: int) -> None:
        self.times[name] += times
        for line in self.computations[name]:
            loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
            if loop:
                self._count(loop[2], times * self._trips(line, loop[1]))
                continue
            attributes = "calls|to_apply|body|branch_computations|called_computations"
            for called in re.findall(rf"(?:{attributes})=\{{?([%\w.\-, ]+)\}}?", line):
                for other in re.findall(r"%?([\w.\-]+)", called):
                    if other in self.computations:
                        self._count(other, times)

    def _trips(self, line: str, condition: str) -> int:
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        if known:
            return int(known[1])
        root = self._root(condition)
        constants = re.findall(r"[su]32\[\]\S* constant\((\d+)\)", "\n".join(self._lines(condition)))
        counts = " compare(" in root  # the loop counts up to a number; otherwise its end depends on data
        return max(map(int, constants), default=1) if counts else 1

    def _root(self, name: str) -> str:
        root = next((line for line in self.computations[name] if "ROOT " in line), "")
        called = re.search(r" fusion\(.*calls=%?([\w.\-]+)", root)
        return self._root(called[1]) if called else root

    def _lines(self, name: str):
        for line in self.computations.get(name, ()):
            yield line
            for other in re.findall(r"calls=%?([\w.\-]+)", line):
                yield from self._lines(other)


def result_bytes(result: str, entry: int | None = None) -> float:
    """Returns the size of a result such as `(bf16[16,72]{1,0}, f32[])`, or of one of its entries."""
    sizes = []
    for kind, dims in re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", result):
        bits = BITS[kind] if kind in BITS else int(re.match(r"[a-z]+(\d+)", kind)[1])
        sizes.append(math.prod(int(n) for n in dims.split(",") if n) * bits / 8)
    return sum(sizes) if entry is None or len(sizes) <= entry else sizes[entry]


def window_positions(image: int, kernel: int, out: int, dilation: int) -> float:
    """Returns how many products a convolution has along one axis, for sizes of image, kernel and result.

    Those with padding count, as in the usual number of operations of a convolution. Those with the zeros of a dilated
    image do not: each entry of the kernel meets each pixel at most once. The TPU compiler writes products of batches
    and of heads as convolutions with much padding and dilation.
    """
    return min(out * kernel / dilation, float(image * kernel))


def _group(line: str, devices: int) -> int:
    """Returns the number of devices in each group of a collective, from any of the forms that XLA writes."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    if pairs:
        return devices
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line)
    if iota:
        return int(iota[2])
    mesh = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    if mesh:
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        return int(np.prod([sizes[axis] for axis in re.findall(r"'(\w+)'", mesh[2])]))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(listed[1].split(",")) if listed else devices


def flops(function, *args) -> float:
    """Counts the floating-point operations of the matrix products and convolutions in `function(*args)`.

    The count is for all devices together, and includes the kernels of `jvflow.networks.attention`. Args may be shapes
    (`jax.ShapeDtypeStruct`). The body of a loop counts once for each iteration, or once if their number is not known.
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            image, kernel, out = (
                [variable.aval.shape[i] for i in order]  # batch and features, or features and inputs, come first
                for variable, order in zip((*equation.invars, *equation.outvars), params["dimension_numbers"])
            )
            sizes = zip(image[2:], kernel[2:], out[2:], params["lhs_dilation"])
            total += 2.0 * out[0] * out[1] * kernel[1] * math.prod(window_positions(*each) for each in sizes)
        elif name.startswith("dot_product_attention_"):  # cuDNN's: two products forwards, five backwards
            (b, n, h, d), m = equation.invars[0].aval.shape, equation.invars[1].aval.shape[1]
            total += 2.0 * (5 if "bwd" in name else 2) * b * h * n * m * d
        elif name == "pallas_call":
            total += _flops(params["jaxpr"]) * math.prod(params["grid_mapping"].grid)
        elif name == "cond":
            total += max(_flops(branch.jaxpr) for branch in params["branches"])
        else:
            bodies = [getattr(value, "jaxpr", value) for value in params.values()]
            inner = sum(_flops(body) for body in bodies if hasattr(body, "eqns"))
            times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
            total += inner * times
    return total
