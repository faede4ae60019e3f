"""Measures what edgeseq claims, beside what it is compared with: `python -m benchmarks`.

A module of this folder whose name does not start with an underscore is a benchmark: its first line
says what it measures, and `measure(quick: bool) -> list[Figure]` does it.
"""
