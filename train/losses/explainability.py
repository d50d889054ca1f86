"""SfMLearner's explainability masks: where each source is trusted to explain the target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from train.losses.term import Need, Step, Term


def explainability_weights(logits: Tensor) -> list[Tensor]:
    """Per source, the trust (B, 1, H, W) in 0..1 of the pairwise softmax (SfMLearner, sec. 3.5).

    Args:
        logits: (B, 2 S, H, W), for each of the S sources two channels: 'no' and 'yes'.
    """
    return list(_log_odds(logits).sigmoid().split(1, 1))


def explainability_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the masks to 1, the mean over sources and pixels (SfMLearner, sec. 3.3).

    Without it, trusting no source at all would be the best mask.

    Args:
        logits: as of :func:`explainability_weights`.
    """
    return F.softplus(-_log_odds(logits)).mean()


def _log_odds(logits: Tensor) -> Tensor:
    no, yes = logits.unflatten(1, (-1, 2)).unbind(2)
    return yes - no


def _term(step: Step) -> Tensor:
    return torch.stack([explainability_loss(m.float()) for m in step.motion.masks]).sum()


TERM = Term(
    name='explainability',
    help="weight of the explainability masks' regulariser; 0: no masks (sfm)",
    function=_term,
    needs=(Need('masks', 'explainability'),),
    # The least error of the sources leaves no choice to the masks, whose scales are the
    # disparities' own.
    requires={'reduction': 'mean', 'full_resolution': False},
)
