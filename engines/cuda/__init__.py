"""CUDA: device memory, streams, graphs, arrays of other libraries."""
