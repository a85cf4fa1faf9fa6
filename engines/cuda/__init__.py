"""CUDA: device memory, streams, graphs, and arrays of other libraries."""
