"""Options of the compiler for a training step, by the kind of the devices."""

# By `device_kind`. Numbers are the compiler's estimate for a step of latte.py:XL/2, see
# docs/benchmarks.md.
OPTIONS: dict[str, dict[str, str]] = {
    # Half of the vector memory, in place of a quarter, for the operands of one operation: products
    # that read a tile again and again then run at their peak. A step takes 0.83 of the time. On
    # v5e and v6e, where memory is scarcer, whole steps become slower.
    "TPU v5": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
}


def options(device_kind: str) -> dict[str, str]:
    """The options with which a step is compiled; none for most devices."""
    return OPTIONS.get(device_kind, {})
