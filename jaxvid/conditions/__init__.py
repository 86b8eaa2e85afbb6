"""What a clip can be asked to be: a condition is one file, and is registered by being imported."""

# Their order is that of the random numbers that decide which is dropped: new ones come last.
from jaxvid.conditions import label, text, action, low_res  # noqa: F401, I001
