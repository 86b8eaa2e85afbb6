"""The conditions of a network. Importing the file of a condition registers it."""

# This order selects the random numbers that drop a condition, so a new condition must come last.
from jaxvid.conditions import label, text, action, low_res  # noqa: F401, I001
