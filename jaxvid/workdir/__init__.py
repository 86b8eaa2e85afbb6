"""What a run leaves behind, and what survives it."""
