"""The multi-task network: depth and semantics from one shared encoder."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from train.networks.decoder import Decoder
from train.networks.encoder import Encoder

MIN_DEPTH, MAX_DEPTH = 0.1, 100.0


class Prediction(NamedTuple):
    """What a depth network says about images (B, 3, H, W).

    Attributes:
        disparities: (B, 1, h, w) 1/depth in 1/model units, finest first.
        logits: (B, classes, h, w), or None without semantics.
        features: of the depth decoder, finest first, for the semantics-guided triplet loss; empty
            where the network has none to offer.
    """

    disparities: list[Tensor]
    logits: Tensor | None
    features: list[Tensor]


class PerceptionNet(nn.Module):
    """Shared encoder, a depth decoder and a semantic decoder.

    Args:
        classes: number of semantic classes.
        pretrained: start the encoder from ImageNet weights.
    """

    def __init__(self, classes: int = 19, pretrained: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(pretrained)
        self.depth = Decoder(self.encoder.channels, 1, heads=3)
        self.semantics = Decoder(self.encoder.channels, classes, heads=1)

    def forward(self, image: Tensor) -> Prediction:
        """Predict from images (B, 3, H, W) in 0..1.

        Returns:
            Disparities at 1/2, 1/4 and 1/8 of the image size, in 0.01..10 (see
            :func:`disparity`), and class logits at 1/2.
        """
        features = self.encoder(image)
        return Prediction([disparity(x) for x in self.depth(features)],
                          self.semantics(features)[0], [])


def disparity(logits: Tensor) -> Tensor:
    """Disparity 1/depth of raw head outputs, so that depth lies in 0.1..100 model units."""
    low, high = 1 / MAX_DEPTH, 1 / MIN_DEPTH
    return low + (high - low) * logits.float().sigmoid()


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize (B, C, h, w) -> (B, C, height, width), edges aligned to edges."""
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)
