"""The pose network: relative motion of two consecutive images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.networks.decoder import conv_block


class PoseNet(nn.Module):
    """Seven stride-2 convolutions, 1x1 convolution, spatial mean, x0.01 (SfMLearner, section 3.5).

    Narrower than the paper's in its last layers and with batch norm, which makes it a quarter of
    the size and lets it train at higher learning rates.
    """

    widths = (16, 32, 64, 96, 128, 192, 192)

    def __init__(self) -> None:
        super().__init__()
        kernels = (7, 5, 3, 3, 3, 3, 3)
        channels = (6, *self.widths)
        self.layers = nn.Sequential(*(
            conv_block(channels[i], channels[i + 1], kernels[i], stride=2) for i in range(7)))
        self.head = nn.Conv2d(channels[-1], 6, 1)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Pose (B, 6) T_previous_current of images (B, 3, H, W) in 0..1, in temporal order.

        Rotation vector in radians, then translation in model units (see
        ``depth_ros.contract.POSE_CONVENTION``).
        """
        images = (torch.cat([previous, current], 1) - 0.45) / 0.225
        # Networks start near no motion: small outputs keep the first warps inside the image.
        return 0.01 * self.head(self.layers(images)).float().mean((2, 3))
