"""jaxvid: train video diffusion models with JAX and Flax."""
