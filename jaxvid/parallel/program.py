"""Reads a compiled program: its operations, how often they run, what they compute and move.

The text is that of `jax.stages.Compiled.as_text()`, for one device. XLA's own `cost_analysis`
counts the body of a loop once; here it counts as often as it runs.
"""

import functools
import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Shape(NamedTuple):
    """An array of a compiled program; `in_hbm` is false for those in other memories."""

    dims: tuple[int, ...]
    bytes: int
    in_hbm: bool


class Instruction(NamedTuple):
    """A line of a compiled program.

    Attributes:
      name: of the instruction.
      code: what it does, such as "fusion".
      arrays: its output, an array or several.
      operands: names of the instructions that it takes.
      text: the rest of the line, with attributes.
      is_root: whether its output is that of its computation.
    """

    name: str
    code: str
    arrays: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Of its output, in any memory."""
        return sum(array.bytes for array in self.arrays)

    @property
    def hbm(self) -> int:
        """Bytes of its output in HBM."""
        return sum(array.bytes for array in self.arrays if array.in_hbm)

    def attribute(self, name: str) -> str | None:
        """The value of an attribute that is one word, such as the name of a computation."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.text)
        return found and found[1]


class Program:
    """The computations of a compiled program by name; the first to run is `ENTRY`."""

    def __init__(self, text: str):
        self.bodies: dict[str, dict[str, Instruction]] = {}
        body: dict[str, Instruction] = {}
        for line in text.split("\n"):
            if begins := _HEAD.match(line):
                body = self.bodies.setdefault("ENTRY" if begins[1] else begins[2], {})
            elif parts := _LINE.match(line):
                root, name, shape, code, rest = parts.groups()
                arrays = tuple(_shape(*array) for array in _ARRAY.findall(shape))
                operands = tuple(re.findall(r"%([\w.\-]+)", rest.partition(")")[0]))
                body[name] = Instruction(name, code, arrays, operands, rest, bool(root))

    def walk(
        self, body: str = "ENTRY", times: int = 1
    ) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """Each instruction that runs, with its computation, and how often it runs.

        Fusions count as one instruction. A loop of unknown length counts as one pass, and all
        branches of a condition count.
        """
        for op in self.bodies[body].values():
            yield op, self.bodies[body], times
            if op.code == "while":
                yield from self.walk(op.attribute("body"), times * self._passes(op))
            elif op.code in ("call", "conditional", "async-start"):
                for called in self._called(op):
                    yield from self.walk(called, times)

    def fused(self, op: Instruction) -> dict[str, Instruction]:
        """The instructions of a fusion; {} for others."""
        return self.bodies[op.attribute("calls")] if op.code == "fusion" else {}

    def _called(self, op: Instruction) -> list[str]:
        lists = re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", op.text)
        names = [name for names in lists for name in re.findall(r"[\w.\-]+", names)]
        words = ("to_apply", "calls", "true_computation", "false_computation")
        return names or [name for word in words if (name := op.attribute(word))]

    def _passes(self, loop: Instruction) -> int:
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
            return int(known[1])
        limits = [
            re.match(r"(\d+)\)", op.text)
            for op in self.bodies[loop.attribute("condition")].values()
            if op.code == "constant" and op.arrays[0].dims == ()
        ]
        return next((int(limit[1]) for limit in limits if limit), 1)


@functools.cache
def _shape(dtype: str, sides: str, layout: str) -> Shape:
    dims = tuple(int(side) for side in sides.split(",") if side)
    bits = re.search(r"\d+", dtype)
    each = {"pred": 1, "token": 0}.get(dtype) if not bits else int(bits[0]) / 8
    space = re.search(r"S\((\d+)\)", layout)
    return Shape(dims, math.ceil(math.prod(dims) * (each or 0)), not space or space[1] == "0")


class Operation(NamedTuple):
    """An operation with the compiler's estimate of its time.

    Attributes:
      name: of the instruction.
      kind: "product", "elementwise", "copy" or "kernel".
      cycles: the compiler's estimate for one run; 0 for kernels.
      times: how often it runs.
      shape: of its (first) output.
      path: of the module that it came from.
    """

    name: str
    kind: str
    cycles: int
    times: int
    shape: tuple[int, ...]
    path: str


def operations_of(program: Program) -> list[Operation]:
    """The operations that have an estimate, and the Pallas kernels."""
    found = []
    for op, _, times in program.walk():
        cycles = re.search(r'estimated_cycles":"(\d+)"', op.text)
        if cycles or _is_kernel(op):
            path = re.search(r'op_name="([^"]*)"', op.text)
            kind = "kernel" if _is_kernel(op) else _kind(program, op)
            each = 0 if kind == "kernel" else int(cycles[1])
            shape = op.arrays[0].dims
            found.append(Operation(op.name, kind, each, times, shape, path[1] if path else ""))
    return found


def _is_kernel(op: Instruction) -> bool:
    return 'custom_call_target="tpu_custom_call"' in op.text


def _kind(program: Program, op: Instruction) -> str:
    if any(part.code in _PRODUCTS for part in [op, *program.fused(op).values()]):
        return "product"
    return "copy" if re.match(r"copy|transpose|bitcast_dynamic", op.name) else "elementwise"


def flops(program: Program) -> float:
    """FLOPs of one device: those of matrix products and convolutions, 2 per multiply-add.

    Pallas kernels count what they declare. What is computed again (`model.remat`) counts again.
    """
    total = 0.0
    for op, body, times in program.walk():
        inside = program.fused(op)
        for part in [op, *inside.values()]:
            if part.code in _PRODUCTS:
                around = inside or body
                operands = [around[name].arrays[0].dims for name in part.operands[:2]]
                total += times * _PRODUCTS[part.code](part, *operands)
            elif _is_kernel(part):
                declared = re.search(r'"cost_estimate":(\{[^}]*\})', part.text)
                total += times * float(json.loads(declared[1])["flops"]) if declared else 0
    return total


def _dot(op: Instruction, left: tuple[int, ...], _: tuple[int, ...]) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.text)[1]
    over = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2.0 * math.prod(op.arrays[0].dims) * over


def _convolution(op: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Without the products with zeros of padding and dilation, in which products are written."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.text).groups()
    written = re.search(r"window=\{([^}]*)\}", op.text)
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", written[1] if written else ""))
    pairs = 1
    for axis in filter(str.isdigit, labels[2]):
        sizes = [
            dims[label.index(axis)]
            for dims, label in zip((left, right, op.arrays[0].dims), labels, strict=True)
        ]
        of_axis = {name: value.split("x")[int(axis)] for name, value in window.items()}
        pairs *= _pairs(*sizes, of_axis)
    groups = int(op.attribute("batch_group_count") or 1)
    batch, inputs = left[labels[0].index("b")], right[labels[1].index("i")]
    return 2.0 * batch // groups * inputs * right[labels[1].index("o")] * pairs


def _pairs(size: int, kernel: int, output: int, window: dict[str, str]) -> int:
    """Pairs of an output and a place of the kernel that meet an input, along one axis."""
    stride, spread, dilation = (
        int(window.get(name, 1)) for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    before = int(window.get("pad", "0_0").split("_")[0])
    at = np.arange(output)[:, None] * stride - before + np.arange(kernel) * dilation
    return int(np.sum((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)))


_PRODUCTS = {"dot": _dot, "convolution": _convolution}

# What moves nothing by itself.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "async-start", "async-update", "after-all", "partition-id", "replica-id", "iota",
}  # fmt: skip
_PARTS = ("dynamic-slice", "slice", "bitcast")


def hbm_bytes(program: Program) -> int:
    """Bytes that the operations of one device read from its HBM and write to it.

    Every operand counts as read once for each operation, and every output as written. A slice of
    an array counts as the slice, and what stays in vector memory does not count.
    """
    return sum(times * _moved(program, op, body) for op, body, times in program.walk())


def _moved(program: Program, op: Instruction, body: dict[str, Instruction]) -> int:
    if op.code in _FREE or op.code.endswith("-done"):
        return 0
    if op.code in ("copy-start", "slice-start", "dynamic-slice-start"):
        ends = [array for array in op.arrays if array.bytes > 8][:2]
        least = min((array.bytes for array in ends), default=0)
        return least * sum(array.in_hbm for array in ends)
    if op.code == "dynamic-update-slice":
        return 2 * body[op.operands[1]].hbm
    if op.code in _PARTS:
        return 2 * op.hbm
    if inside := program.fused(op):
        return _moved_by_fusion(inside)
    read = sum(body[name].hbm for name in set(op.operands) if name in body)
    return read + op.hbm


def _moved_by_fusion(inside: dict[str, Instruction]) -> int:
    """What a fusion reads of its parameters, and writes."""
    users: dict[str, list[Instruction]] = {}
    for op in inside.values():
        for name in op.operands:
            users.setdefault(name, []).append(op)
    root = next(op for op in inside.values() if op.is_root)
    outputs = root.operands if root.code == "tuple" else [root.name]
    read = sum(_read(op, users) for op in inside.values() if op.code == "parameter")
    return read + sum(_written(inside, name) for name in outputs)


def _read(op: Instruction, users: dict[str, list[Instruction]]) -> int:
    """Bytes of a parameter of a fusion that are read: of an array, only its slices if it has some.

    What only passes through to an asynchronous transfer is counted with the transfer.
    """
    if not op.hbm:
        return 0
    total = 0
    for user in users.get(op.name, []):
        if user.code in ("dynamic-slice", "slice"):
            total += user.bytes
        elif user.code == "bitcast" and not user.is_root:
            total += _read(user._replace(arrays=op.arrays), users)
        elif user.code == "dynamic-update-slice" and user.operands[0] == op.name:
            continue
        elif not (user.code in ("tuple", "custom-call") or collective_of(user)):
            return op.hbm
    return min(total, op.hbm)


def _written(inside: dict[str, Instruction], name: str) -> int:
    op = inside[name]
    while op.code == "bitcast" and op.operands:
        op = inside[op.operands[0]]
    if not inside[name].hbm or op.code in ("parameter", "custom-call") or collective_of(op):
        return 0
    return inside[op.operands[1]].bytes if op.code == "dynamic-update-slice" else inside[name].hbm


def collective_of(op: Instruction) -> str | None:
    """The kind of a collective, one of `COLLECTIVES`; None for other instructions."""
    code = op.code.removesuffix("-start")
    return code if code in COLLECTIVES else None
