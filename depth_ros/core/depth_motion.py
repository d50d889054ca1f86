"""How far a camera moves, in the unit of its depth: for comparison with what wheels or GPS measure.

Corners are followed from a key image to later ones (Lucas and Kanade's method, Bouguet 2000); once
they have moved far enough, the camera's motion is the pose from which the key image's points, at
their depth, are seen there (perspective-n-point with RANSAC). It serves the scale only: what the
robot's odometry is made of is :mod:`depth_ros.core.visual_odometry`.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from depth_ros.core.camera import Intrinsics

CORNERS = 250
"""Corners of a key image."""

PARALLAX = 0.012
"""Median motion of the corners, as a share of the image's width, that is enough to measure."""

PATIENCE = 2.0
"""Seconds without enough motion after which a new key image is taken."""

LEAST_CORNERS = 25
"""Fewer corners say nothing."""

LEAST_INLIERS = 0.5
"""Least share of the corners that must agree with the motion."""

REPROJECTION = 0.5, 0.25
"""Distance up to which a point is where the motion says: pixels, or a share of the median motion of
the corners, whichever is more, since an error of depth moves a point in proportion to it."""


ROUNDS, CLOSEST = 3, 0.1
"""How often the motion is refined on the corners that are nearest to it, and pixels that are always
near."""


class Moved(NamedTuple):
    """A motion.

    Attributes:
        start, end: seconds.
        units: length of the translation, in the unit of the depth.
        turn: angle of the rotation, radians.
    """

    start: float
    end: float
    units: float
    turn: float


class DepthMotion:
    """Follows corners from image to image."""

    def __init__(self) -> None:
        """Start without an image."""
        self._grey: np.ndarray | None = None  # the last image
        self._time = self._start = 0.0  # of the last and of the key image
        self._points: np.ndarray  # of the corners, in the key image's frame
        self._then: np.ndarray  # pixels of the corners in the key image
        self._now: np.ndarray  # and in the last one

    def step(
        self,
        rgb: np.ndarray,
        depth: np.ndarray,
        camera: Intrinsics,
        usable: np.ndarray | None,
        seconds: float,
    ) -> Moved | None:
        """Take the next image.

        Args:
            rgb: uint8 (H, W, 3).
            depth: float32 (H, W), any unit; NaN = invalid.
            camera: the camera at this size.
            usable: bool (H, W), what stands still; ``None``: everything.
            seconds: when it was taken.

        Returns:
            The motion since the key image, which this image then is; ``None`` where it is too
            small yet, or cannot be told.
        """
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        moved = None
        if self._grey is None or self._grey.shape != grey.shape or seconds <= self._time:
            keep = False
        else:
            self._follow(grey)
            keep = len(self._now) >= LEAST_CORNERS
            if keep and self._parallax() >= PARALLAX * camera.width:
                moved = self._motion(camera, seconds)
                keep = False
            elif seconds - self._start > PATIENCE:
                keep = False
        if not keep:
            self._set_key(grey, depth, camera, usable, seconds)
        self._grey, self._time = grey, seconds
        return moved

    def _set_key(
        self,
        grey: np.ndarray,
        depth: np.ndarray,
        camera: Intrinsics,
        usable: np.ndarray | None,
        seconds: float,
    ) -> None:
        with np.errstate(invalid='ignore'):
            good = np.isfinite(depth) & (depth > 0)
        if usable is not None:
            good &= usable
        found = cv2.goodFeaturesToTrack(
            grey, CORNERS, 0.005, camera.width / 60, mask=good.view(np.uint8)
        )
        corners = np.empty((0, 2), np.float32) if found is None else found[:, 0]
        pixels = corners.astype(int)
        z = depth[pixels[:, 1], pixels[:, 0]].astype(np.float64)
        x = (corners[:, 0] - camera.cx) / camera.fx * z
        y = (corners[:, 1] - camera.cy) / camera.fy * z
        self._points = np.stack([x, y, z], axis=1)
        self._then = self._now = corners
        self._start = seconds

    def _follow(self, grey: np.ndarray) -> None:
        """Find the corners of the last image in this one; forget those that are lost."""
        assert self._grey is not None
        if not len(self._now):
            return
        there, found, _ = cv2.calcOpticalFlowPyrLK(self._grey, grey, self._now, None)  # pyright: ignore
        back, returned, _ = cv2.calcOpticalFlowPyrLK(grey, self._grey, there, None)  # pyright: ignore
        good = (found[:, 0] > 0) & (returned[:, 0] > 0)
        good &= np.linalg.norm(back - self._now, axis=1) < 1
        self._now, self._then, self._points = there[good], self._then[good], self._points[good]

    def _parallax(self) -> float:
        return float(np.median(np.linalg.norm(self._now - self._then, axis=1)))

    def _motion(self, camera: Intrinsics, seconds: float) -> Moved | None:
        unit = float(np.median(self._points[:, 2]))
        points, pixels = self._points / unit, self._now.astype(np.float64)
        cv2.setRNGSeed(0)
        done, turn, shift, inliers = cv2.solvePnPRansac(
            points,
            pixels,
            camera.matrix,
            None,
            iterationsCount=60,
            reprojectionError=max(REPROJECTION[0], REPROJECTION[1] * self._parallax()),
            flags=cv2.SOLVEPNP_EPNP,
        )
        if not done or inliers is None or len(inliers) < LEAST_INLIERS * len(self._now):
            return None
        chosen = np.asarray(inliers, int)[:, 0]
        for _ in range(ROUNDS):
            turn, shift = cv2.solvePnPRefineLM(
                points[chosen], pixels[chosen], camera.matrix, None, turn, shift
            )
            seen = cv2.projectPoints(points, turn, shift, camera.matrix, None)[0][:, 0]
            error = np.linalg.norm(seen - pixels, axis=1)
            chosen = np.flatnonzero(error <= max(CLOSEST, 2.5 * float(np.median(error[chosen]))))
            if len(chosen) < LEAST_CORNERS // 2:
                return None
        return Moved(
            self._start,
            seconds,
            unit * float(np.linalg.norm(shift)),
            float(np.linalg.norm(turn)),
        )
