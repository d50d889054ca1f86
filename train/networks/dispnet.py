"""SfMLearner's depth network (section 3.5, figure 4a), after DispNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.networks.layers import conv_relu, crop_like, deconv_relu, init_xavier
from train.networks.prediction import DepthNet, Prediction


class DispNet(DepthNet):
    """Encoder of seven strided pairs of convolutions, decoder with skips, four disparities.

    Disparity is 10 sigmoid(x) + 0.01, and each but the finest also feeds the next stage.

    Args:
        batch_norm: see :mod:`train.networks.layers`.
    """

    widths = (32, 64, 128, 256, 512, 512, 512)
    kernels = (7, 5, 3, 3, 3, 3, 3)
    decoder_widths = (512, 512, 256, 128, 64, 32, 16)

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        inputs = (3, *self.widths)
        self.down = nn.ModuleList(
            nn.Sequential(
                conv_relu(inputs[i], inputs[i + 1], self.kernels[i], 2, batch_norm),
                conv_relu(inputs[i + 1], inputs[i + 1], self.kernels[i], 1, batch_norm),
            )
            for i in range(7)
        )
        below = (self.widths[-1], *self.decoder_widths)
        self.up = nn.ModuleList(
            deconv_relu(below[i], below[i + 1], batch_norm=batch_norm) for i in range(7)
        )
        skips = (*self.widths[5::-1], 0)
        # The last three stages see the coarser disparity.
        self.merge = nn.ModuleList(
            conv_relu(below[i + 1] + skips[i] + (i > 3), below[i + 1], batch_norm=batch_norm)
            for i in range(7)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(width, 1, 3, padding=1) for width in self.decoder_widths[3:]
        )
        init_xavier(self)

    def forward(self, image: Tensor) -> Prediction:
        """Disparities at 1/1, 1/2, 1/4 and 1/8 of the size of images (B, 3, H, W) in 0..1.

        Any size will do; those that do not halve evenly are rounded up on the way down.
        """
        skips = [2 * image - 1]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        x = skips.pop()
        disparities: list[Tensor] = []
        for i in range(7):
            skip = skips.pop()
            parts = [crop_like(self.up[i](x), skip)]
            if i < 6:
                parts.append(skip)
            if disparities:
                coarser = F.interpolate(disparities[0], scale_factor=2.0, mode='bilinear')
                parts.append(crop_like(coarser, skip))
            x = self.merge[i](torch.cat(parts, 1))
            if i > 2:
                logits = self.heads[i - 3](x).float()
                disparities.insert(0, 10 * logits.sigmoid() + 0.01)
        return Prediction(disparities, None, [])

    def prune(self, semantics: bool) -> None:
        """Drop nothing: the finest disparity needs the coarser ones."""
