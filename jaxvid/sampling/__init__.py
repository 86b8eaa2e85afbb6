"""Sampling clips and long videos from noise."""
