"""E-SAM on NVIDIA Triton Inference Server: a model repository, and the Python model in it. docs/howto/triton.md."""
