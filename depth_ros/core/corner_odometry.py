"""Motion of a camera from the corners that it sees: tracking, poses, a map of the last metres.

Each image is compared with the newest keyframe, not with the image before, so that nothing is
lost with an image that cannot be used, and nothing adds up while the camera stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depth_ros.core.bundle import NEAR
from depth_ros.core.camera import Intrinsics
from depth_ros.core.corner_map import GUESS, CornerMap
from depth_ros.core.resection import (
    Matches,
    Resected,
    epipolar,
    resect,
    resect_turn,
    triangulate,
)
from depth_ros.core.se3 import inverse
from depth_ros.core.tracking import GRID, detect, follow

SURE = 0.1
"""Standard deviation of an inverse depth, as a share of it, up to which it is believed."""

NO_MOTION = 'the corners do not agree on a motion'

TURN_SIGMA = 1e-3
"""Standard deviation of a turn while it is not known how far the camera moved, radians."""

MOST = 0.5
"""Share of the corners that must not have moved for the camera to have stopped."""

STANDING, SPREAD = 0.25, 0.3
"""The same where it stood before, and least share of the image's cells that they must lie in: cars
may pass before most of the image, but what is fixed to the camera (a bonnet) is in one place."""


@dataclass(frozen=True)
class Options:
    """How corners are followed and the map is kept, for all cameras alike.

    Attributes:
        corners: how many corners a keyframe has.
        most: how many points the map has.
        window: how many keyframes the map has.
        free: how many of the newest are adjusted; the others hold the unit.
        iterations: steps of an adjustment.
        sigma: standard deviation of a corner's coordinate, pixels.
        huber: multiple of sigma from which a residual's weight falls.
        few: fewer corners than this say nothing.
        still: pixels within which a corner has not moved.
        suspicious: share of the corners that must agree, or the essential matrix is asked, too.
        parallax: pixels that translation must move the corners by before their depths are known.
        key_flow: pixels (of an image 640 wide) after which a new keyframe is due.
        key_share: share of ``corners`` below which one is due.
        renew: share of a keyframe's corners below which a camera that stands still takes another
            image for it.
        turning: pixels that translation must move the corners by to be told from none.
    """

    corners: int = 500
    most: int = 700
    window: int = 7
    free: int = 3
    iterations: int = 3
    sigma: float = 0.3
    huber: float = 2.5
    few: int = 25
    still: float = 0.35
    suspicious: float = 0.85
    parallax: float = 4.0
    key_flow: float = 12.0
    key_share: float = 0.65
    renew: float = 0.5
    turning: float = 0.3


@dataclass
class Step:
    """What the corners say of one image.

    Attributes:
        transform: T_previous_current 4x4 of the optical frame, in the map's unit; ``None`` where
            too few corners agree.
        covariance: 6x6 of (v, w), a small motion of the current camera, map's unit and radians.
        standing: whether nothing moved.
        tracked: corners found again, of those that the keyframe has.
        known: corners that the keyframe has.
        inliers: share of those found again that agree with the motion.
        residual: their median distance, pixels.
        distance: median distance of the points, in the map's unit.
        text: what is wrong, if anything.
        started: whether the map's unit was chosen anew with this image.
        keyframe: whether it became a keyframe.
    """

    transform: np.ndarray | None
    covariance: np.ndarray
    standing: bool = False
    tracked: int = 0
    known: int = 0
    inliers: float = 0.0
    residual: float = 0.0
    distance: float = 0.0
    text: str = ''
    started: bool = False
    keyframe: bool = False


class CornerOdometry:
    """Follows a camera by corners, in a unit of its own.

    Attributes:
        camera: of the images.
        map: the keyframes and points.
        ready: whether the map has points of known depth.
        standing: whether the camera stood still when the last image was taken.
    """

    def __init__(self, camera: Intrinsics, options: Options | None = None) -> None:
        """Start with no image.

        Args:
            camera: of the images.
            options: the defaults, if not given.
        """
        self.options = options or Options()
        self.camera = camera
        self.map = CornerMap()
        self.ready = False
        self.standing = True
        self._image: np.ndarray | None = None  # of the newest keyframe
        self._flow = np.empty((0, 2), np.float32)  # of its corners to the last image
        self._key_last = np.eye(4)  # T_key_last, the pose of the last image
        self._reference = np.empty((0, 2), np.float32)  # corners where the camera last stood
        self._unit = 1.0
        self._agree = np.empty(0, bool)  # which points the last image showed where they should be

    @property
    def _focal(self) -> tuple[float, float]:
        return self.camera.fx, self.camera.fy

    def _normalised(self, corners: np.ndarray) -> np.ndarray:
        c = self.camera
        return (corners.astype(float) - (c.cx, c.cy)) / (c.fx, c.fy)

    def _pixels(self, bearings: np.ndarray) -> np.ndarray:
        c = self.camera
        return (bearings * (c.fx, c.fy) + (c.cx, c.cy)).astype(np.float32)

    def step(self, image: np.ndarray, guess: np.ndarray, unit: float) -> Step:
        """Add an image.

        Args:
            image: uint8 (h, w), grey.
            guess: T_previous_current 4x4 as it may be, in the map's unit.
            unit: length of the first motion of a new map, should one begin.
        """
        if self._image is None:
            self.begin(image)
            return Step(np.eye(4), np.zeros((6, 6)), standing=True)
        m = self.map
        key_guess = self._key_last @ guess  # T_key_current
        corners, good = self._follow(image, key_guess)
        tracked, known = int(good.sum()), int(m.alive.sum())
        step = Step(None, np.zeros((6, 6)), tracked=tracked, known=known)
        if tracked < self.options.few:
            step.text = f'only {tracked} of {known} corners are seen again'
            return step
        if self._stands(corners, good):
            return self._stand(image, corners, good, step)
        self.standing = False
        if not self.ready:
            return self._bootstrap(image, corners, good, step, key_guess, unit)
        rows = np.flatnonzero(good & ~m.movable)
        found = self._solve(corners, rows, inverse(key_guess))
        if found is None:
            step.text = NO_MOTION
            return step
        return self._advance(image, corners, good, rows, found, step)

    def cover(self, guess: np.ndarray) -> None:
        """Take T_previous_current 4x4 for the motion to an image that shows nothing."""
        self._key_last = self._key_last @ guess
        self._agree = np.zeros(len(self.map.alive), bool)
        self.standing = False

    def shown(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the last image showed.

        Returns:
            Names of the points (M,), normalised coordinates x / z, y / z there (M, 2), and depth
            (M,) in the map's unit, NaN where it is not sure.
        """
        m = self.map
        rows = np.flatnonzero(self._agree)
        current_key = inverse(self._key_last)
        y = m.bearings()[rows] @ current_key[:3, :3].T
        y += m.rho[rows, None] * current_key[:3, 3]
        z = np.maximum(y[:, 2], NEAR)
        rho = m.rho[rows]
        sure = (rho > 0) & (m.weight[rows] * rho**2 > 1 / SURE**2)
        depth = np.where(sure, z / np.where(sure, rho, 1.0), np.nan)
        return m.name[rows], y[:, :2] / z[:, None], depth

    def begin(self, image: np.ndarray) -> None:
        """Forget the map, and begin another with this image."""
        self.map = CornerMap()
        self.ready = False
        self._image = image
        self._key_last = np.eye(4)
        self._fill(image)
        self._reference = self.map.corners.copy()
        self._agree = self.map.alive.copy()
        self.standing = True

    def _fill(self, image: np.ndarray) -> None:
        """Add corners to the newest keyframe."""
        m = self.map
        new = detect(image, self.options.corners, m.corners[m.alive])
        rho = m.guess_rho(new, 1.0 / (20 * self._unit))
        m.add(new, self._normalised(new), rho, GUESS)
        self._flow = np.zeros((len(m.corners), 2), np.float32)

    def _follow(self, image: np.ndarray, key_guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the map's points are in the image, float32 (N, 2), and whether they were found."""
        m = self.map
        assert self._image is not None
        current_key = inverse(key_guess)
        y = m.bearings() @ current_key[:3, :3].T + m.rho[:, None] * current_key[:3, 3]
        z = np.maximum(y[:, 2], 0.1)
        predicted = self._pixels(y[:, :2] / z[:, None])
        start = m.corners + self._flow if self.standing else predicted
        corners = m.corners.copy()
        good = np.zeros(len(corners), bool)
        rows = np.flatnonzero(m.alive)
        found, ok = follow(self._image, image, m.corners[rows], start[rows])
        if ok.sum() < 0.5 * len(ok):
            # The prediction may be wrong: as if nothing had changed since the last image.
            again, fine = follow(
                self._image, image, m.corners[rows], (m.corners + self._flow)[rows]
            )
            if fine.sum() > ok.sum():
                found, ok = again, fine
        corners[rows], good[rows] = found, ok
        return corners, good

    def _stands(self, corners: np.ndarray, good: np.ndarray) -> bool:
        """Whether most of the image shows what it showed."""
        m = self.map
        assert self._reference is not None
        reference = self._reference
        use = good & ~m.movable & np.isfinite(reference[:, 0])
        if use.sum() < self.options.few:
            use = good & np.isfinite(reference[:, 0])
        if use.sum() < self.options.few:
            return False
        moved = np.linalg.norm(corners[use] - reference[use], axis=1)
        still = moved < self.options.still
        share = still.mean()
        if share > MOST:
            return True
        if not self.standing or share < STANDING:
            return False
        columns, rows = GRID
        width, height = self.camera.width, self.camera.height
        cells = (corners[use] / (width / columns, height / rows)).astype(int)
        cells = cells[:, 1] * columns + cells[:, 0]
        return len(np.unique(cells[still])) > SPREAD * len(np.unique(cells))

    def _stand(self, image: np.ndarray, corners: np.ndarray, good: np.ndarray, step: Step) -> Step:
        """The camera has not moved since the last image."""
        m = self.map
        self.standing = True
        self._flow = np.where(good[:, None], corners - m.corners, self._flow)
        step.standing, step.transform = True, np.eye(4)
        step.inliers = 1.0
        self._agree = good & m.alive
        if good.sum() < self.options.renew * step.known:  # light or things have changed
            bearings = self._normalised(corners)
            if np.array_equal(self._key_last, np.eye(4)):
                m.renew(corners, bearings, good)
            else:
                m.add_keyframe(inverse(self._key_last) @ m.poses[-1], corners, bearings, good)
                if len(m.poses) > self.options.window:
                    m.drop_oldest()
            self._renew(image)
        return step

    def _renew(self, image: np.ndarray) -> None:
        """This image is that of the newest keyframe now."""
        self.map.prune(self.options.most)
        self._image = image
        self._key_last = np.eye(4)
        self._fill(image)
        self._reference = self.map.corners.copy()
        self._agree = self.map.alive.copy()

    def _matches(self, corners: np.ndarray, rows: np.ndarray) -> Matches:
        """The points of these rows, seen at ``corners`` (N, 2) pixels."""
        m, o = self.map, self.options
        return Matches(
            m.bearings()[rows],
            m.rho[rows],
            m.weight[rows],
            self._normalised(corners[rows]),
            self._focal,
            o.sigma,
            o.huber,
        )

    def _solve(self, corners: np.ndarray, rows: np.ndarray, guess: np.ndarray) -> Resected | None:
        """The pose of the image near T_current_key 4x4, or wherever most corners agree."""
        matches = self._matches(corners, rows)
        best = resect(matches, guess, guess)
        if best is None or best.agree.mean() < self.options.suspicious:
            other = epipolar(matches)
            if other is not None:
                other[:3, 3] *= max(np.linalg.norm(guess[:3, 3]), 1e-3 * self._unit)
                again = resect(matches, other, guess)
                if again is not None and (best is None or again.cost < 0.95 * best.cost):
                    best = again
        if best is None or best.agree.sum() < self.options.few or best.agree.mean() < 0.3:
            return None
        return best

    def _only_turns(self, rays: np.ndarray, rho: np.ndarray, key_current: np.ndarray) -> bool:
        """Whether the translation is too small to be told from none."""
        current_key = inverse(key_current)
        turned = rays @ current_key[:3, :3].T
        moved = turned + rho[:, None] * current_key[:3, 3]
        apart = turned[:, :2] / turned[:, 2:] - moved[:, :2] / np.maximum(moved[:, 2:], NEAR)
        return float(np.median(np.linalg.norm(apart * self._focal, axis=1))) < self.options.turning

    def _bootstrap(
        self,
        image: np.ndarray,
        corners: np.ndarray,
        good: np.ndarray,
        step: Step,
        key_guess: np.ndarray,
        unit: float,
    ) -> Step:
        """The first motion, whose length nobody knows."""
        m = self.map
        rows = np.flatnonzero(good & ~m.movable)
        matches = self._matches(corners, rows)
        turn = resect_turn(matches, inverse(key_guess))
        y = matches.rays @ turn[:3, :3].T
        apart = (y[:, :2] / np.maximum(y[:, 2:], NEAR) - matches.seen) * self._focal
        apart = np.linalg.norm(apart, axis=1)
        if np.median(apart) < self.options.parallax:
            return self._turned(image, corners, good, step, turn, apart)
        current_key = epipolar(matches)
        if current_key is None:
            step.text = NO_MOTION
            return step
        self._unit = unit
        current_key[:3, 3] *= unit
        rho = triangulate(matches.rays, matches.seen, current_key)
        rho = np.where(np.isfinite(rho) & (rho > 0), rho, 1e-3 / unit)
        sigma = 3 * np.maximum(rho, 0.02 / unit)  # so wide that it says nothing
        m.rho[rows], m.weight[rows] = rho, 1 / sigma**2
        found = resect(self._matches(corners, rows), current_key)
        if found is None:
            step.text = NO_MOTION
            return step
        m.prior, m.prior_weight = m.rho.copy(), m.weight.copy()
        self.ready = step.started = True
        return self._advance(image, corners, good, rows, found, step)

    def _turned(
        self,
        image: np.ndarray,
        corners: np.ndarray,
        good: np.ndarray,
        step: Step,
        turn: np.ndarray,
        apart: np.ndarray,
    ) -> Step:
        """As far as can be seen, the camera has only turned since the keyframe.

        Args:
            image, corners, good, step: as of :meth:`_bootstrap`.
            turn: T_current_key 4x4.
            apart: (M,), how far corners are from where the turn puts them, pixels.
        """
        m = self.map
        step.inliers = float((apart < 2 * self.options.parallax).mean())
        step.residual = float(np.median(apart))
        step.covariance = np.diag([(0.5 * self._unit) ** 2] * 3 + [TURN_SIGMA**2] * 3)
        key_current = inverse(turn)
        step.transform = inverse(self._key_last) @ key_current
        self._key_last = key_current
        self._agree = good.copy()
        self._flow = np.where(good[:, None], corners - m.corners, self._flow)
        self._reference = np.where(good[:, None], corners, np.nan)
        if good.sum() < self.options.renew * step.known:
            self.begin(image)
            self.standing = False
        return step

    def _advance(
        self,
        image: np.ndarray,
        corners: np.ndarray,
        good: np.ndarray,
        rows: np.ndarray,
        found: Resected,
        step: Step,
    ) -> Step:
        """The pose is known: make it a keyframe if it shows enough that is new.

        Args:
            image: the image.
            corners, good: where it shows the points, (N, 2) pixels, and whether it does, (N,).
            rows: (M,), of those that the pose was made of.
            found: the pose.
            step: what is known of the step so far.
        """
        m, o = self.map, self.options
        inlier = np.zeros(len(good), bool)
        inlier[rows[found.agree]] = True
        key_current = inverse(found.current_key)
        if not step.started and self._only_turns(m.bearings()[inlier], m.rho[inlier], key_current):
            key_current[:3, 3] = 0
        step.inliers = float(found.agree.mean())
        step.residual = found.residual
        step.covariance = np.linalg.inv(found.information + 1e-9 * np.eye(6))
        near = m.rho[inlier & (m.rho > 0)]
        step.distance = float(1 / np.median(near)) if len(near) else 0.0
        flow = np.linalg.norm(corners[inlier] - m.corners[inlier], axis=1)
        few = inlier.sum() < o.key_share * o.corners and inlier.sum() < 0.85 * step.known
        wanted = step.started or few or np.median(flow) > o.key_flow * self.camera.width / 640
        previous_key = inverse(self._key_last)
        if not wanted:
            step.transform = previous_key @ key_current
            self._key_last = key_current
            self._agree = inlier
            self._flow = np.where(good[:, None], corners - m.corners, self._flow)
            self._reference = np.where(good[:, None], corners, np.nan)
            return step
        step.keyframe = True
        old = len(m.poses) - 1
        m.rho[rows] = found.rho
        m.add_keyframe(
            inverse(key_current) @ m.poses[-1], corners, self._normalised(corners), inlier
        )
        m.adjust(self._focal, max(1, old + 2 - o.free), o.sigma, o.huber, o.iterations)
        if step.started:
            moved = np.linalg.norm((m.poses[-1] @ inverse(m.poses[-2]))[:3, 3])
            m.scaled(self._unit / max(moved, 1e-9))
        key_current = m.poses[old] @ inverse(m.poses[-1])
        step.transform = previous_key @ key_current
        if len(m.poses) > o.window:
            m.drop_oldest()
        self._renew(image)
        return step
