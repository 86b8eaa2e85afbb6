"""What happens at a training step, and what survives it."""
