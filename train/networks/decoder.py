"""A light decoder: from encoder features to per-pixel outputs at half the image size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_block(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    """Convolution with zero padding, batch norm (folded away at export), ReLU.

    Zero padding instead of the papers' reflection padding: zero padding costs nothing on any
    runtime, reflection padding is an operation of its own on most.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Decoder(nn.Module):
    """U-Net decoder with an output head at 1/2, 1/4 and 1/8 of the image size.

    Args:
        encoder_channels: channels of the encoder's features at 1/2 ... 1/32.
        out_channels: channels of every head's output.
        heads: number of heads, the first at 1/2 of the image size.
    """

    widths = (24, 32, 48, 64)

    def __init__(self, encoder_channels: Sequence[int], out_channels: int, heads: int) -> None:
        super().__init__()
        self.reduce = conv_block(encoder_channels[4], self.widths[3], kernel=1)
        below = (*self.widths[1:], self.widths[3])
        self.up = nn.ModuleList(conv_block(below[i], self.widths[i]) for i in range(4))
        self.fuse = nn.ModuleList(
            conv_block(self.widths[i] + encoder_channels[i], self.widths[i]) for i in range(4)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(self.widths[i], out_channels, 3, padding=1) for i in range(heads)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Head outputs (B, out_channels, H/2^(i+1), W/2^(i+1)), finest first."""
        x = self.reduce(features[4])
        outputs: list[Tensor] = []
        for level in (3, 2, 1, 0):
            x = F.interpolate(self.up[level](x), scale_factor=2.0, mode='nearest')
            x = self.fuse[level](torch.cat([x, features[level]], 1))
            if level < len(self.heads):
                outputs.insert(0, self.heads[level](x))
        return outputs
