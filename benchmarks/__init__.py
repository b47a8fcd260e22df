"""Measurements, each a program of its own: `python -m benchmarks` lists them, `python -m benchmarks.NAME` runs one."""
