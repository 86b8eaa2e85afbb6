"""The mathematics of diffusion: pure functions on arrays, in float32."""
