"""Semantics-guided triplet loss: depth features part where semantics do (FSRE-Depth, sec. 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from depth_ros.core.labels import UNLABELED
from train.losses.reduction import masked_mean
from train.losses.term import Need, Step, Term
from train.setting import setting

BORDERS = ('valid', 'paper')
MIN_SQUARED = 1e-9  # least squared distance, so that the slope of its root is finite


def semantic_triplet_loss(
    features: Sequence[Tensor],
    labels: Tensor,
    *,
    margin: float = 0.3,
    patch: int = 5,
    threshold: int = 4,
    border: str = 'valid',
) -> tuple[Tensor, Tensor]:
    """Sum over levels of 2^-s times the mean over boundary anchors of [d+ - d- + margin]+.

    d+ and d- are the mean distances of the anchor's feature from those of its own class (itself
    included) and of the other classes in the patch around it; the distance of unit vectors is
    sqrt(2 - 2 cos).

    Args:
        features: (B, C, h, w) of the depth decoder; level s = log2(H / h).
        labels: (B, H, W), 255 unknown; the nearest label is taken at each level.
        margin: by which other classes should be farther than the own class.
        patch, threshold, border: as of :func:`boundary_anchors`.

    Returns:
        The loss, a differentiable 0 without anchors, and the number of anchors on this process.
    """
    loss = labels.new_zeros((), dtype=torch.float32)
    anchors = labels.new_zeros((), dtype=torch.int64)
    for feature in features:
        level = math.log2(labels.shape[1] / feature.shape[2])
        nearest = F.interpolate(labels[:, None].float(), feature.shape[2:])[:, 0]
        same, other, is_anchor = _compare(nearest, patch, threshold, border)
        feature = feature.to(torch.promote_types(feature.dtype, torch.float32))  # from autocast
        distances = _PatchDistances.apply(F.normalize(feature, dim=1), patch)
        positive = (distances * same).sum(1) / (same.sum(1) + 1)
        negative = (distances * other).sum(1) / other.sum(1).clamp(min=1)
        hinge = (positive - negative + margin).clamp(min=0)
        loss = loss + masked_mean(hinge, is_anchor, empty='zero') / 2**level
        anchors = anchors + is_anchor.sum()
    return loss, anchors


def boundary_anchors(
    labels: Tensor, *, patch: int = 5, threshold: int = 4, border: str = 'valid'
) -> Tensor:
    """Pixels (B, H, W), bool, at a boundary of semantics: |P+| > T and |P-| > T.

    P+ and P- are the pixels of the patch of the anchor's class (itself included) and of others.

    Args:
        labels: (B, H, W), 255 unknown: neither an anchor nor of any class.
        patch: side of the patch in pixels, odd.
        threshold: T.
        border: 'valid' takes anchors whose patch lies inside the image. 'paper' is what the
            paper's code does: counts of exactly T are enough, unknown is a class like any other,
            and what lies beyond the image is one more class with features of zero, so that the
            image's border counts as a boundary.

    Raises:
        ValueError: if the patch is even, or ``border`` unknown.
    """
    return _compare(labels, patch, threshold, border)[2]


def _compare(
    labels: Tensor, patch: int, threshold: int, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the class of each pixel with those of its neighbours.

    Returns:
        Masks (B, patch^2 - 1, H, W), in the order of :func:`_shifts`, of the neighbours of the same
        class and of those of other classes; and the mask (B, H, W) of the anchors.
    """
    if patch % 2 == 0 or border not in BORDERS:
        raise ValueError(f'patch {patch} must be odd and border {border!r} one of {BORDERS}')
    labels = labels.to(torch.int16)
    radius = patch // 2
    padded = F.pad(labels, [radius] * 4, value=UNLABELED if border == 'valid' else -1)
    height, width = labels.shape[1:]
    neighbours = torch.stack(
        [
            padded[:, radius + dy : radius + dy + height, radius + dx : radius + dx + width]
            for dy, dx in _shifts(patch)
        ],
        1,
    )
    same = neighbours == labels[:, None]
    other = ~same
    if border == 'paper':
        return same, other, (same.sum(1) + 1 >= threshold) & (other.sum(1) >= threshold)
    known = (neighbours != UNLABELED) & (labels != UNLABELED)[:, None]
    same, other = same & known, other & known
    is_anchor = (same.sum(1) + 1 > threshold) & (other.sum(1) > threshold)
    inside = torch.zeros_like(is_anchor)
    inside[:, radius : height - radius, radius : width - radius] = True
    return same, other, is_anchor & inside


def _shifts(patch: int) -> list[tuple[int, int]]:
    """(dy, dx) to all neighbours in a patch: one half, then their opposites in the same order."""
    reach = range(-(patch // 2), patch // 2 + 1)
    half = [(dy, dx) for dy in reach for dx in reach if (dy, dx) > (0, 0)]
    return half + [(-dy, -dx) for dy, dx in half]


class _PatchDistances(torch.autograd.Function):
    """Distances (B, patch^2 - 1, H, W) of unit features (B, C, H, W) from their neighbours.

    Distance is symmetric, so only half of the shifts are computed. Products are summed over
    channels shift by shift, so that no tensor of B x C x H x W x patch^2 elements is ever in
    memory. Features beyond the image are zero: the distance to them is sqrt(2).
    """

    @staticmethod
    def forward(ctx, features: Tensor, patch: int) -> Tensor:
        batch, _, height, width = features.shape
        pairs = _pairs(patch, height, width)
        result = features.new_full((batch, 2 * len(pairs), height, width), math.sqrt(2))
        for k, (here, there) in enumerate(pairs):
            cosine = (features[here] * features[there]).sum(1)
            distance = (2 - 2 * cosine).clamp_(min=MIN_SQUARED).sqrt_()
            result[:, k][here] = distance
            result[:, len(pairs) + k][there] = distance
        ctx.save_for_backward(features, result)
        ctx.pairs = pairs
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        features, distances = ctx.saved_tensors
        # d sqrt(2 - 2 c) / dc = -1 / distance; 0 where the distance is clamped.
        slope = (gradient / -distances).masked_fill_(distances**2 <= MIN_SQUARED, 0)
        result = torch.zeros_like(features)
        for k, (here, there) in enumerate(ctx.pairs):
            pair = (slope[:, k][here] + slope[:, len(ctx.pairs) + k][there])[:, None]
            result[here].addcmul_(pair, features[there])
            result[there].addcmul_(pair, features[here])
        return result, None


def plain_patch_distances(features: Tensor, patch: int) -> Tensor:
    """The same as :class:`_PatchDistances`, but differentiated by autograd.

    Tests compare with it.
    """
    radius = patch // 2
    height, width = features.shape[2:]
    padded = F.pad(features, [radius] * 4)
    cosines = [
        (
            features
            * padded[:, :, radius + dy : radius + dy + height, radius + dx : radius + dx + width]
        ).sum(1)
        for dy, dx in _shifts(patch)
    ]
    return (2 - 2 * torch.stack(cosines, 1)).clamp(min=MIN_SQUARED).sqrt()


def _pairs(patch: int, height: int, width: int) -> list[tuple[tuple, tuple]]:
    """Per shift of the first half, indices of the pixels and of their neighbours."""

    def span(shift: int, size: int) -> slice:
        return slice(max(0, -shift), size - max(0, shift))

    shifts = _shifts(patch)
    return [
        ((..., span(dy, height), span(dx, width)), (..., span(-dy, height), span(-dx, width)))
        for dy, dx in shifts[: len(shifts) // 2]
    ]


def _term(step: Step) -> Tensor:
    loss, _ = semantic_triplet_loss(
        step.prediction.features, step.batch['labels'], border=step.settings.triplet_border
    )
    return loss


TERM = Term(
    name='triplet',
    help='weight of the semantics-guided triplet loss',
    function=_term,
    needs=(Need('features', 'triplet'), Need('labels', 'triplet')),
    settings={
        'triplet_border': setting(
            "anchors near the image's border: valid: their patches lie inside; paper: as in the "
            'code of FSRE-Depth',
            'valid',
            BORDERS,
        )
    },
)
