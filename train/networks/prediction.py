"""Return types of the networks, and the conversion of raw outputs to disparities."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

MIN_DEPTH, MAX_DEPTH = 0.1, 100.0


class Prediction(NamedTuple):
    """Output of a depth network for images (B, 3, H, W).

    Attributes:
        disparities: per scale, finest first, 1/depth in 1/model units, (B, 1, h, w).
        logits: class logits (B, classes, h, w); None without semantics.
        features: per scale, finest first, features of the depth decoder (B, C, h, w), on which the
            semantics-guided triplet loss acts; empty if the network has none.
    """

    disparities: list[Tensor]
    logits: Tensor | None
    features: list[Tensor]


class Motion(NamedTuple):
    """Output of a pose network for a batch of B samples.

    Attributes:
        transforms: per source, T_source_target (B, 4, 4), translation in model units.
        intrinsics: (B, 3, 3) in pixels at the images' size, given or learned.
        masks: per scale, finest first, explainability logits (B, 2 sources, h, w); empty if the
            network has none.
    """

    transforms: list[Tensor]
    intrinsics: Tensor
    masks: list[Tensor]


class DepthRange(NamedTuple):
    """Depths that a network can predict, and how its raw outputs become disparities.

    Attributes:
        nearest, farthest: depths in model units.
        logarithmic: whether the logarithm of disparity is linear in the sigmoid of the raw output,
            which gives the same relative resolution at all depths. Otherwise disparity itself is,
            and all depths beyond a tenth of the range share the last few percent of the sigmoid.
    """

    nearest: float = MIN_DEPTH
    farthest: float = MAX_DEPTH
    logarithmic: bool = False

    def disparity(self, raw: Tensor) -> Tensor:
        """Convert raw head outputs (any shape) to disparities 1/depth, in 1/model units."""
        share = raw.float().sigmoid()
        low, high = 1 / self.farthest, 1 / self.nearest
        if self.logarithmic:
            return (math.log(low) + (math.log(high) - math.log(low)) * share).exp()
        return low + (high - low) * share


DEFAULT_RANGE = DepthRange()
"""The range of both papers."""


class DepthNet(nn.Module):
    """Base of the depth networks: ``forward(image)`` returns a :class:`Prediction`.

    Class attributes tell what a network can do.

    Attributes:
        outputs: its outputs besides disparities: 'logits' (if made with semantics), 'features'.
        ranged: whether its depth range can be chosen.
        depth_range: the range of a ranged network.
        attends: whether it can have cross-task attention.
        min_size: smallest height and width of an image, pixels.
    """

    outputs: tuple[str, ...] = ()
    ranged: bool = False
    depth_range: DepthRange = DEFAULT_RANGE
    attends: bool = False
    min_size: int = 32

    def prune(self, semantics: bool) -> None:
        """Drop what the finest disparity does not need, in place.

        Args:
            semantics: whether to keep what the class logits need.
        """
        raise NotImplementedError


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize (B, C, h, w) -> (B, C, height, width), edges aligned to edges."""
    if x.shape[2:] == (height, width):
        return x  # torch would compute every pixel from itself
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)
