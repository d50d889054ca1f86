"""Half precision on processors: where it is slower than single precision, single it stays."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FloatConv(nn.Conv2d):
    """A convolution in single precision whatever autocast says, on processors.

    bfloat16 halves the time of ordinary convolutions there; but the backward pass of 5x5
    depthwise ones takes two and a half times as long in it (AVX512-BF16, oneDNN of torch 2.14).
    """

    def forward(self, x: Tensor) -> Tensor:
        """As of ``nn.Conv2d``; the output is of autocast's type where that is on."""
        if torch.compiler.is_compiling() or x.is_cuda or not torch.is_autocast_enabled('cpu'):
            return super().forward(x)
        dtype = torch.get_autocast_dtype('cpu')
        with torch.autocast('cpu', enabled=False):
            return super().forward(x.float()).to(dtype)


def keep_depthwise_single(net: nn.Module) -> nn.Module:
    """Turn all large depthwise convolutions of a network into :class:`FloatConv`, in place."""
    for module in net.modules():
        if (
            type(module) is nn.Conv2d
            and module.groups == module.in_channels > 1
            and max(module.kernel_size) > 3
        ):
            module.__class__ = FloatConv
    return net
