"""Engines of TensorRT and TensorRT-RTX: building and running."""
