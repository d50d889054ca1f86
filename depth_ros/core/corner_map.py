"""The points that a few keyframes see: a map of the last metres, in a unit of its own."""

from __future__ import annotations

import numpy as np

from depth_ros.core.bundle import NEAR, Points, Solution, adjust, rigid
from depth_ros.core.se3 import inverse

GUESS = 2.0
"""Standard deviation of the inverse depth of a new point, as a share of it."""

STRIKES = 2
"""How many keyframes may find a point out of place before it is given up."""


class CornerMap:
    """Keyframes and points of a sliding window.

    Attributes:
        poses: T_camera_map (W, 4, 4) of the keyframes, the newest last.
        corners: float32 (N, 2), where the newest keyframe's image shows the points.
        alive: bool (N,), whether it shows them.
        seen: (N, W, 2), normalised coordinates in each keyframe; NaN where not seen.
        host, rho: see :class:`depth_ros.core.bundle.Points`.
        weight: (N,), 1 / variance of rho.
        movable: bool (N,), on something that may move by itself.
        ground: (N,), how much each counts as ground; NaN where that is not known.
        name: int (N,), a number that each point keeps.
    """

    def __init__(self) -> None:
        """Start empty, with the first keyframe at the origin."""
        self.poses = np.eye(4)[None]
        self.corners = np.empty((0, 2), np.float32)
        self.alive = np.empty(0, bool)
        self.seen = np.empty((0, 1, 2))
        self.host = np.empty(0, int)
        self.rho = np.empty(0)
        self.prior = np.empty(0)
        self.prior_weight = np.empty(0)
        self.weight = np.empty(0)
        self.strikes = np.empty(0, int)
        self.movable = np.empty(0, bool)
        self.ground = np.empty(0)
        self.name = np.empty(0, int)
        self._names = 0

    _columns = (
        'corners',
        'alive',
        'seen',
        'host',
        'rho',
        'prior',
        'prior_weight',
        'weight',
        'strikes',
        'movable',
        'ground',
        'name',
    )

    def keep(self, rows: np.ndarray) -> None:
        """Keep these points, by index or mask."""
        for name in self._columns:
            setattr(self, name, getattr(self, name)[rows])

    def add(self, corners: np.ndarray, bearings: np.ndarray, rho: np.ndarray, sigma: float) -> None:
        """Add points that the newest keyframe shows.

        Args:
            corners: float32 (M, 2), pixels.
            bearings: (M, 2), normalised coordinates.
            rho: (M,), guesses of their inverse depth.
            sigma: standard deviation of the guesses, as a share of them.
        """
        count, width = len(corners), len(self.poses)
        seen = np.full((count, width, 2), np.nan)
        seen[:, -1] = bearings
        weight = 1 / np.square(sigma * rho)
        new = {
            'corners': corners,
            'alive': np.ones(count, bool),
            'seen': seen,
            'host': np.full(count, width - 1),
            'rho': rho,
            'prior': rho,
            'prior_weight': weight,
            'weight': weight,
            'strikes': np.zeros(count, int),
            'movable': np.zeros(count, bool),
            'ground': np.full(count, np.nan),
            'name': self._names + np.arange(count),
        }
        self._names += count
        for name in self._columns:
            setattr(self, name, np.concatenate([getattr(self, name), new[name]]))

    def bearings(self) -> np.ndarray:
        """x, y, 1 (N, 3) of each point in its host."""
        ray = np.ones((len(self.host), 3))
        ray[:, :2] = self.seen[np.arange(len(self.host)), self.host]
        return ray

    def _in(self, frame: np.ndarray) -> np.ndarray:
        """The points times their inverse depth (N, 3), in the optical frame T_frame_map."""
        relative = frame @ np.array([inverse(p) for p in self.poses])  # T_frame_keyframe
        own = relative[self.host]
        y = np.einsum('nab,nb->na', own[:, :3, :3], self.bearings())
        return y + self.rho[:, None] * own[:, :3, 3]

    def add_keyframe(
        self, pose: np.ndarray, corners: np.ndarray, bearings: np.ndarray, good: np.ndarray
    ) -> None:
        """Add a keyframe.

        Args:
            pose: T_camera_map 4x4.
            corners: float32 (N, 2), where its image shows the points.
            bearings: (N, 2), the same normalised.
            good: bool (N,), whether it shows them where they should be.
        """
        pose = rigid(pose)
        z = self._in(pose)[:, 2]
        good = good & (z > NEAR)
        z = np.where(good, z, 1.0)
        for name in ('rho', 'prior'):
            setattr(self, name, getattr(self, name) / z)
        for name in ('weight', 'prior_weight'):
            setattr(self, name, getattr(self, name) * z**2)
        self.host = np.where(good, len(self.poses), self.host)
        self.poses = np.concatenate([self.poses, pose[None]])
        new = np.where(good[:, None], bearings, np.nan)
        self.seen = np.concatenate([self.seen, new[:, None]], axis=1)
        self.corners = corners.astype(np.float32)
        self.alive = good

    def renew(self, corners: np.ndarray, bearings: np.ndarray, good: np.ndarray) -> None:
        """Let another image, taken at the same place, be that of the newest keyframe.

        Args:
            corners, bearings, good: as of :meth:`add_keyframe`.
        """
        self.seen[good, -1] = bearings[good]
        self.corners, self.alive = corners.astype(np.float32), good.copy()

    def scaled(self, factor: float) -> None:
        """Multiply all lengths by a factor."""
        self.poses[:, :3, 3] *= factor
        self.rho, self.prior = self.rho / factor, self.prior / factor
        self.weight, self.prior_weight = self.weight * factor**2, self.prior_weight * factor**2

    def points(self, sure: float) -> tuple[np.ndarray, np.ndarray]:
        """Points in the optical frame of the newest keyframe.

        Args:
            sure: greatest standard deviation of their inverse depth, as a share of it.

        Returns:
            (M, 3) in the map's unit, and their rows (M,).
        """
        rows = np.flatnonzero((self.rho > 0) & (self.weight * self.rho**2 > 1 / sure**2))
        return self._in(self.poses[-1])[rows] / self.rho[rows, None], rows

    def drop_oldest(self) -> None:
        """Forget the oldest keyframe."""
        self.poses, self.seen, self.host = self.poses[1:], self.seen[:, 1:], self.host - 1
        self.keep(self.host >= 0)

    def prune(self, most: int) -> None:
        """Forget points that no longer say anything, and the least useful over ``most``."""
        times = np.isfinite(self.seen[..., 0]).sum(1)
        worth = np.where(self.alive, 100, 0) + times
        good = (self.alive | (times >= 3)) & (self.strikes < STRIKES)
        if good.sum() > most:
            order = np.argsort(-np.where(good, worth, -1), kind='stable')[:most]
            good = np.zeros_like(good)
            good[order] = True
        self.keep(good)

    def adjust(
        self,
        focal: tuple[float, float],
        fixed: int,
        sigma: float,
        huber: float,
        iterations: int,
    ) -> Solution | None:
        """Adjust keyframes and points to each other; see :func:`depth_ros.core.bundle.adjust`."""
        times = np.isfinite(self.seen[..., 0]).sum(1)
        rows = np.flatnonzero((times >= 2) & ~self.movable)
        if len(rows) < 8:
            return None
        rows = rows[np.argsort(self.host[rows], kind='stable')]
        points = Points(
            self.bearings()[rows],
            self.host[rows],
            self.rho[rows],
            self.prior[rows],
            self.prior_weight[rows],
        )
        found = adjust(
            self.poses,
            points,
            self.seen[rows],
            focal,
            fixed=fixed,
            sigma=sigma,
            huber=huber,
            iterations=iterations,
        )
        self.poses = found.poses
        self.rho[rows] = found.rho
        self.weight[rows] = found.rho_weight
        error = found.residual
        # What does not fit is forgotten there, and so is the point when this happens again.
        off = error > 3 * huber * sigma
        seen = self.seen[rows]
        seen[off] = np.nan
        self.seen[rows] = seen
        self.strikes[rows] += off.sum(1)
        self.alive[rows] &= self.strikes[rows] < STRIKES
        return found

    def guess_rho(self, corners: np.ndarray, fallback: float) -> np.ndarray:
        """Inverse depths (M,) of new corners of the newest keyframe, from their neighbours.

        Args:
            corners: float32 (M, 2), pixels.
            fallback: where there are no neighbours.
        """
        rho, weight = self.rho, self.weight
        known = self.alive & (weight * rho**2 > 1 / 0.3**2) & (rho > 0)
        if known.sum() < 10:
            return np.full(len(corners), fallback)
        own, values = self.corners[known], np.log(rho[known])
        # Depth changes with the row more than with the column, as it does over ground.
        d = (own[None, :, 0] - corners[:, None, 0]) ** 2 * 0.25
        d = d + (own[None, :, 1] - corners[:, None, 1]) ** 2
        nearest = np.argpartition(d, 4, axis=1)[:, :5]
        return np.exp(np.median(values[nearest], axis=1))
