"""Convolutions with gradients that are cheap on a CPU; `benchmarks/training_speed.py` compares them to PyTorch's own.

The gradient of a depthwise convolution is a convolution again for its input, and a sum in Numba for its weight. A
convolution of 1 × 1 is a product of matrices, which `--bf16` makes faster.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

FloatMap = NDArray[np.float32]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int, groups: int) -> Tensor:
    """A convolution, in the form that trains fastest.

    Args:
        x: [N, C, H, W]; channels last in memory for speed.
        weight: [C', C / groups, k, k].
        bias: [C'].
        stride: Input pixels an output pixel.
        pad: Zeros around the input, pixels.
        groups: 1, or C for a depthwise convolution.

    Returns:
        [N, C', H', W'].
    """
    if x.requires_grad and x.device.type == "cpu":
        if groups == x.shape[1] == weight.shape[0]:
            out: Tensor = _Depthwise.apply(x, weight, bias, stride, pad)  # type: ignore[no-untyped-call]
            return out
        if weight.shape[2:] == (1, 1) and stride == 1 and groups == 1:
            return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, stride, pad, 1, groups)


@nb.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _add_weight_gradient(x: FloatMap, grad: FloatMap, stride: int, pad: int, out: FloatMap) -> None:
    """Add the gradient of a depthwise convolution's weight.

    Args:
        x: float32 [N, H, W, C], the input.
        grad: float32 [N, H', W', C], the gradient of the output.
        stride: Input pixels an output pixel.
        pad: Zeros around the input, pixels.
        out: float32 [k, k, C].
    """
    n, h, w, channels = x.shape
    for i in range(n):
        for oy in range(grad.shape[1]):
            grad_row = grad[i, oy]
            for ky in range(out.shape[0]):
                y = oy * stride + ky - pad
                if y < 0 or y >= h:
                    continue
                row, sums = x[i, y], out[ky]
                for ox in range(grad.shape[2]):
                    for kx in range(out.shape[1]):
                        at = ox * stride + kx - pad
                        if 0 <= at < w:
                            for c in range(channels):
                                sums[kx, c] += row[at, c] * grad_row[ox, c]


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in float32, also where products are bfloat16."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, pad: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.pad = stride, pad
        return F.conv2d(x, weight, bias, stride, pad, 1, weight.shape[0])

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        groups, _, k, _ = weight.shape
        if ctx.stride == 1:
            grad_x = F.conv2d(grad, weight.flip(2, 3), None, 1, k - 1 - ctx.pad, 1, groups)
        else:
            grad_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, ctx.stride, ctx.pad, groups=groups)
        x_last, grad_last = (t.permute(0, 2, 3, 1).contiguous() for t in (x, grad))
        grad_weight = torch.zeros(k, k, groups)
        _add_weight_gradient(x_last.numpy(), grad_last.numpy(), ctx.stride, ctx.pad, grad_weight.numpy())
        return grad_x, grad_weight.permute(2, 0, 1)[:, None], grad_last.sum((0, 1, 2)), None, None
