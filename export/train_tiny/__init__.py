"""Training of the default model `tiny` (PyTorch, extra `train`; never imported at run time)."""
