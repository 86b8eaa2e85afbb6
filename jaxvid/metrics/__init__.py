"""Scores of generated clips against real ones."""
