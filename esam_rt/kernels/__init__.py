"""Numba kernels on bit-packed masks: arrays in, arrays out. ``jit`` says how to add one."""
