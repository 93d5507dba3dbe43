"""What a compiled program does, read from it: collectives with their sizes, and the operations of what it was compiled from.

    all-gather           (n - 1) / n of its output          bytes that each device sends, around a ring of n
    reduce-scatter       (n - 1) / n of its input
    all-reduce           both of them
    all-to-all           (n - 1) / n of its output
    collective-permute   its output

A loop's body counts as often as it runs, and once where that depends on data (an adaptive solver's). XLA's own count
of operations has each loop once, so operations are counted in the function before it is compiled.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

import jax
import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}


class Collective(NamedTuple):
    """One collective of a program: its kind, bytes that a device sends each time, how often, and devices in a group."""

    kind: str
    bytes: float
    times: int
    group: int


def collectives(text: str, devices: int) -> list[Collective]:
    """The collectives of a compiled program's text, for `devices` devices. Parts of one collective that was taken apart count once."""
    program = _Program(text)
    found = {}
    for name, times in program.times.items():
        for line in program.computations[name]:
            match = re.search(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
            if not match:
                continue
            kind, group = match[2], _group(line, devices)
            size = _bytes(match[1])
            if f" {kind}-start(" in line and kind in ("all-gather", "collective-permute"):
                size = _bytes(match[1], of=1)  # its result is (input, output, ...)
            around = (group - 1) / group
            sent = {"all-reduce": 2 * size * around, "reduce-scatter": size * (group - 1), "collective-permute": size}.get(kind, size * around)
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else line)
            one = Collective(kind, sent, times, group)
            if key not in found or one.times < found[key].times:  # one that runs beside a loop has a part of it in there
                found[key] = one
    return list(found.values())


def by_kind(found: list[Collective]) -> dict[str, dict]:
    """Bytes that each device sends and how many collectives that takes, for each kind that there is, the largest first."""
    total = defaultdict(lambda: dict(bytes=0.0, count=0))
    for one in found:
        total[one.kind]["bytes"] += one.bytes * one.times
        total[one.kind]["count"] += one.times
    return dict(sorted(total.items(), key=lambda entry: -entry[1]["bytes"]))


def shapes(text: str) -> set[tuple[int, ...]]:
    """The shapes of all arrays in a program: in one that is split over devices, of each device's part."""
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
            for called in re.findall(r"(?:calls|to_apply|body|branch_computations|called_computations)=\{?([%\w.\-, ]+)\}?", line):
                for other in re.findall(r"%?([\w.\-]+)", called):
                    if other in self.computations:
                        self._count(other, times)

    def _trips(self, line: str, condition: str) -> int:
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        if known:
            return int(known[1])
        root = self._root(condition)
        constants = re.findall(r"[su]32\[\]\S* constant\((\d+)\)", "\n".join(self._lines(condition)))
        return max(map(int, constants), default=1) if " compare(" in root else 1  # that counts up to a number, or looks at data

    def _root(self, name: str) -> str:
        root = next((line for line in self.computations[name] if "ROOT " in line), "")
        called = re.search(r" fusion\(.*calls=%?([\w.\-]+)", root)
        return self._root(called[1]) if called else root

    def _lines(self, name: str):
        for line in self.computations.get(name, ()):
            yield line
            for other in re.findall(r"calls=%?([\w.\-]+)", line):
                yield from self._lines(other)


def _bytes(result: str, of: int | None = None) -> float:
    """Of a result such as `(bf16[16,72]{1,0}, f32[])`: all of it, or one entry."""
    sizes = []
    for kind, dims in re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", result):
        bits = BITS.get(kind) or int(re.match(r"[a-z]+(\d+)", kind)[1])
        sizes.append(math.prod(int(n) for n in dims.split(",") if n) * bits / 8)
    return sum(sizes) if of is None or len(sizes) <= of else sizes[of]


def _group(line: str, devices: int) -> int:
    """Devices in each group of a collective, in any of the forms that XLA writes."""
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
    """Floating-point operations of the matrix products and convolutions in `function(*args)`, on all devices together, loops in full.

    Args may be shapes (`jax.ShapeDtypeStruct`). A loop without a known number of rounds counts as one of them.
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
            kernel = equation.invars[1].aval.shape
            out = params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[out]
        elif name == "cond":
            total += max(_flops(branch.jaxpr) for branch in params["branches"])
        else:
            inner = sum(_flops(getattr(value, "jaxpr", value)) for value in params.values() if hasattr(getattr(value, "jaxpr", value), "eqns"))
            total += inner * (params["length"] if name == "scan" else 1)
    return total
