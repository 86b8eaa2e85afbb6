"""What a TPU can do at most, by generation: the peaks against which a program is held."""

from typing import NamedTuple


class Chip(NamedTuple):
    """A chip, with the figures that its vendor publishes.

    Attributes:
      kind: `device_kind` of its devices.
      peak: dense bfloat16, FLOP/s.
      memory: HBM, bytes.
      bandwidth: of the HBM, bytes per second.
      ici: bytes per second that it sends to the other chips of its slice, over all links; half of
        the vendor's bidirectional figure.
      dcn: bytes per second that it sends to other slices.
      torus: dimensions of the network of a slice, over which the links divide.
      devices: of JAX, which share all of this equally.
    """

    kind: str
    peak: float
    memory: float
    bandwidth: float
    ici: float
    dcn: float
    torus: int
    devices: int = 1


GiB = 2**30
SOURCE = "docs.cloud.google.com/tpu/docs, as of November 2026; ICI and DCN of v4 are not there"
CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32 * GiB, 1200e9, 300e9, 6.25e9, 3),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * GiB, 819e9, 200e9, 3.125e9, 2),
    "v5p": Chip("TPU v5", 459e12, 95 * GiB, 2765e9, 600e9, 6.25e9, 3),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * GiB, 1638e9, 400e9, 12.5e9, 2),
    "tpu7x": Chip("TPU7x", 2307e12, 192 * GiB, 7380e9, 600e9, 12.5e9, 3, devices=2),
}
