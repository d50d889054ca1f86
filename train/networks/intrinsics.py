"""Camera intrinsics from the pose network's features (Gordon et al., ICCV 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class IntrinsicsHead(nn.Module):
    """Focal lengths and principal point of the camera that took the images.

    Args:
        channels: number of channels of the pose network's bottleneck features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, 4)
        # Training starts from a centred camera with focal lengths of 0.69 times the image's size.
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, bottleneck: Tensor, width: int, height: int) -> Tensor:
        """Intrinsics (B, 3, 3) in pixels of images ``width`` x ``height``.

        fx = W softplus(a), fy = H softplus(b), and cx = W/2 - 1/2 + W c, cy = H/2 - 1/2 + H d,
        which may lie to either side of the image's centre.

        Args:
            bottleneck: (B, channels, h, w).
            width, height: size of the images, pixels.
        """
        x = self.layer(bottleneck.float().mean((2, 3)))
        size = x.new_tensor([width, height])
        focal = size * F.softplus(x[:, :2])
        center = size * (0.5 + x[:, 2:]) - 0.5
        last = x.new_tensor([0, 0, 1]).expand(len(x), 1, 3)
        return torch.cat([torch.cat([torch.diag_embed(focal), center[..., None]], 2), last], 1)
