"""What the networks return, and how raw outputs become disparities."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

MIN_DEPTH, MAX_DEPTH = 0.1, 100.0


class Prediction(NamedTuple):
    """What a depth network says about images (B, 3, H, W).

    Attributes:
        disparities: (B, 1, h, w) 1/depth in 1/model units, finest first.
        logits: (B, classes, h, w), or None without semantics.
        features: (B, C, h, w) of the depth decoder, finest first, on which the semantics-guided
            triplet loss acts; empty where the network has none.
    """

    disparities: list[Tensor]
    logits: Tensor | None
    features: list[Tensor]


class Motion(NamedTuple):
    """What a pose network says about a batch of B samples.

    Attributes:
        transforms: per source, T_source_target (B, 4, 4).
        intrinsics: (B, 3, 3) at the images' size, given or learnt.
        masks: per scale, finest first, explainability logits (B, 2 sources, h, w); empty where the
            network has none.
    """

    transforms: list[Tensor]
    intrinsics: Tensor
    masks: list[Tensor]


class DepthRange(NamedTuple):
    """What depth a network can say, and how its raw outputs become disparities.

    Attributes:
        nearest, farthest: depth in model units.
        logarithmic: the logarithm of disparity is linear in the sigmoid of the raw output, so that
            the relative resolution is the same at all depths. Otherwise disparity itself is linear,
            and all depths beyond a tenth of the range share the last few percent of the sigmoid.
    """

    nearest: float = MIN_DEPTH
    farthest: float = MAX_DEPTH
    logarithmic: bool = False

    def disparity(self, raw: Tensor) -> Tensor:
        """Disparity 1/depth of raw head outputs."""
        share = raw.float().sigmoid()
        low, high = 1 / self.farthest, 1 / self.nearest
        if self.logarithmic:
            return (math.log(low) + (math.log(high) - math.log(low)) * share).exp()
        return low + (high - low) * share


DEFAULT_RANGE = DepthRange()
"""The range of both papers."""


class DepthNet(nn.Module):
    """Base of the depth networks: ``forward(image)`` returns a :class:`Prediction`.

    Each network says as class attributes what it can do.

    Attributes:
        outputs: what it has besides disparities: 'logits' (if made with semantics), 'features'.
        ranged: whether its depth range can be chosen.
        depth_range: the range of a ranged network.
        attends: whether it can have cross-task attention.
        min_size: least height and width of an image, in pixels.
    """

    outputs: tuple[str, ...] = ()
    ranged: bool = False
    depth_range: DepthRange = DEFAULT_RANGE
    attends: bool = False
    min_size: int = 32

    def prune(self, semantics: bool) -> None:
        """Drop what the finest disparity does not need.

        Args:
            semantics: keep what the class logits need, too.
        """
        raise NotImplementedError


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize (B, C, h, w) -> (B, C, height, width), edges aligned to edges."""
    if x.shape[2:] == (height, width):
        return x  # torch would compute every pixel from itself
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)
