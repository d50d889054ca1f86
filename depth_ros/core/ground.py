"""The plane of the ground, from points of the camera's optical frame or from a depth image.

A point X = z r, with depth z and viewing ray r, lies on the plane at height h with the unit normal
n (from the camera to the ground) where n.X = h, that is m.X = 1 with m = n / h. The residual
m.X - 1 is then the relative error of the point's depth, which is about the same near and far, so
that all points may count alike.

Fischler and Bolles 1981, "Random Sample Consensus", Comm. ACM 24(6), finds the plane; iteratively
reweighted least squares with Tukey's weights makes it exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from depth_ros.core.camera import Intrinsics

DOWN = (0.0, 1.0, 0.0)
"""Where down is for a camera that is held level: the y axis of its optical frame."""

MAX_TILT = math.radians(45.0)
"""Greatest angle between the plane's normal and where down is said to be; beyond, it is a wall."""

TOLERANCE = 0.06
"""Relative error of depth up to which a point is on the plane: 10 cm at a height of 1.65 m."""

REACH = 15.0
"""Points farther than so many heights do not count: no road is a plane that far."""

LEAST_POINTS = 12
"""Fewer points are no plane."""

LEAST_SHARE = 0.35
"""Least share of the (weighted) points on the plane, where they are known to be of the ground."""

LEAST_SHARE_UNKNOWN = 0.6
"""The same where nothing is known of the points."""

LEAST_EXTENT = 0.1
"""Least standard deviation of the plane's points along either direction of the plane, in heights:
a plane through a line could have any tilt."""

GREATEST_SIGMA = 0.25
"""A height that is less sure, relative to itself, is none."""

INDEPENDENT = 60
"""A network's errors at neighbouring pixels are alike: so many of a depth image's are not."""

GROUND_CLASSES = {
    'road': 1.0,
    'floor': 1.0,
    'ground': 1.0,
    'lane marking': 1.0,
    'parking': 0.5,
    'pavement': 0.3,
    'sidewalk': 0.3,
    'terrain': 0.2,
}
"""Weights of each class's points: a pavement is higher than the road, and grass is no plane."""

LEAST_IMAGE = 0.01
"""Least share of an image's pixels that must be ground."""

BOTTOM = (0.6, 0.2)
"""Where the ground is without labels: rows below this part of the height, columns this part of the
width away from the sides."""

MOST_POINTS = 1500
"""Most points of a depth image that are used."""

_SAMPLES = 160  # planes through three points that are tried
_JUDGES = 400  # points that judge them
_ROUNDS = 6  # of reweighting


@dataclass(frozen=True)
class Ground:
    """A plane.

    Attributes:
        normal: unit vector (3,) from the camera to the ground, optical frame.
        height: distance of the camera from the plane, in the unit of the points.
        sigma: standard deviation of ``height``, the same unit.
        inliers: bool (N,), the points on the plane.
    """

    normal: np.ndarray
    height: float
    sigma: float
    inliers: np.ndarray

    @property
    def pitch(self) -> float:
        """How far the optical axis looks down from level, radians."""
        return float(np.arcsin(np.clip(self.normal[2], -1, 1)))

    @property
    def roll(self) -> float:
        """How far the camera is turned about its optical axis, clockwise as it looks, radians."""
        return float(np.arctan2(self.normal[0], self.normal[1]))


@dataclass(frozen=True)
class NoGround:
    """No plane was found.

    Attributes:
        reason: why, in words that are the same for the same cause.
    """

    reason: str


def fit_ground(
    points: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    down: np.ndarray | tuple[float, ...] = DOWN,
    max_tilt: float = MAX_TILT,
    heights: tuple[float, float] = (0.0, math.inf),
    least_share: float = LEAST_SHARE_UNKNOWN,
    independent: int | None = None,
) -> Ground | NoGround:
    """Fit a plane under the camera to points of which many may be of something else.

    Args:
        points: (N, 3), optical frame, any unit; those that are not finite or not in front of the
            camera do not count.
        weights: (N,), >= 0, how much each point counts; ``None``: all alike.
        down: unit vector (3,) of the optical frame that points down, as far as it is known.
        max_tilt: greatest angle between it and the plane's normal, radians.
        heights: least and greatest height of the camera that is believed, the points' unit.
        least_share: least share of the weights on the plane.
        independent: how many points have errors of their own; ``None``: all.
    """
    points = np.asarray(points, np.float64).reshape(-1, 3)
    weight = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    usable = np.isfinite(points).all(axis=1) & (points[:, 2] > 0) & (weight > 0)
    kept = np.flatnonzero(usable)
    if len(kept) < LEAST_POINTS:
        return NoGround('too few points of the ground')
    unit = float(np.median(points[kept, 2]))  # keeps the equations well conditioned
    x, w = points[kept] / unit, weight[kept] / weight[kept].sum()
    least_cosine = math.cos(max_tilt)
    plane = _consensus(x, w, np.asarray(down, np.float64), least_cosine)
    if plane is None:
        return NoGround('no plane below the camera')
    plane = _refined(x, w, plane)
    if plane is None:
        return NoGround('the points of the ground lie in a line')
    size = float(np.linalg.norm(plane))
    normal, height = plane / size, unit / size
    on = np.abs(x @ plane - 1) <= TOLERANCE
    counted = w * (x[:, 2] * size < REACH)
    share = float((counted * on).sum() / max(counted.sum(), 1e-12))
    if (on & (counted > 0)).sum() < LEAST_POINTS:
        return NoGround('too few points of the ground')
    if float(normal @ np.asarray(down)) < least_cosine:
        return NoGround('the plane is too steep for ground')
    if share < least_share:
        return NoGround('too few points lie on one plane')
    if not heights[0] <= height <= heights[1]:
        return NoGround('the height over the plane is absurd')
    extent, sigma = _certainty(x, counted * on, plane, independent)
    if extent < LEAST_EXTENT:
        return NoGround('the points of the ground lie in a line')
    if not sigma <= GREATEST_SIGMA:
        return NoGround('the height over the plane is too unsure')
    inliers = np.zeros(len(points), bool)
    inliers[kept] = on
    return Ground(normal, height, sigma * height, inliers)


def _refined(x: np.ndarray, w: np.ndarray, plane: np.ndarray) -> np.ndarray | None:
    """The plane m (3,) nearest to the points (N, 3) of weights (N,) that lie about on ``plane``."""
    for _ in range(_ROUNDS):
        error = x @ plane - 1
        near = np.abs(error) < 2 * TOLERANCE
        spread = 1.4826 * float(np.median(np.abs(error[near]))) if near.any() else 0.0
        limit = 4.685 * min(max(spread, 1e-6), TOLERANCE / 2)  # Tukey's weights end there
        reached = x[:, 2] * np.linalg.norm(plane) < REACH
        robust = w * reached * np.square(np.clip(1 - np.square(error / limit), 0, None))
        solved = _solve(x, robust)
        if solved is None:
            return None
        plane = solved
    return plane


def _certainty(
    x: np.ndarray, w: np.ndarray, plane: np.ndarray, independent: int | None
) -> tuple[float, float]:
    """How well points (N, 3) of weights (N,) determine a plane m (3,).

    Returns:
        Their standard deviation along the direction of the plane in which they spread least, in
        heights, and the standard deviation of the height, relative to it.
    """
    w, size = w / w.sum(), float(np.linalg.norm(plane))
    offsets = x - w @ x
    spreads = np.linalg.eigvalsh(offsets.T @ (offsets * w[:, None]))
    extent = math.sqrt(max(float(spreads[1]), 0.0)) * size
    count = int((w > 0).sum())
    variance = float(w @ np.square(x @ plane - 1)) / min(count, independent or count)
    # The height is 1 / |m|, and its relative variance n' C n / |m|^2 with the covariance C of m.
    try:
        along = float(plane @ np.linalg.solve(x.T @ (x * w[:, None]), plane)) / size**4
    except np.linalg.LinAlgError:
        return 0.0, math.inf
    return extent, math.sqrt(max(variance * along, 0.0))


def _consensus(
    x: np.ndarray, w: np.ndarray, down: np.ndarray, least_cosine: float
) -> np.ndarray | None:
    """The plane m (3,) through three points that most points (N, 3) of weights (N,) agree on."""
    random = np.random.default_rng(len(x))  # the same points give the same plane
    a, b, c = (x[random.integers(0, len(x), _SAMPLES)] for _ in range(3))
    ab, bc, ca = np.cross(a, b), np.cross(b, c), np.cross(c, a)
    with np.errstate(divide='ignore', invalid='ignore'):
        planes = (ab + bc + ca) / np.einsum('ij,ij->i', a, bc)[:, None]
        cosine = planes @ down / np.linalg.norm(planes, axis=1)
    planes = planes[np.isfinite(planes).all(axis=1) & (cosine >= least_cosine)]
    if not len(planes):
        return None
    judges = random.permutation(len(x))[:_JUDGES]
    error = planes @ x[judges].T - 1
    score = np.clip(1 - np.square(error / TOLERANCE), 0, None) @ w[judges]
    return planes[int(np.argmax(score))]


def _solve(x: np.ndarray, w: np.ndarray) -> np.ndarray | None:
    """The plane m (3,) that minimises sum w (m.x - 1)^2; ``None`` where it is not determined."""
    weighted = x * w[:, None]
    normal = x.T @ weighted
    if not np.linalg.cond(normal) < 1e10:
        return None
    return np.linalg.solve(normal, weighted.sum(axis=0))


def ground_weights(classes: Mapping[str, int]) -> np.ndarray | None:
    """Weight of each class id as ground, float64 (256,); ``None`` where no class is ground.

    Args:
        classes: ids of the classes by name.
    """
    weights = np.zeros(256)
    for name, number in classes.items():
        weights[number] = GROUND_CLASSES.get(name, 0.0)
    return weights if weights.any() else None


def ground_points(
    depth: np.ndarray,
    camera: Intrinsics,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The points of a depth image that may be ground.

    Args:
        depth: float32 (H, W) along the optical axis, any unit; NaN = invalid.
        camera: the camera at this size.
        labels: uint8 (H, W), class ids; ``None`` where there are none.
        weights: of :func:`ground_weights`; without it or labels, the lower part of the image is
            taken.

    Returns:
        float64 (N, 3) in the optical frame, and how much each counts, (N,), N up to
        ``MOST_POINTS``; both empty where the ground is too small a part of the image.
    """
    height, width = depth.shape
    top, left, right = 0, 0, width
    if labels is None or weights is None:
        top = int(BOTTOM[0] * height)
        left, right = int(BOTTOM[1] * width), width - int(BOTTOM[1] * width)
    # Of a grid: to look at every pixel would take longer than everything else.
    step = max(1, int(math.sqrt((height - top) * (right - left) / (8 * MOST_POINTS))))
    grid = np.s_[top:height:step, left:right:step]
    z = depth[grid]
    if labels is None or weights is None:
        weight = np.ones(z.shape)
    else:
        weight = weights[labels[grid]]
    with np.errstate(invalid='ignore'):
        rows, columns = np.nonzero((weight > 0) & (z > 0) & np.isfinite(z))
    if len(rows) * step * step < LEAST_IMAGE * height * width:
        return np.empty((0, 3)), np.empty(0)
    if len(rows) > MOST_POINTS:
        chosen = np.linspace(0, len(rows) - 1, MOST_POINTS).astype(int)
        rows, columns = rows[chosen], columns[chosen]
    z, weight = z[rows, columns].astype(np.float64), weight[rows, columns]
    x = (left + step * columns - camera.cx) / camera.fx
    y = (top + step * rows - camera.cy) / camera.fy
    return np.stack([x * z, y * z, z], axis=1), weight


def ground_from_depth(
    depth: np.ndarray,
    camera: Intrinsics,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    down: np.ndarray | tuple[float, ...] = DOWN,
    max_tilt: float = MAX_TILT,
    heights: tuple[float, float] = (0.0, math.inf),
    factor: float = 1.0,
) -> Ground | NoGround:
    """The plane of the ground in a depth image; ``inliers`` are of :func:`ground_points`.

    Args:
        depth, camera, labels, weights: as of :func:`ground_points`.
        down, max_tilt, heights: as of :func:`fit_ground`.
        factor: what the depth is to be multiplied by; the plane is in that unit.
    """
    points, weight = ground_points(depth, camera, labels, weights)
    points *= factor
    known = labels is not None and weights is not None
    if not len(points):
        return NoGround('too little ground in the image')
    return fit_ground(
        points,
        weight,
        down=down,
        max_tilt=max_tilt,
        heights=heights,
        least_share=LEAST_SHARE if known else LEAST_SHARE_UNKNOWN,
        independent=INDEPENDENT,
    )
