"""Regularisers of the disparity."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from train.losses.term import Step, Term
from train.setting import setting


def edge_aware_smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """First-order smoothness of the mean-normalised disparity (Godard et al. 2019, eq. 3).

    |dx d*| exp(-|dx I|) + |dy d*| exp(-|dy I|) with d* = d / mean(d), which keeps the loss from
    shrinking the disparity.

    Args:
        disparity: (B, 1, H, W).
        image: (B, 3, H, W) in 0..1, at the same size.

    Returns:
        The mean, a scalar.
    """
    normalised = disparity / disparity.mean((2, 3), keepdim=True).clamp(min=1e-7)
    loss = disparity.new_zeros(())
    for dim in (2, 3):
        edges = image.diff(dim=dim).abs().mean(1, keepdim=True)
        loss = loss + (normalised.diff(dim=dim).abs() * (-edges).exp()).mean()
    return loss


def second_order_smoothness(disparity: Tensor) -> Tensor:
    """|dxx d| + 2 |dxy d| + |dyy d|, the mean of each (SfMLearner, section 3.3).

    A plane is perfectly smooth: its disparity is linear in the image. (SfMLearner's PyTorch port
    smooths the depth instead.)

    Args:
        disparity: (B, 1, H, W), at least 3x3.
    """
    dx, dy = disparity.diff(dim=3), disparity.diff(dim=2)
    return (
        dx.diff(dim=3).abs().mean() + 2 * dx.diff(dim=2).abs().mean() + dy.diff(dim=2).abs().mean()
    )


def _term(step: Step) -> Tensor:
    """sum_s 2^-s of each disparity's smoothness at its own scale s."""
    target, total = step.images[:, step.target], step.disparities[0].new_zeros(())
    for s, disparity in enumerate(step.disparities):
        if step.settings.smoothness_order == 2:
            loss = second_order_smoothness(disparity)
        else:
            image = F.interpolate(target, disparity.shape[2:], mode='area')
            loss = edge_aware_smoothness(disparity, image)
        total = total + loss / 2**s
    return total


TERM = Term(
    name='smoothness',
    help='weight of smoothness',
    function=_term,
    weight=1e-3,
    settings={
        'smoothness_order': setting(
            '1: edge-aware (Godard et al.); 2: of slopes (SfMLearner)', 1, (1, 2)
        )
    },
)
