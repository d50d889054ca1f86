"""The sky is far: supervision where there are no points and no true depth."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from depth_ros.inference.classes import SKY
from train.losses.reduction import masked_mean
from train.losses.term import Need, Step, Term

FAR = 80.0
"""Metres at which the sky is far enough."""


def sky_loss(disparity: Tensor, sky: Tensor, depth: float) -> Tensor:
    """Mean of max(0, log ``depth`` - log D_predicted) over the sky.

    Args:
        disparity: (B, 1, H, W), 1/depth as predicted.
        sky: (B, H, W) bool.
        depth: metres; sky farther than this costs nothing.
    """
    excess = F.relu(disparity[:, 0].log() + disparity.new_tensor(depth).log())
    return masked_mean(excess, sky, empty='zero')


def _term(step: Step) -> Tensor:
    # Without a known unit of depth, 80 m mean nothing.
    metric = ~step.batch['relative'][:, None, None]
    return sky_loss(step.disparity, (step.batch['labels'] == SKY) & metric, FAR)


TERM = Term(
    name='sky',
    help='weight of the sky being far',
    function=_term,
    needs=(Need('labels', 'sky'),),
)
