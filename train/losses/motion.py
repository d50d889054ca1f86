"""Known motion as the pose network's target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.losses.term import Need, Step, Term

FAST = 0.3
"""Metres: motion errors count relative to the length of the motion, but not less than this."""
ROTATION = 20.0
"""Weight of a radian against a unit of relative translation: 0.05 is 3 degrees or 100 %."""


def motion_loss(transforms: Sequence[Tensor], truth: Tensor, fast: float = FAST) -> Tensor:
    """|t - t'| / max(|t'|, fast) + 20 |R - R'| / sqrt(2), the mean over the known motions.

    |R - R'| / sqrt(2) is 2 sin(a / 2) of the angle a between the rotations, so nearly a itself.

    Args:
        transforms: per source, T_source_target (B, 4, 4) as predicted.
        truth: (B, S, 4, 4) T_source_target, metres, NaN where unknown.
        fast: metres.

    Returns:
        Scalar; a zero that can be differentiated where nothing is known.
    """
    predicted = torch.stack(tuple(transforms), 1)
    known = truth.isfinite().flatten(2).all(2)
    truth = torch.where(known[..., None, None], truth, torch.eye(4, device=truth.device))
    moved = (predicted[..., :3, 3] - truth[..., :3, 3]).square().sum(-1)
    length = truth[..., :3, 3].norm(dim=-1).clamp(min=fast)
    turned = (predicted[..., :3, :3] - truth[..., :3, :3]).square().sum((-1, -2)) / 2
    # The square root's slope is infinite at 0, where still pairs end.
    error = ((moved + 1e-8).sqrt()) / length + ROTATION * (turned + 1e-10).sqrt()
    return (error * known).sum() / known.sum().clamp(min=1)


def _term(step: Step) -> Tensor:
    return motion_loss(step.motion.transforms, step.batch['motion'])


TERM = Term(
    name='motion',
    help='weight of known motion as the target of the pose network',
    function=_term,
    metric=True,
    needs=(Need('motion', 'motion'), Need('transforms', 'motion')),
)
