"""Engines that ONNX Runtime executes. All imports of ONNX Runtime are in this package.

From version 1.29 on ONNX Runtime reports its use to Microsoft and writes a device identity under the home folder.
esam-rt turns that off. To turn it on, set ``ORT_DISABLE_TELEMETRY=0`` in the environment.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when ONNX Runtime is imported
