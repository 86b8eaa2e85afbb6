"""Options of the compiler for a training step, by the kind of the devices."""

# A product with sharded weights is computed whole, once the weights are there. The compiler would
# compute it in parts while the other weights are under way, and write what follows each product in
# a pass of its own. A step takes 0.6 (v6e) and 0.7 (v5e) of the time with whole products.
WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "100000"}

# By `device_kind`. Numbers are the compiler's estimate for a step of latte.py:XL/2, in which
# transfers cost nothing; see docs/benchmarks.md.
OPTIONS: dict[str, dict[str, str]] = {
    "TPU v5 lite": WHOLE_PRODUCTS,  # v5e
    # v5p: 64 MiB of vector memory for the operands of one operation, in place of 16. Products read
    # tiles again and again, and then run nearer to their peak. A step takes 0.91 of the time.
    "TPU v5": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
    "TPU v6 lite": WHOLE_PRODUCTS,  # v6e
}


def options(device_kind: str) -> dict[str, str]:
    """The options with which a step is compiled; none for most devices."""
    return OPTIONS.get(device_kind, {})
