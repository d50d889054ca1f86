"""Supervision of the semantic branch by (pseudo-)labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from train.losses.reduction import masked_mean

IGNORE = 255


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the logits' resolution, mean over labelled pixels; 0 without any.

    Args:
        logits: (B, classes, h, w).
        labels: (B, H, W) int64, 255 unknown; the nearest label is taken at other sizes.
    """
    if labels.shape[1:] != logits.shape[2:]:
        labels = F.interpolate(labels[:, None].float(), logits.shape[2:], mode='nearest-exact')
        labels = labels[:, 0].long()
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction='none')
    return masked_mean(losses, labels != IGNORE, empty='zero')
