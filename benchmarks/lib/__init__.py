"""Shared by the benchmarks: measuring, recorded masks, SAM in PyTorch, packages for machines without network."""
