"""Supervision by a reconstruction's points, which are exact and never lie on moving things."""

from __future__ import annotations

import torch
from torch import Tensor

from train.losses.term import Need, Step, Term
from train.losses.true_depth import depth_loss

FEWEST = 10
"""Least number of points in an image that is judged by them."""


@torch.no_grad()
def in_units_of(disparity: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Depth of the batch's points (B, H, W), 0 where unknown.

    Depth of unknown unit is scaled to the prediction by the median ratio in each image.
    """
    points = batch['points'].clone()
    for image, found, relative in zip(points, disparity[:, 0], batch['relative'], strict=True):
        known = image > 0
        if relative and known.any():
            image[known] *= (1 / found[known] / image[known]).median()
    return points


@torch.no_grad()
def judged_points(disparity: Tensor, points: Tensor) -> dict[str, tuple[Tensor, int]]:
    """Abs Rel and delta < 1.25 at points, with each image scaled by the medians.

    Args:
        disparity: (B, 1, H, W), 1/depth as predicted.
        points: (B, H, W) depth, 0 where unknown; images with fewer than 10 points do not count.

    Returns:
        By name, the mean over images and the number of images; empty without any.
    """
    sums, count = disparity.new_zeros(2), 0
    for found, truth in zip(1 / disparity[:, 0], points, strict=True):
        known = truth > 0
        if known.sum() < FEWEST:
            continue
        found, truth = found[known], truth[known]
        found = found * (truth / found).median()
        near = torch.maximum(found / truth, truth / found) < 1.25
        sums += torch.stack([((found - truth).abs() / truth).mean(), near.float().mean()])
        count += 1
    return (
        {}
        if not count
        else {
            'points_abs_rel': (sums[0] / count, count),
            'points_delta1': (sums[1] / count, count),
        }
    )


def _term(step: Step) -> Tensor:
    return depth_loss(step.disparity, in_units_of(step.disparity, step.batch))


TERM = Term(
    name='points',
    help="weight of the depth of a reconstruction's points (python -m train structure)",
    function=_term,
    metric=True,
    needs=(Need('points', 'points'),),
)
