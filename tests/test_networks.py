"""The four networks as one record, and division that rounds up."""

from __future__ import annotations

from esam_rt.networks import NETWORK_NAMES, Networks
from esam_rt.rounding import ceil_div


def test_networks_are_four_in_order() -> None:
    assert tuple(NETWORK_NAMES) == ("encoder", "decoder", "mask_head", "logits")
    files = NETWORK_NAMES.map(lambda name: f"{name}.onnx")
    assert files == Networks("encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx")
    encoder, *others = files
    assert (encoder, len(others)) == (files.encoder, 3)


def test_division_rounds_up() -> None:
    assert [ceil_div(a, 4) for a in (0, 1, 4, 5)] == [0, 1, 1, 2]
