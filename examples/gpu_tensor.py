"""Segment a PyTorch tensor that is on the GPU, without a copy to the host.

    python examples/gpu_tensor.py [vit_b]

Needs an NVIDIA GPU, PyTorch with CUDA, and `pip install 'esam-rt[tensorrt-rtx,cpu]'`.
"""

import sys

from esam_rt import EntitySegmenter, ExecutionConfig


def main(model: str = "tiny", backend: str = "tensorrt-rtx") -> None:
    """Segment a frame on the GPU; skip without one."""
    try:
        import torch
    except ImportError:
        sys.exit("Skipped: PyTorch is not installed.")
    if not torch.cuda.is_available():
        sys.exit("Skipped: PyTorch finds no NVIDIA GPU.")
    frame = torch.full((480, 640, 3), 40, dtype=torch.uint8, device="cuda")  # height, width, RGB
    frame[100:300, 200:400] = torch.tensor([220, 60, 60], dtype=torch.uint8, device="cuda")
    execution = ExecutionConfig(backend=backend, stream=torch.cuda.current_stream())
    with EntitySegmenter(model, execution=execution) as segment:
        entities = segment(frame)  # the frame stays on the GPU; the entities are on the host
    print(f"{len(entities)} entities, labels {entities.labels.shape}")


if __name__ == "__main__":
    main(*sys.argv[1:])
