"""What the benchmarks share: measuring, recorded masks, SAM in PyTorch, packages for machines without network."""
