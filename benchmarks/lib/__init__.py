"""Helpers of the benchmarks: measuring, recordings, models in PyTorch, carrying packages to other machines."""
