"""Supervision by recorded speed, which makes depth metric."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.losses.reduction import masked_mean
from train.losses.term import Need, Step, Term


def velocity_loss(transforms: Sequence[Tensor], distances: Tensor) -> Tensor:
    """| |t| - distance |, which makes depth metric (PackNet, Guizilini et al. 2020, eq. 6).

    Args:
        transforms: per source, T_source_target (B, 4, 4) in model units.
        distances: (B, S) metres travelled between target and each source, NaN where unknown.

    Returns:
        The mean over the known distances, in metres; 0 if none is known.
    """
    lengths = torch.stack([t[:, :3, 3].norm(dim=1) for t in transforms], 1)
    known = distances.isfinite()
    return masked_mean((lengths - distances.nan_to_num()).abs(), known, empty='zero')


def _term(step: Step) -> Tensor:
    return velocity_loss(step.motion.transforms, step.batch['distance'])


TERM = Term(
    name='velocity',
    help='weight of recorded speed, which makes the scale metric',
    function=_term,
    metric=True,
    needs=(Need('distance', 'velocity'), Need('transforms', 'velocity')),
)
