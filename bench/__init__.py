"""Benchmarks of Modelyard; run them with `make bench`.

Each figure is measured next to a reference (a peer or a bare baseline) in the same run.
"""
