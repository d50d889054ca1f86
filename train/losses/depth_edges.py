"""Supervision by the slopes of true depth, which makes borders sharp and walls flat."""

from __future__ import annotations

import torch
from torch import Tensor

from train.losses.reduction import masked_mean
from train.losses.term import Need, Step, Term

SCALES = 4
"""Sizes at which slopes are compared: 1, 1/2, 1/4 and 1/8."""


def depth_edges_loss(disparity: Tensor, depth: Tensor) -> Tensor:
    """Difference of the slopes of log depth, which makes borders sharp and walls flat.

    Mean over x and y, and the sum over four scales k, of |grad(R_k)| with R = log D_predicted -
    log D, between neighbours that are both known (MegaDepth, Li and Snavely 2018, eq. 3); scale k
    takes every 2^k-th pixel.

    Args:
        disparity, depth: as of :func:`train.losses.true_depth.depth_loss`. Meant for
            dense depth: sparse points have no neighbours and give 0.
    """
    known = depth > 0
    difference = -disparity[:, 0].log() - torch.where(known, depth, 1.0).log()
    total = difference.new_zeros(())
    for scale in range(SCALES):
        step = 2**scale
        r, seen = difference[:, ::step, ::step], known[:, ::step, ::step]
        for axis in (1, 2):
            if r.shape[axis] < 2:
                continue
            slope = r.diff(dim=axis).abs()
            size = seen.shape[axis] - 1
            both = seen.narrow(axis, 0, size) & seen.narrow(axis, 1, size)
            total = total + masked_mean(slope, both, empty='zero')
    return total


def _term(step: Step) -> Tensor:
    return depth_edges_loss(step.disparity, step.batch['depth'])


TERM = Term(
    name='depth_edges',
    help='weight of the slopes of true depth: sharp borders',
    function=_term,
    needs=(Need('depth', 'depth_edges'),),
)
