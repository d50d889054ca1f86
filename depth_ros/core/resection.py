"""The pose of one image against a keyframe, from corners that both show.

Points whose depth is known, well or hardly at all, count together: depth that is sure gives the
length of the translation, and the others its direction and the rotation, as an essential matrix
does. This is so because each inverse depth is solved for along with the pose, held by a prior as
strong as it is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from depth_ros.core.bundle import Points, adjust
from depth_ros.core.se3 import pose

THRESHOLD = 0.7
"""Pixels from its epipolar line within which a corner agrees with an essential matrix."""

SURPRISE = 0.5
"""Standard deviation of a translation from that by the last velocity, as a share of it."""

LEAST = 8
"""Fewer corners give no pose."""


@dataclass(frozen=True)
class Matches:
    """Corners of a keyframe that an image shows.

    Attributes:
        rays: (N, 3), x, y, 1 in the keyframe's optical frame.
        rho, weight: (N,), inverse depth there and 1 / its variance.
        seen: (N, 2), normalised coordinates in the image.
        focal: fx, fy, pixels.
        sigma: standard deviation of a coordinate, pixels.
        huber: multiple of sigma from which a residual's weight falls.
    """

    rays: np.ndarray
    rho: np.ndarray
    weight: np.ndarray
    seen: np.ndarray
    focal: tuple[float, float]
    sigma: float
    huber: float

    def points(self, rows: np.ndarray, rho: np.ndarray) -> tuple[Points, np.ndarray]:
        """Points and what was seen, of these rows, as :func:`adjust` takes them."""
        count = len(rho)
        points = Points(
            self.rays[rows], np.zeros(count, int), rho, self.rho[rows], self.weight[rows]
        )
        seen = np.stack([self.rays[rows, :2], self.seen[rows]], axis=1)
        return points, seen


@dataclass(frozen=True)
class Resected:
    """A pose.

    Attributes:
        current_key: T_current_key 4x4.
        information: 6x6 of its correction (v, w).
        agree: bool (N,), which corners agree with it.
        rho: (N,), inverse depths in the keyframe; those that do not agree as they were.
        residual: median distance of those that agree, pixels.
        cost: sum of squared distances, each at most as far as one that just agrees.
    """

    current_key: np.ndarray
    information: np.ndarray
    agree: np.ndarray
    rho: np.ndarray
    residual: float
    cost: float


def resect(
    matches: Matches, start: np.ndarray, expected: np.ndarray | None = None
) -> Resected | None:
    """The pose near ``start``, T_current_key 4x4; ``None`` where too few corners agree.

    Args:
        matches: the corners.
        start: where to start.
        expected: T_current_key 4x4 by the last velocity: its length counts where corners of known
            depth are few, as in a quick turn. ``None``: it is not known.
    """
    options: dict = {'fixed': 1, 'sigma': matches.sigma, 'huber': matches.huber}
    if expected is not None and (length := float(np.linalg.norm(expected[:3, 3]))) > 0:
        options['held'] = expected[:3, 3], SURPRISE * length
    points, seen = matches.points(np.arange(len(matches.rho)), matches.rho)
    first = adjust(
        np.array([np.eye(4), start]), points, seen, matches.focal, iterations=5, **options
    )
    limit = 3 * matches.huber * matches.sigma
    distance = first.residual[:, 1]
    agree = distance < limit
    if agree.sum() < LEAST:
        return None
    rows = np.flatnonzero(agree)
    points, seen = matches.points(rows, first.rho[rows])
    last = adjust(first.poses, points, seen, matches.focal, iterations=4, **options)
    rho = matches.rho.copy()
    rho[rows] = last.rho
    return Resected(
        last.poses[1],
        last.information,
        agree,
        rho,
        float(np.median(last.residual[:, 1])),
        float(np.square(np.minimum(distance, limit)).sum()),
    )


def resect_turn(matches: Matches, start: np.ndarray) -> np.ndarray:
    """The rotation alone that explains the corners best, T_current_key 4x4 near ``start``."""
    zero = np.zeros(len(matches.rho))
    far = replace(matches, rho=zero, weight=zero + 1e12)  # everything at infinity
    points, seen = far.points(np.arange(len(zero)), zero)
    found = adjust(
        np.array([np.eye(4), pose(start[:3, :3], np.zeros(3))]),
        points,
        seen,
        matches.focal,
        fixed=1,
        sigma=matches.sigma,
        huber=matches.huber,
        iterations=6,
    )
    return pose(found.poses[1, :3, :3], np.zeros(3))


def epipolar(matches: Matches) -> np.ndarray | None:
    """T_current_key 4x4 with a translation of length 1, by the essential matrix (MAGSAC++)."""
    focal = float(np.sqrt(matches.focal[0] * matches.focal[1]))
    a, b = focal * matches.rays[:, :2], focal * matches.seen
    matrix = np.diag([focal, focal, 1.0])
    cv2.setRNGSeed(0)
    essential, mask = cv2.findEssentialMat(a, b, matrix, cv2.USAC_MAGSAC, 0.999, THRESHOLD)
    if essential is None or essential.shape != (3, 3):
        return None
    count, rotation, direction, _ = cv2.recoverPose(essential, a, b, matrix, mask=mask)
    return pose(rotation, direction[:, 0]) if count >= LEAST else None


def triangulate(rays: np.ndarray, seen: np.ndarray, current_key: np.ndarray) -> np.ndarray:
    """Inverse depths (N,) in the keyframe, by least squares.

    p x (R m + rho t) = 0 is linear in rho, for a corner m of the keyframe, seen at p.

    Args:
        rays: (N, 3), x, y, 1.
        seen: (N, 2), normalised coordinates in the image.
        current_key: T_current_key 4x4.
    """
    p = np.column_stack([seen, np.ones(len(seen))])
    a = np.cross(p, rays @ current_key[:3, :3].T)
    b = np.cross(p, current_key[:3, 3])
    return -np.sum(a * b, axis=1) / np.maximum(np.sum(b * b, axis=1), 1e-12)
