"""Random augmentations of a sampled clip, one file each."""

from jaxvid.data.augment import crop, flip, light, reverse  # noqa: F401
from jaxvid.data.augment.registry import Apply, Sample, active, augmentation, check_truth

__all__ = ["Apply", "Sample", "active", "augmentation", "check_truth"]
