"""FSRE-Depth's decoder: from encoder features to per-pixel outputs at up to the image size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ReflectConv(nn.Conv2d):
    """3x3 convolution with reflection padding, then ELU if ``activate``.

    In training only its inputs and its output are kept: the padded (doubled, joined) copy that the
    convolution reads is cheap to make again, and takes most of a decoder's memory.
    """

    def __init__(self, in_channels: int, out_channels: int, activate: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3)
        self.activate = activate

    def forward(self, x: Tensor, skip: Tensor | None = None, double: bool = False) -> Tensor:
        """Convolve (B, C, h, w), its size doubled first if asked for, joined with ``skip``."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            y = F.conv2d(_padded(x, skip, double), self.weight, self.bias)
            return _elu(y) if self.activate else y
        tensors = (x, skip, self.weight, self.bias)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = (t if t is None else t.to(dtype) for t in tensors)
        return _ReflectConv.apply(*tensors, double, self.activate)


class _ReflectConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, double: bool,
                activate: bool) -> Tensor:
        y = F.conv2d(_padded(x, skip, double), weight, bias)
        if activate:
            y = _elu(y)
        ctx.save_for_backward(x, skip, weight, y if activate else None)
        ctx.double = double
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, skip, weight, y = ctx.saved_tensors
        if y is not None:
            gradient = gradient * (y + 1).clamp_(max=1)
        leaves = [t if t is None else t.detach().requires_grad_() for t in (x, skip)]
        with torch.enable_grad():
            padded = _padded(*leaves, ctx.double)
        of_input, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient, padded.detach(), weight, [len(weight)], [1, 1], [0, 0], [1, 1], False,
            [0, 0], 1, [True] * 3)
        found = torch.autograd.grad(padded, [t for t in leaves if t is not None], of_input)
        of_x, of_skip = (*found, None)[:2]
        return of_x, of_skip, of_weight, of_bias, None, None


def _padded(x: Tensor, skip: Tensor | None, double: bool) -> Tensor:
    if double:
        x = F.interpolate(x, scale_factor=2.0, mode='nearest')
    if skip is not None:
        x = torch.cat([x, skip], 1)
    return F.pad(x, (1, 1, 1, 1), mode='reflect')


def _elu(x: Tensor) -> Tensor:
    """ELU, in the place of ``x`` where no gradient needs it."""
    if torch.is_grad_enabled():
        return F.elu(x)
    if x.is_cuda or torch.compiler.is_compiling():
        return F.elu(x, inplace=True)
    # torch's own takes several times as long on CPUs.
    negative = x.clamp(max=0).exp_().sub_(1)
    return x.clamp_(min=0).add_(negative)


class Stage(nn.Module):
    """Convolve, double the size, join the encoder's feature of that size, convolve."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = ReflectConv(in_channels, out_channels)
        self.fuse = ReflectConv(out_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, in, h, w) and skip (B, skip, 2h, 2w), or None -> (B, out, 2h, 2w)."""
        return self.fuse(self.reduce(x), skip, double=True)


class UNetDecoder(nn.Module):
    """Stages of 256, 128, 64, 32 and 16 channels at 1/16 ... 1/1 of the image size, and heads.

    Who holds it runs the stages, since other tasks may act between them.

    Args:
        encoder_channels: of the encoder's features at 1/2 ... 1/32.
        out_channels: of every head.
        heads: how many heads, from the finest on; head s belongs to 1/2^s of the image size.
    """

    widths = (256, 128, 64, 32, 16)

    def __init__(self, encoder_channels: Sequence[int], out_channels: int, heads: int) -> None:
        super().__init__()
        inputs = (encoder_channels[4], *self.widths)
        skips = (*encoder_channels[3::-1], 0)
        self.stages = nn.ModuleList(
            Stage(inputs[i], skips[i], self.widths[i]) for i in range(5))
        self.heads = nn.ModuleList(
            ReflectConv(self.widths[4 - s], out_channels, activate=False) for s in range(heads))
