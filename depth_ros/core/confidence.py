"""How far a motion may be trusted, and why not further."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

DOUBTFUL = 0.5
"""Trust below which a motion should not be relied on."""


@dataclass(frozen=True)
class Confidence:
    """How far a motion may be trusted.

    Attributes:
        trust: 0 (not at all) to 1.
        reasons: what makes it less than ``DOUBTFUL``, or the worst thing otherwise; the same words
            for the same cause.
    """

    trust: float
    reasons: tuple[str, ...] = ()


SURE = Confidence(1.0)


def judge(
    *,
    corners: int,
    inliers: float,
    residual: float,
    scale_sigma: float | None,
    network: float | None,
    ready: bool,
) -> Confidence:
    """How far a motion from corners may be trusted: as far as the worst of its signs.

    Args:
        corners: how many agree with the motion.
        inliers: their share of those that were found again.
        residual: their median distance from where the motion puts them, pixels.
        scale_sigma: relative standard deviation of the unit's metres; ``None``: not known.
        network: how far the pose network's motion is from this one, as a share of the motion;
            ``None``: not compared.
        ready: whether depths of the corners are known.
    """
    signs = {
        'few corners agree with the motion': _rise(corners, 15, 80),
        'a large part of the image moves differently': _rise(inliers, 0.25, 0.7),
        'corners are not where the motion puts them': 1 - _rise(residual, 0.5, 1.5),
        'the camera only turns, or its first motion is too short to measure': 1.0 if ready else 0.4,
        'the scale is not known': 1 - _rise(0.3 if scale_sigma is None else scale_sigma, 0.1, 0.5),
        'the pose network sees another motion': 1 - 0.4 * _rise(network or 0.0, 0.5, 2.0),
    }
    trust = min(signs.values())
    reasons = tuple(text for text, sign in signs.items() if sign < DOUBTFUL)
    if not reasons and trust < 1:
        reasons = (min(signs, key=lambda text: signs[text]),)
    return Confidence(round(trust, 3), reasons)


def _rise(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, straight between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def mean_confidence(found: Sequence[Confidence]) -> Confidence:
    """The mean trust of many motions, and what most often made one doubtful."""
    trust = sum(c.trust for c in found) / len(found)
    doubts = Counter(reason for c in found if c.trust < DOUBTFUL for reason in c.reasons)
    often = tuple(reason for reason, n in doubts.most_common(3) if n >= 0.1 * len(found))
    return Confidence(round(trust, 3), often)
