"""What programs take of a pod, as tables in Markdown."""

import math
from collections.abc import Iterable, Sequence

from jaxvid.parallel.chips import SOURCE, Chip, GiB
from jaxvid.pods.budget import Budget
from jaxvid.pods.layouts import written
from jaxvid.pods.search import Sweep

NETWORKS = ("ICI", "DCN")


def describe(budget: Budget, chip: Chip) -> str:
    """What a program takes, as Markdown."""
    each = "a chip" if chip.devices == 1 else f"1/{chip.devices} of a chip"
    mesh = ", ".join(f"{axis}={size}" for axis, size in budget.mesh.items()) or "one device"
    lines = [
        f"mesh {mesh}; {budget.clips} clips; compiled in {budget.compile_s:.0f} s",
        "",
        *table(
            [f"memory of {each}", "GiB"],
            [
                *((kind, f"{size / GiB:.3f}") for kind, size in budget.memory.items()),
                ("all" if budget.fits else "all, at least", f"{budget.needs / GiB:.3f}"),
            ],
        ),
        "",
        f"It {budget.fit}.",
    ]
    if not budget.fits:
        return "\n".join(lines)
    sent = {net: sum(c.bytes for c in budget.collectives if c.network == net) for net in NETWORKS}
    work = (
        (
            "compute",
            amount(budget.seconds["compute"] * chip.peak / chip.devices, "FLOP"),
            chip.peak,
            "FLOP/s",
        ),
        ("hbm", amount(budget.hbm_bytes, "B"), chip.bandwidth, "B/s"),
        ("ici", amount(sent["ICI"], "B"), chip.ici, "B/s"),
        ("dcn", amount(sent["DCN"], "B"), chip.dcn, "B/s"),
    )
    lines += ["", *table(
        [f"least time of {each}", "work", "peak", "time"],
        [
            (name, done, amount(peak / chip.devices, unit), amount(budget.seconds[name], "s"))
            for name, done, peak, unit in work
        ],
    )]  # fmt: skip
    lines += ["", *table(
        ["collective", "axes", "network", "times", f"{each} sends"],
        [
            (c.kind, c.axes, c.network, str(c.times), amount(c.bytes, "B"))
            for c in budget.collectives
        ],
    )]  # fmt: skip
    lines += [
        "",
        f"At least {amount(budget.least_s, 's')}, bound by {budget.bound}: "
        f"{amount(budget.per_clip_s, 's')} per clip, an MFU of at most {budget.mfu:.3f}: "
        f"{amount(budget.flops, 'FLOP')} of the network, by its jaxpr, at "
        f"{amount(chip.peak, 'FLOP/s')} a chip.",
        f"Peaks: {SOURCE}.",
    ]
    return "\n".join(lines)


def ranking(sweep: Sweep) -> str:
    """The settings of a sweep that fit, those that do not, and those that were not compiled."""
    head = [
        "settings",
        "clips",
        "least time per clip",
        "bound by",
        "MFU at most",
        "GiB",
        "compile s",
    ]
    rows = [
        (
            written(changes), str(b.clips), amount(b.per_clip_s, "s"), b.bound, f"{b.mfu:.3f}",
            f"{b.needs / GiB:.2f}", f"{b.compile_s:.0f}",
        )
        for changes, b in sweep.ranked
    ]  # fmt: skip
    lines = [*table(head, rows), ""]
    lines += [f"{written(c)}: {b.fit}" for c, b in sweep.found if not b.fits]
    lines += [
        f"refused: {len(which)}, such as {written(which[0])}: {reason}"
        for reason, which in sweep.refused.items()
    ]
    if sweep.not_tried:
        lines += [f"not tried: {len(sweep.not_tried)}, such as {written(sweep.not_tried[0])}"]
    return "\n".join(lines)


def amount(value: float | int, unit: str) -> str:
    """A number with its unit, in steps of a thousand, such as "1.5 ms"."""
    step = math.floor(math.log10(value) / 3) if value else 0
    step = min(max(step, -2), 5)
    return f"{value / 1000**step:.4g} {['µ', 'm', '', 'k', 'M', 'G', 'T', 'P'][step + 2]}{unit}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
