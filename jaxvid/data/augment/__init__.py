"""Random augmentations of a clip."""

from jaxvid.data.augment import blur, colour, crop, cutout, flip, rotate, temporal  # noqa: F401
from jaxvid.data.augment.registry import Apply, Sample, active, augmentation, check_truth

__all__ = ["Apply", "Sample", "active", "augmentation", "check_truth"]
