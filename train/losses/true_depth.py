"""True depth as supervision: of rendered drives, depth cameras, lidar."""

from __future__ import annotations

import torch
from torch import Tensor

from train.losses.term import Need, Step, Term

TOLERANCE = 0.3
"""Errors of log depth above this count as outliers: a wrong match, a thing that moved."""


def depth_loss(disparity: Tensor, depth: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Mean of rho(|log D_predicted - log D|) over the pixels whose depth is known.

    rho(e) = e up to the tolerance t, and t (1 + log(e / t)) beyond: the gradient of a point that
    is off by a factor of ten is an eighth of a good one's, and yet never zero, so that a network
    that knows nothing learns as well. Every image counts alike, however many points it has, up
    to a factor: weights are proportional to the square root of the number of points.

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
