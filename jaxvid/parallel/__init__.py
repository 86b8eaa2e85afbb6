"""Devices and shardings: one mesh, one table of rules."""
