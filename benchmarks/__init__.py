"""Benchmarks, the results on real slices and the demo: each a script and a module."""
