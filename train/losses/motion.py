"""Supervision of the pose network by known motion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.losses.term import Need, Step, Term

FAST = 0.3
"""Least length in metres that errors of translation are divided by."""
ROTATION = 20.0
"""Weight of a radian against a unit of relative translation: 0.05 is 3 degrees or 100 %."""


def motion_loss(transforms: Sequence[Tensor], truth: Tensor, fast: float = FAST) -> Tensor:
    """|t - t'| / max(|t'|, fast) + 20 |R - R'| / sqrt(2), the mean over the known motions.

    |R - R'| / sqrt(2) is 2 sin(a / 2) of the angle a between the rotations, so nearly a itself.

    Args:
        transforms: per source, T_source_target (B, 4, 4) as predicted.
        truth: (B, S, 4, 4) T_source_target, metres, NaN where unknown.
        fast: least length that errors of translation are divided by, metres.

    Returns:
        Scalar; a zero that can be differentiated where nothing is known.
    """
    predicted = torch.stack(tuple(transforms), 1)
    known = truth.isfinite().flatten(2).all(2)
    truth = torch.where(known[..., None, None], truth, torch.eye(4, device=truth.device))
    moved = (predicted[..., :3, 3] - truth[..., :3, 3]).square().sum(-1)
    length = truth[..., :3, 3].norm(dim=-1).clamp(min=fast)
    turned = (predicted[..., :3, :3] - truth[..., :3, :3]).square().sum((-1, -2)) / 2
    # Never 0, where the slope of the root is infinite: pairs without motion come close to it.
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
