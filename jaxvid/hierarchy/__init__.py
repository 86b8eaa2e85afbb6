"""Hierarchy: first the outline of a long video, then the details."""
