"""Geometry consistency: the depth of neighbouring frames agrees on one scale."""

from __future__ import annotations

import torch
from torch import Tensor

from train.geometry import Projection, in_view, sample
from train.losses.reduction import masked_mean
from train.losses.term import Need, Step, Term


def geometry_consistency(
    disparity: Tensor, source_disparity: Tensor, transform: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor]:
    """Disagreement of two views' depth (Bian et al. 2019, eq. 5 to 7): |D - D'| / (D + D').

    D is the target's depth as seen from the source, D' the source's own depth where it sees the
    point. The loss makes all frames of a recording agree on one scale; moving objects and
    occlusions disagree, so that 1 minus the disagreement weighs the photometric error.

    Args:
        disparity: (B, 1, H, W) of the target.
        source_disparity: (B, 1, H, W) of the source.
        transform: (B, 4, 4) T_source_target.
        intrinsics: (B, 3, 3) of both at this size.

    Returns:
        The mean over the pixels that the source sees, and the weight (B, 1, H, W) in 0..1, which
        is 0 where the source does not see the pixel. (Detach it where it weighs another loss.)

    Raises:
        ValueError: if the source sees no pixel of the target.
    """
    grid, nearness, in_front = Projection(transform, intrinsics, *disparity.shape[2:])(disparity)
    valid = in_front & in_view(grid)
    depth = nearness / disparity
    source_depth = sample(1 / source_disparity, grid)
    # Behind the camera the depth is negative and the sum may be 0.
    difference = (depth - source_depth).abs() / (depth.clamp(min=0) + source_depth)
    return masked_mean(difference, valid), (1 - difference).masked_fill(~valid, 0)


def compare(step: Step) -> tuple[Tensor, list[Tensor]]:
    """Mean inconsistency of the target's depth with each source's; and per source the weights
    (B, 1, H, W) of :func:`geometry_consistency`, detached."""
    losses, weights = zip(
        *(
            geometry_consistency(step.disparity, source, transform, step.motion.intrinsics)
            for source, transform in zip(
                step.source_disparities, step.motion.transforms, strict=True
            )
        ),
        strict=True,
    )
    return torch.stack(losses).mean(), [w.detach() for w in weights]


TERM = Term(
    name='consistency',
    help='weight of the geometry consistency of depth over time',
    function=lambda step: step.once(compare)[0],
    needs=(Need('source_disparities', 'consistency'), Need('transforms', 'consistency')),
    always=True,
)
