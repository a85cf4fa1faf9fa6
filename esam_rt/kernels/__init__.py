"""Numba kernels on bit-packed masks: arrays in, arrays out; nothing of the rest of the package is imported here."""
