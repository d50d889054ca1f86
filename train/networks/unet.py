"""FSRE-Depth's decoder: from encoder features to per-pixel outputs at up to the image size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def reflect_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution with reflection padding, ELU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode='reflect'),
                         nn.ELU(inplace=True))


class Stage(nn.Module):
    """Convolve, double the size, join the encoder's feature of that size, convolve."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = reflect_block(in_channels, out_channels)
        self.fuse = reflect_block(out_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, in, h, w) and skip (B, skip, 2h, 2w), or None -> (B, out, 2h, 2w)."""
        x = F.interpolate(self.reduce(x), scale_factor=2.0, mode='nearest')
        return self.fuse(x if skip is None else torch.cat([x, skip], 1))


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
            nn.Conv2d(self.widths[4 - s], out_channels, 3, padding=1, padding_mode='reflect')
            for s in range(heads))
