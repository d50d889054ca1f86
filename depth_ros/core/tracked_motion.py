"""Metric motion from image to image by corners, with what the networks know of scale and classes.

:mod:`~depth_ros.core.corner_odometry` gives the motion in a unit of its own,
:mod:`~depth_ros.core.map_scale` the metres, and :mod:`~depth_ros.core.confidence` says how far both
may be trusted. What cannot be seen is covered by the last velocity.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.confidence import SURE, Confidence, judge
from depth_ros.core.corner_odometry import CornerOdometry, Step
from depth_ros.core.map_scale import MapScale, MapScaler
from depth_ros.core.se3 import pose, rotation_from_vector, vector_from_rotation
from depth_ros.core.tracking import tracking_image

KEPT = 20
"""How many images are remembered for depth and labels that come later."""

PATIENCE = 5
"""Images in a row that show nothing, after which the map is given up."""

LASTING = 0.4
"""Share of a step's error of rotation that the next steps have, too: it comes from the calibration
of the camera and the places of the corners, not from noise."""

CALIBRATION = (5.5, 4.8)
"""Factors of the standard deviations of translation and rotation that the equations give, so that
they are true on recordings: corners' errors are not independent."""

RATIO = (0.01, 0.04)
"""Standard deviation of a step as a share of its translation and its rotation: rows that are not
exposed at one time, blur, stamps."""

FLOOR = (1e-4, 1e-5)
"""Least standard deviation of a step's translation, as a share of the distance of the points, and
of its rotation, radians."""

COVERED = (0.5, 0.5)
"""Standard deviation of a covered step, as a share of its translation and its rotation."""

COVERED_RATE = (0.3, 0.2)
"""The least of it: metres and radians a second."""

STILL = 1e-6
"""Standard deviation of a step that is exactly nothing, metres and radians: a camera that stands
does not drift."""

UNKNOWN = 0.3
"""Relative standard deviation of a scale that nobody knows."""


@dataclass(frozen=True)
class Tracked:
    """A step.

    Attributes:
        transform: T_previous_current 4x4 of the optical frame, metres as far as they are known.
        covariance: 6x6 of the translation and rotation of the current camera, in the previous
            camera's frame, without the error of the scale.
        scale_sigma: relative standard deviation of the scale.
        turn_sigma: standard deviation of the turn that all steps have too much, radians.
        confidence: how far it may be trusted.
        covered: why nothing was seen and the last velocity was taken; empty if it was seen.
    """

    transform: np.ndarray
    covariance: np.ndarray
    scale_sigma: float
    turn_sigma: float = 0.0
    confidence: Confidence = SURE
    covered: str = ''


@dataclass
class _Shown:
    """What an image showed: see :meth:`CornerOdometry.shown`."""

    stamp: int
    names: np.ndarray
    places: np.ndarray
    depth: np.ndarray


class TrackedMotion:
    """Follows one camera.

    Attributes:
        step: what the corners said of the last image; ``None`` before the second.
        scale: what is known of the metres.
    """

    def __init__(self, camera_height: float = 0.0, down: np.ndarray | None = None) -> None:
        """Start without an image.

        Args:
            camera_height: of the camera over the ground, metres; 0: not known.
            down: unit vector (3,) of the optical frame that points down.
        """
        self.step: Step | None = None
        self.scale: MapScale | None = None
        self._scaler = MapScaler(camera_height, down)
        self._corners: CornerOdometry | None = None
        self._velocity = np.zeros(6)  # v, w of the camera, map's unit and radians a second
        self._shown: deque[_Shown] = deque(maxlen=KEPT)
        self._lost = 0
        self._since = 0.0  # length of the way since a map was begun that has no unit yet

    @property
    def standing(self) -> bool:
        """Whether the camera stood still when the last image was taken."""
        return self._corners is not None and self._corners.standing

    def start(self, picture: np.ndarray, camera: Intrinsics, stamp: int) -> None:
        """Begin with this image; what is known of the scale stays.

        Args:
            picture: uint8 (H, W, 3) RGB, of the camera's size.
            camera: the camera.
            stamp: when it was taken, nanoseconds.
        """
        grey, small = tracking_image(picture, camera)
        self._corners = CornerOdometry(small)
        self._corners.begin(grey)
        self._lost, self._since = 0, 0.0
        self._remember(stamp)

    def predicted(self, seconds: float) -> np.ndarray:
        """T_previous_current 4x4 by the last velocity, in the map's unit."""
        xi = self._velocity * seconds
        return pose(rotation_from_vector(xi[3:]), xi[:3])

    def follow(
        self,
        picture: np.ndarray,
        camera: Intrinsics,
        stamp: int,
        seconds: float,
        network: np.ndarray | None,
    ) -> Tracked:
        """Add an image.

        Args:
            picture, camera, stamp: as of :meth:`start`; of the same size.
            seconds: since the previous image.
            network: T_previous_current 4x4 as the pose network sees it, its unit; ``None``
                without.
        """
        assert self._corners is not None
        grey, _ = tracking_image(picture, camera)
        now = stamp / 1e9
        moved = None if network is None else float(np.linalg.norm(network[:3, 3]))
        guess = self.predicted(seconds)
        unit = 1.0
        if not self._corners.ready:  # as far as the network, or the last velocity, says
            self._since += moved or float(np.linalg.norm(self._velocity[:3])) * seconds
            unit = self._since or 1.0
            guess[:3, 3] = 0
        step = self.step = self._corners.step(grey, guess, unit)
        if step.transform is None:
            return self._cover(step.text, grey, guess, seconds, now)
        self._lost = 0
        self._remember(stamp)
        if self._corners.ready or step.standing:
            self._since = 0.0
        self._velocity = (
            np.concatenate([step.transform[:3, 3], vector_from_rotation(step.transform[:3, :3])])
            / seconds
        )
        if step.keyframe:
            self._scaler.keyframe(self._corners.map, self._corners.camera, now)
        own = float(np.linalg.norm(step.transform[:3, 3]))
        if moved and own and self._corners.ready:
            self._scaler.network(own, moved, now)
        metres, sigma = self._metres(now)
        transform = step.transform.copy()
        transform[:3, 3] *= metres
        covariance = self._covariance(step, transform, metres)
        return Tracked(
            transform,
            covariance,
            sigma if own else 0.0,
            0.0 if step.standing else LASTING * float(np.sqrt(np.trace(covariance[3:, 3:]) / 3)),
            self._judge(step, transform, network),
        )

    def add_depth(
        self,
        stamp: int,
        depth: np.ndarray | None,
        labels: np.ndarray | None,
        camera: Intrinsics,
        *,
        metric: bool = True,
        movable: tuple[int, ...] = (),
        ground: np.ndarray | None = None,
    ) -> bool:
        """Take what the perception network says of an image, which may be one of the last ones.

        Args:
            stamp: of the image, nanoseconds.
            depth: float32 (H, W) along the optical axis; NaN = invalid; ``None`` without.
            labels: uint8 (H, W), class ids; ``None`` without.
            camera: the camera at this size.
            metric: whether depth is in metres.
            movable: ids of what may move by itself.
            ground: (256,), how much each class id counts as ground.

        Returns:
            Whether the image is one of those that are remembered.
        """
        shown = next((s for s in self._shown if s.stamp == stamp), None)
        if shown is None or self._corners is None:
            return False
        u = np.rint(shown.places[:, 0] * camera.fx + camera.cx).astype(int)
        v = np.rint(shown.places[:, 1] * camera.fy + camera.cy).astype(int)
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        u, v = u[inside], v[inside]
        names, own = shown.names[inside], shown.depth[inside]
        static = np.ones(len(u), bool)
        if labels is not None:
            found = labels[v, u]
            static = ~np.isin(found, movable)
            points = self._corners.map
            order = np.argsort(names)
            names, found = names[order], found[order]
            rows = np.flatnonzero(np.isin(points.name, names))
            which = found[np.searchsorted(names, points.name[rows])]
            points.movable[rows] = np.isin(which, movable)
            if ground is not None:
                points.ground[rows] = ground[which]
        if depth is not None and metric:
            self._scaler.depth(own[static], depth[v, u][static], stamp / 1e9)
        return True

    def _remember(self, stamp: int) -> None:
        assert self._corners is not None
        self._shown.append(_Shown(stamp, *self._corners.shown()))

    def _metres(self, now: float) -> tuple[float, float]:
        """Metres per unit of the map, and their relative standard deviation."""
        self.scale = self._scaler.at(now)
        return (1.0, UNKNOWN) if self.scale is None else self.scale[:2]

    def _cover(
        self, text: str, grey: np.ndarray, guess: np.ndarray, seconds: float, now: float
    ) -> Tracked:
        """Nothing was seen: go on as before, less and less surely."""
        assert self._corners is not None
        self._lost += 1
        metres, sigma = self._metres(now)
        transform = self.predicted(seconds)
        transform[:3, 3] *= metres
        if self._lost >= PATIENCE:
            self._corners.begin(grey)
            self._lost, self._since = 0, 0.0
        else:
            self._corners.cover(guess)
        length = float(np.linalg.norm(transform[:3, 3]))
        angle = float(np.linalg.norm(self._velocity[3:])) * seconds
        linear = COVERED[0] * length + COVERED_RATE[0] * seconds
        angular = COVERED[1] * angle + COVERED_RATE[1] * seconds
        covariance = np.diag([linear**2] * 3 + [angular**2] * 3)
        return Tracked(transform, covariance, sigma, 0.0, Confidence(0.0, (text,)), text)

    def _covariance(self, step: Step, transform: np.ndarray, metres: float) -> np.ndarray:
        """Covariance 6x6 of a step, metres and radians, as seen from the current camera."""
        if step.standing:
            return STILL**2 * np.eye(6)
        scaling = np.repeat((metres * CALIBRATION[0], CALIBRATION[1]), 3)
        covariance = step.covariance * np.outer(scaling, scaling)
        moved, turned = np.linalg.norm(transform[:3, 3]), vector_from_rotation(transform[:3, :3])
        linear = (FLOOR[0] * metres * step.distance) ** 2 + (RATIO[0] * moved) ** 2
        angular = FLOOR[1] ** 2 + (RATIO[1] * np.linalg.norm(turned)) ** 2
        return covariance + np.diag(np.repeat((linear, angular), 3))

    def _judge(self, step: Step, transform: np.ndarray, network: np.ndarray | None) -> Confidence:
        if step.standing:
            return SURE
        apart = None
        if network is not None:
            length = max(float(np.linalg.norm(transform[:3, 3])), 1e-6)
            apart = float(np.linalg.norm(network[:3, 3] - transform[:3, 3])) / length
        assert self._corners is not None
        return judge(
            corners=round(step.inliers * step.tracked),
            inliers=step.inliers,
            residual=step.residual,
            scale_sigma=None if self.scale is None else self.scale.sigma,
            network=apart,
            ready=self._corners.ready,
        )
