"""Convolutions that train fast on a CPU, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from esam_rt.export.train_tiny.fast_conv import conv2d


def gradients(out: torch.Tensor, over: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The gradients for a fixed gradient of the output."""
    given = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad(out, over, given)


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize(
    ("size", "k", "stride", "pad", "out_channels", "groups"),
    [
        ((2, 7, 9, 5), 5, 1, 2, 7, 7),
        ((1, 33, 8, 8), 3, 1, 1, 33, 33),
        ((2, 4, 11, 12), 5, 2, 0, 4, 4),
        ((1, 3, 3, 3), 5, 1, 2, 3, 3),  # a kernel larger than the input
        ((1, 6, 10, 7), 3, 2, 1, 6, 6),
        ((2, 5, 6, 7), 3, 1, 0, 5, 5),
        ((2, 6, 4, 3), 1, 1, 0, 9, 1),
        ((2, 6, 9, 9), 1, 2, 0, 9, 1),
        ((1, 6, 8, 8), 3, 1, 1, 4, 2),  # groups, but not depthwise
        ((1, 6, 8, 8), 3, 1, 1, 12, 6),  # two outputs of each input
        ((1, 1, 8, 8), 3, 1, 1, 1, 1),
    ],
)
def test_outputs_and_gradients_are_those_of_pytorch(
    size: tuple[int, ...], k: int, stride: int, pad: int, out_channels: int, groups: int, last: bool
) -> None:
    rng = torch.Generator().manual_seed(sum(size) + k)
    x = torch.randn(size, generator=rng)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    weight = torch.randn(out_channels, size[1] // groups, k, k, generator=rng).requires_grad_()
    bias = torch.randn(out_channels, generator=rng).requires_grad_()
    expected, found = F.conv2d(x, weight, bias, stride, pad, 1, groups), conv2d(x, weight, bias, stride, pad, groups)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(gradients(found, (x, weight, bias)), gradients(expected, (x, weight, bias)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(conv2d(x, weight, bias, stride, pad, groups), expected, rtol=1e-5, atol=1e-5)


def test_a_depthwise_convolution_stays_float32_among_bfloat16() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 6, 6).bfloat16().requires_grad_()
    weight, bias = torch.randn(8, 1, 3, 3).requires_grad_(), torch.randn(8).requires_grad_()
    expected = F.conv2d(x.float(), weight, bias, 1, 1, 1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv2d(x, weight, bias, 1, 1, 8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(gradients(found, (weight, bias)), gradients(expected, (weight, bias)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
