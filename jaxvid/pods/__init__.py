"""Compiling for pods that are not there: what a program takes, and which settings fit."""
