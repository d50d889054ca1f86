"""FSRE-Depth's decoder: from encoder features to per-pixel outputs at up to the image size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ReflectConv(nn.Conv2d):
    """3x3 convolution with reflection padding, then ELU if ``activate``.

    For the backward pass only its inputs and its output are kept. The padded (doubled, joined) copy
    that the convolution reads would take most of a decoder's memory, and is cheap to compute again.
    """

    def __init__(self, in_channels: int, out_channels: int, activate: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3)
        self.activate = activate

    def forward(self, x: Tensor, skip: Tensor | None = None, double: bool = False) -> Tensor:
        """Convolve ``x`` (B, C, h, w).

        Args:
            x: the input.
            skip: joined to ``x`` as further channels, if given.
            double: enlarge ``x`` to twice its size before that.
        """
        if torch.compiler.is_compiling():  # exported graphs quantise best with the plain operations
            y = F.conv2d(_padded(x, skip, double), self.weight, self.bias)
            return _elu(y) if self.activate else y
        tensors = autocast(x, skip, self.weight, self.bias)
        # Fewer multiplications in more operations: faster on CPUs, where multiplications dominate.
        if double and x.device.type == 'cpu':
            return _DoubledConv.apply(*tensors, self.activate)
        return _ReflectConv.apply(*tensors, double, self.activate)


class _ReflectConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        skip: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        double: bool,
        activate: bool,
    ) -> Tensor:
        y = F.conv2d(_padded(x, skip, double), weight, bias)
        ctx.double = double
        return _activated(ctx, x, skip, weight, y, activate)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, skip, weight, gradient = _before_activation(ctx, gradient)
        x = x.detach().requires_grad_()
        skip = None if skip is None else skip.detach().requires_grad_()
        with torch.enable_grad():
            padded = _padded(x, skip, ctx.double)
        of_padded, of_weight = _conv_backward(gradient, padded, weight)
        found = torch.autograd.grad(padded, [t for t in (x, skip) if t is not None], of_padded)
        of_x, of_skip = (*found, None)[:2]
        return of_x, of_skip, of_weight, gradient.sum((0, 2, 3)), None, None


class _DoubledConv(torch.autograd.Function):
    """:class:`_ReflectConv` with ``double``, by 4 multiplications per output instead of 9.

    Row 2i + a of the output depends on rows i - 1 + a and i + a of x, weighted by the kernel's rows
    w0 and w1 + w2 if a = 0, by w0 + w1 and w2 if a = 1. The same holds for columns 2j + b. So each
    of the four phases (a, b) of the output is a convolution of x by its own 2x2 kernel. Reflecting
    the doubled x at its border is the same as repeating the border of x.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, activate: bool
    ) -> Tensor:
        of_x, of_skip = weight.tensor_split((x.shape[1],), 1)
        y = _doubled_conv(x, of_x, bias)
        if skip is not None:
            y += F.conv2d(_padded(skip), of_skip)
        return _activated(ctx, x, skip, weight, y, activate)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, skip, weight, gradient = _before_activation(ctx, gradient)
        of_x, of_skip = weight.tensor_split((x.shape[1],), 1)
        sums = _kernel_sums(of_x)
        leaves = [t.detach().requires_grad_() for t in (x, skip) if t is not None]
        with torch.enable_grad():
            padded = [*_padded_for_phases(leaves[0]), *map(_padded, leaves[1:])]
        # Four gradients for x, one per phase, then one for ``skip`` if there is one.
        of_padded, of_kernels = zip(
            *map(
                _conv_backward,
                (*_of_phases(gradient), gradient),
                padded,
                (*_of_phases(sums), of_skip),
            ),
            strict=True,
        )
        of_x, of_skip = (*torch.autograd.grad(padded, leaves, of_padded), None)[:2]
        of_sums = torch.empty_like(sums)
        for of_phase, of_kernel in zip(_of_phases(of_sums), of_kernels[:4], strict=True):
            of_phase.copy_(of_kernel)
        of_weight = torch.cat([_window_sums(of_sums), *of_kernels[4:]], 1)
        return of_x, of_skip, of_weight, gradient.sum((0, 2, 3)), None


def _doubled_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    y = x.new_empty(batch, 2 * height, 2 * width, len(weight)).permute(0, 3, 1, 2)
    kernels = _of_phases(_kernel_sums(weight))
    for phase, padded, kernel in zip(_of_phases(y), _padded_for_phases(x), kernels, strict=True):
        phase.copy_(F.conv2d(padded, kernel, bias))
    return y


_PHASES = [(a, b) for a in (0, 1) for b in (0, 1)]


def _of_phases(x: Tensor) -> list[Tensor]:
    """Views (B, C, h, w) of every other row and column of (B, C, 2h, 2w)."""
    return [x[:, :, a::2, b::2] for a, b in _PHASES]


def _padded_for_phases(x: Tensor) -> Iterator[Tensor]:
    return (F.pad(x, (1 - b, b, 1 - a, a), mode='replicate') for a, b in _PHASES)


def _kernel_sums(weight: Tensor) -> Tensor:
    """Kernels (O, I, 3, 3) -> (O, I, 4, 4), rows and columns w0, w0 + w1, w1 + w2, w2."""
    return _window_sums(F.pad(weight, (1, 1, 1, 1)))


def _window_sums(x: Tensor) -> Tensor:
    """Sums of 2x2 windows. They also turn the gradient by kernel sums into that by kernels."""
    return F.avg_pool2d(x, 2, 1, divisor_override=1)


def _conv_backward(gradient: Tensor, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of x and weight of their convolution."""
    return torch.ops.aten.convolution_backward(
        gradient,
        x.detach(),
        weight,
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, False],
    )[:2]


def _padded(x: Tensor, skip: Tensor | None = None, double: bool = False) -> Tensor:
    if double:
        x = F.interpolate(x, scale_factor=2.0, mode='nearest')
    if skip is not None:
        x = torch.cat([x, skip], 1)
    return F.pad(x, (1, 1, 1, 1), mode='reflect')


def _elu(x: Tensor) -> Tensor:
    """ELU, which overwrites ``x`` where no gradient is needed."""
    if torch.is_grad_enabled():
        return F.elu(x)
    if x.is_cuda or torch.compiler.is_compiling():
        return F.elu(x, inplace=True)
    # torch's own ELU takes several times as long on CPUs.
    negative = x.clamp(max=0).exp_().sub_(1)
    return x.clamp_(min=0).add_(negative)


def autocast(x: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """Cast tensors to the type of autocast where that is on; ``None`` stays ``None``.

    Autocast itself does not reach into an ``autograd.Function``.
    """
    tensors = [x, *others]
    if not torch.is_autocast_enabled(x.device.type):
        return tensors
    dtype = torch.get_autocast_dtype(x.device.type)
    return [t if t is None else t.to(dtype) for t in tensors]


def _activated(
    ctx, x: Tensor, skip: Tensor | None, weight: Tensor, y: Tensor, activate: bool
) -> Tensor:
    """Activate the convolution's output ``y``, and save what the backward pass needs."""
    if activate:
        y = _elu(y)
    ctx.save_for_backward(x, skip, weight, y if activate else None)
    return y


def _before_activation(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The saved x, skip and weight, and the gradient by the convolution's output."""
    *kept, y = ctx.saved_tensors
    return *kept, gradient if y is None else gradient * (y + 1).clamp_(max=1)


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

    It has no ``forward``: the network that holds it runs the stages, as other tasks may act between
    them.

    Args:
        encoder_channels: channels of the encoder's features at 1/2 ... 1/32.
        out_channels: channels of every head's output.
        heads: number of heads; head s works at 1/2^s of the image size.
    """

    widths = (256, 128, 64, 32, 16)

    def __init__(self, encoder_channels: Sequence[int], out_channels: int, heads: int) -> None:
        super().__init__()
        inputs = (encoder_channels[4], *self.widths)
        skips = (*encoder_channels[3::-1], 0)
        self.stages = nn.ModuleList(Stage(inputs[i], skips[i], self.widths[i]) for i in range(5))
        self.heads = nn.ModuleList(
            ReflectConv(self.widths[4 - s], out_channels, activate=False) for s in range(heads)
        )
