"""What something trivial scores, so that the numbers of a model can be read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.metrics.depth import MIN_DEPTH, DepthMetrics, depth_errors, prepare_depth
from depth_ros.core.metrics.trajectory import (
    KITTI_LENGTHS,
    kitti_drift,
    path_length,
    pose_metrics,
    relative_errors,
)

REACH = 15.0
"""Farthest depth of a flat ground, and that above its horizon, in heights: 25 m for a car. What
stands on a ground is seldom as far as the ground would be there: at 80 m, errors would double."""

BINS = 256
"""Of the logarithm of depth, in which the best constant is sought: 4.5 % each."""

CONSTANT, FLAT = 'constant', 'flat_ground'
"""Names of the baselines of depth: the same depth everywhere, and a flat ground below a level
camera. With ``IN_METRES`` they are not scaled: the best constant of all images, and the ground at
the known height of the camera."""

IN_METRES = '_in_metres'

STILL, STRAIGHT = 'standing_still', 'constant_velocity'
"""Names of the baselines of a trajectory: no motion, and the first true direction at the true mean
speed, without a turn."""


def flat_ground_depth(camera: Intrinsics, height: float, reach: float = REACH) -> np.ndarray:
    """Depth of a flat ground below a level camera, h fy / (v - cy), float32 (H, W), metres.

    Args:
        camera: the camera; its horizon is at cy.
        height: of the camera over the ground, metres.
        reach: depth above the horizon, and the greatest, in heights.
    """
    below = (np.arange(camera.height) - camera.cy) / camera.fy
    rows = np.where(below > 1 / reach, height / np.maximum(below, 1e-9), reach * height)
    return np.repeat(rows[:, None], camera.width, axis=1).astype(np.float32)


def depth_baselines(
    truth: np.ndarray,
    camera: Intrinsics | None,
    *,
    height: float = 0.0,
    affine: bool = False,
    **options,
) -> dict[str, DepthMetrics]:
    """Errors of something trivial in one image, scaled as a prediction is.

    Args:
        truth: float (H, W), metres; NaN or 0 = unknown.
        camera: of any size; ``None`` leaves the ground out.
        height: of the camera over the ground, metres; 0 leaves the ground in metres out.
        affine, options: as of :func:`depth_ros.core.metrics.depth.prepare_depth`.
    """
    found = {CONSTANT: np.ones(truth.shape)}
    if camera is not None:
        camera = camera.resized(*truth.shape[::-1])
        found[FLAT] = flat_ground_depth(camera, height or 1.65)
        if height:
            found[FLAT + IN_METRES] = found[FLAT]
    rows = {}
    for name, depth in found.items():
        scaled = not name.endswith(IN_METRES)
        try:
            prepared = prepare_depth(
                depth, truth, median_scaling=scaled, affine=affine and scaled, **options
            )
        except ValueError:  # no pixel counts
            continue
        rows[name] = depth_errors(prepared.depth[prepared.valid], truth[prepared.valid])
    return rows


class BestConstant:
    """The one depth for all images that has the least Abs Rel, and its errors."""

    def __init__(self, farthest: float = 80.0) -> None:
        """Start without an image; farther depths do not count."""
        self._edges = np.geomspace(MIN_DEPTH, farthest, BINS + 1)
        self._shares: list[np.ndarray] = []

    def add(self, truth: np.ndarray) -> None:
        """Add an image's true depths, of any shape, metres; NaN or 0 = unknown."""
        counts = np.histogram(truth[np.isfinite(truth)], self._edges)[0]
        if counts.any():
            self._shares.append((counts / counts.sum()).astype(np.float32))

    def errors(self) -> tuple[float, DepthMetrics] | None:
        """The constant in metres and its errors, means over images; ``None`` without images."""
        if not self._shares:
            return None
        shares = np.array(self._shares, np.float64)
        depth = np.sqrt(self._edges[:-1] * self._edges[1:])
        # sum |c - g| / g is least at the median of depths weighted by 1 / g.
        weights = np.cumsum(shares.sum(axis=0) / depth)
        best = float(depth[int(np.searchsorted(weights, weights[-1] / 2))])
        error, ratio = best - depth, np.maximum(best / depth, depth / best)
        terms = np.stack(
            [np.abs(error) / depth, error**2 / depth, error**2, np.log(best / depth) ** 2]
            + [(ratio < 1.25**k).astype(float) for k in (1, 2, 3)]
        )
        means = shares @ terms.T
        means[:, 2:4] = np.sqrt(means[:, 2:4])
        return best, DepthMetrics(*means.mean(axis=0).tolist())


def one_class(confusion: np.ndarray) -> dict[str, float]:
    """Scores of the most frequent class everywhere.

    Args:
        confusion: of :func:`depth_ros.core.metrics.semantics.confusion`, with at least one pixel.
    """
    counts = confusion.sum(axis=1)
    right = float(counts.max() / counts.sum())
    return {'mean_iou': right / int((counts > 0).sum()), 'pixel_accuracy': right}


def trajectory_baselines(truth: np.ndarray, seconds: np.ndarray) -> dict[str, dict[str, float]]:
    """Errors of something trivial along a trajectory, as `trajectory_table` names them.

    Args:
        truth: true poses (N, 4, 4), N >= 2, metres.
        seconds: their times, (N,).
    """
    places = truth[:, :3, 3]
    still = np.tile(truth[0], (len(truth), 1, 1))
    rows = {
        STILL: {
            name: float(np.sqrt(np.square(places - places.mean(axis=0)).sum(axis=1).mean()))
            for name in ('ate_se3', 'ate_sim3')
        }
        | _relative(still, truth)
    }
    length, since = path_length(places), seconds - seconds[0]
    away = np.linalg.norm(places - places[0], axis=1)
    moved = np.flatnonzero(away > 0.01 * length)
    if not len(moved) or not since[-1] > 0:
        return rows
    line = still.copy()
    direction = (places[moved[0]] - places[0]) / away[moved[0]]
    line[:, :3, 3] += direction * (length * since / since[-1])[:, None]
    try:
        ate = {f'ate_{name}': pose_metrics(line, truth, name).ate for name in ('se3', 'sim3')}
    except ValueError:  # it does not move
        return rows
    return rows | {STRAIGHT: ate | _relative(line, truth)}


def _relative(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Errors of steps and, where the path is long enough, of KITTI's segments."""
    steps = relative_errors(estimate, truth)
    found = {
        'rpe_se3': float(np.sqrt(np.mean(np.square(steps.translation)))),
        'rpe_rotation_deg': float(np.degrees(np.sqrt(np.mean(np.square(steps.rotation))))),
    }
    if path_length(truth[:, :3, 3]) > KITTI_LENGTHS[0]:
        try:
            drift = kitti_drift(estimate, truth)
        except ValueError:  # no segment is within the path
            return found
        found |= {'t_err_se3': drift.t_err, 'r_err': drift.r_err}
    return found


def baseline_lines(rows: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> list[str]:
    """A line of text for each baseline: its name and the numbers that have a name in ``names``."""
    return [
        f'{row.replace("_", " ")}: '
        + ', '.join(f'{label} {values[key]:.3g}' for key, label in names.items() if key in values)
        for row, values in rows.items()
    ]
