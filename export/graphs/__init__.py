"""The ONNX graphs of encoders and mask decoders."""
