"""True depth as supervision: of rendered drives, depth cameras, lidar."""

from __future__ import annotations

import torch
from torch import Tensor

from train.losses.term import Need, Step, Term

TOLERANCE = 0.3
"""Larger errors of log depth count as outliers, such as wrong matches and moving things."""


def depth_loss(disparity: Tensor, depth: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Mean of rho(|log D_predicted - log D|) over the pixels whose depth is known.

    rho(e) = e up to the tolerance t, and t (1 + log(e / t)) beyond it. The gradient at a point that
    is wrong by a factor of ten is an eighth of a good point's, but never zero, so that an untrained
    network learns, too. An image's weight is proportional to the square root of its number of
    points.

    Args:
        disparity: (B, 1, H, W), 1/depth as predicted, at the size of ``depth``.
        depth: (B, H, W) metres along the optical axis, 0 where unknown.
        tolerance: in logarithms of depth.

    Returns:
        Scalar; a zero that can be differentiated where nothing is known.
    """
    known = depth > 0
    target = torch.where(known, depth, 1.0).log()
    error = (-disparity[:, 0].log() - target).abs()
    error = torch.where(
        error > tolerance,
        tolerance * (1 + (error.clamp(min=tolerance) / tolerance).log()),
        error,
    )
    counts = known.flatten(1).sum(1).to(error.dtype)
    weight = (counts.clamp(min=1).rsqrt())[:, None, None] * known
    total = (error * weight).sum()
    return total / weight.sum().clamp(min=1e-6)


def _term(step: Step) -> Tensor:
    return depth_loss(step.disparity, step.batch['depth'])


TERM = Term(
    name='true_depth',
    help='weight of true depth, where there is some',
    function=_term,
    metric=True,
    needs=(Need('depth', 'true_depth'),),
)
