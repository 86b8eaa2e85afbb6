"""The operations of a program that is compiled for a TPU, with the cycles that XLA estimates."""

import re
from typing import NamedTuple


class Operation(NamedTuple):
    """An operation of the compiled program.

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
    shape: str
    path: str


def operations_of(text: str) -> list[Operation]:
    """The operations of a compiled program that have an estimate, and the attention kernels."""
    bodies: dict[str, list[str]] = {}
    for line in text.split("\n"):
        if begins := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            body = bodies.setdefault("ENTRY" if begins[1] else begins[2], [])
        elif bodies:
            body.append(line)
    found: list[Operation] = []

    def walk(body: str, times: int) -> None:
        for line in bodies[body]:
            cycles = re.search(r'estimated_cycles":"(\d+)"', line)
            kernel = 'custom_call_target="tpu_custom_call"' in line
            if cycles or kernel:
                name, shape = re.search(r"%?([\w.\-]+) = \(?(\w+\[[\d,]*\])", line).groups()
                path = re.search(r'op_name="([^"]*)"', line)
                kind = "kernel" if kernel else _kind(line, bodies)
                found.append(
                    Operation(
                        name, kind, 0 if kernel else int(cycles[1]), times, shape,
                        path[1] if path else "",
                    )
                )  # fmt: skip
            if loop := re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
                limit = re.search(r"s32\[\]\S* constant\((\d+)\)", "\n".join(bodies[loop[1]]))
                walk(loop[2], times * int(limit[1]))

    walk("ENTRY", 1)
    return found


def _kind(line: str, bodies: dict[str, list[str]]) -> str:
    called = re.search(r"calls=%?([\w.\-]+)", line)
    inside = "\n".join([line, *bodies.get(called[1] if called else "", [])])
    if " convolution(" in inside or " dot(" in inside:
        return "product"
    moves = re.match(r"\s*(ROOT )?%?(copy|transpose|bitcast_dynamic)", line)
    return "copy" if moves else "elementwise"
