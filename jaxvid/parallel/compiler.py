"""Options of the compiler for a training step, by the kind of the devices."""

# By `device_kind`. Numbers are the compiler's estimate for a step of latte.py:XL/2, see
# docs/benchmarks.md.
OPTIONS: dict[str, dict[str, str]] = {
    # 64 MiB of vector memory for the operands of one operation, in place of 16: products read tiles
    # again and again, and then run nearer to their peak. A step takes 0.91 of the time.
    "TPU v5": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
}


def options(device_kind: str) -> dict[str, str]:
    """The options with which a step is compiled; none for most devices."""
    return OPTIONS.get(device_kind, {})
