"""Supervision of the semantic branch by (pseudo-)labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from depth_ros.core.labels import UNLABELED
from train.losses.reduction import masked_mean
from train.losses.term import Need, Step, Term


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the logits' resolution, mean over labelled pixels; 0 without any.

    Args:
        logits: (B, classes, h, w).
        labels: (B, H, W) int64, 255 unknown; the nearest label is taken at other sizes.
    """
    if labels.shape[1:] != logits.shape[2:]:
        labels = F.interpolate(labels[:, None].float(), logits.shape[2:], mode='nearest-exact')
        labels = labels[:, 0].long()
    losses = F.cross_entropy(logits, labels, ignore_index=UNLABELED, reduction='none')
    return masked_mean(losses, labels != UNLABELED, empty='zero')


def _term(step: Step) -> Tensor:
    assert step.prediction.logits is not None
    return cross_entropy(step.prediction.logits.float(), step.batch['labels'])


TERM = Term(
    name='semantic',
    help='weight of the cross-entropy',
    function=_term,
    needs=(Need('logits', 'semantic'), Need('labels', 'semantic')),
    always=True,
)
