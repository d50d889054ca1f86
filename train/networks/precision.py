"""Single precision on CPUs for the layers that half precision makes slower."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FloatConv(nn.Conv2d):
    """A convolution that runs in single precision on CPUs even under autocast.

    bfloat16 halves the time of ordinary convolutions there, but makes the backward pass of 5x5
    depthwise ones two and a half times as long (AVX512-BF16, oneDNN of torch 2.14).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same as ``nn.Conv2d``; the output has autocast's type where that is on."""
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
