"""Chains relative camera motions into the pose of a robot's body, with its covariance.

Poses are those of :mod:`depth_ros.core.se3`. Covariances are 6x6 in the order of geometry_msgs:
x, y, z, rotation about X, Y, Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depth_ros.core.confidence import SURE, Confidence
from depth_ros.core.se3 import (
    inverse,
    quaternion_from_rotation,
    rotation_from_quaternion,
    skew,
    vector_from_rotation,
)

MEMORY = 10.0
"""Seconds of motion over which errors that last stay about the same."""


@dataclass(frozen=True)
class NoiseModel:
    """Standard deviation of one step: a floor plus a share of the motion.

    Attributes:
        translation: metres a step.
        translation_ratio: metres a metre moved.
        rotation: radians a step.
        rotation_ratio: radians a radian turned.
        max_speed: metres a second, the most that the body can do.
        max_turn_rate: radians a second, likewise.
    """

    translation: float
    translation_ratio: float
    rotation: float
    rotation_ratio: float
    max_speed: float = 40.0
    max_turn_rate: float = 3.0

    def covariance(self, distance: float, angle: float) -> np.ndarray:
        """Covariance 6x6 of a step of ``distance`` metres and ``angle`` radians."""
        linear = self.translation + self.translation_ratio * distance
        angular = self.rotation + self.rotation_ratio * angle
        return np.diag([linear**2] * 3 + [angular**2] * 3)


@dataclass(frozen=True)
class Motion:
    """One step of a :class:`Trajectory`.

    Attributes:
        transform: T_previous_current 4x4 of the camera's optical frame, metres.
        seconds: time between the two images.
        linear, angular: mean velocity in the body frame, m/s and rad/s.
        covariance: of the velocity, 6x6.
        confidence: how far it may be trusted.
        covered: why nothing was seen and the last velocity was taken; empty if it was seen.
    """

    transform: np.ndarray
    seconds: float
    linear: np.ndarray
    angular: np.ndarray
    covariance: np.ndarray
    confidence: Confidence = SURE
    covered: str = ''


class Trajectory:
    """Chains relative camera poses into the pose of the robot's body, with its covariance.

    Attributes:
        pose: T_odom_base 4x4, metres.
        covariance: of ``pose`` 6x6, expressed in the odom frame.
        distance: metres travelled.
    """

    def __init__(self, camera_in_base: np.ndarray, noise: NoiseModel) -> None:
        """Start at the origin.

        Args:
            camera_in_base: T_base_camera 4x4, the pose of the optical frame in the body frame.
            noise: error of one step.
        """
        self.noise = noise
        self._extrinsic = camera_in_base
        self._extrinsic_inverse = inverse(camera_in_base)
        self.pose = np.eye(4)
        self.covariance = 1e-9 * np.eye(6)  # zero means unknown to many consumers
        self.distance = 0.0
        self._last: Motion | None = None
        self._lasting = np.zeros((6, 4))  # covariance of the pose's error and lasting ones

    def advance(
        self,
        previous_current: np.ndarray,
        seconds: float,
        covariance: np.ndarray | None = None,
        scale_sigma: float = 0.0,
        turn_sigma: float = 0.0,
        confidence: Confidence = SURE,
        covered: str = '',
    ) -> Motion:
        """Add one step.

        Args:
            previous_current: T_previous_current 4x4 of the camera, optical frame, metres.
            seconds: time between the two images, > 0.
            covariance: 6x6 of its translation and rotation, of the camera; by the noise model if
                not given.
            scale_sigma: relative standard deviation of the scale of translations, whose error is
                alike from step to step.
            turn_sigma: standard deviation of the turn that all steps have too much, radians a step.
            confidence, covered: see :class:`Motion`.

        Returns:
            The step, with the body's mean velocity.
        """
        step = self._extrinsic @ previous_current @ self._extrinsic_inverse
        translation, turn = step[:3, 3], vector_from_rotation(step[:3, :3])
        distance = float(np.linalg.norm(translation))
        if covariance is None:
            error = self.noise.covariance(distance, float(np.linalg.norm(turn)))
        else:  # of the camera: a turn of it also moves the body
            to_body = np.zeros((6, 6))
            to_body[:3, :3] = to_body[3:, 3:] = self._extrinsic[:3, :3]
            arm = step[:3, :3] @ self._extrinsic[:3, 3]
            to_body[:3, 3:] = skew(arm) @ self._extrinsic[:3, :3]
            error = to_body @ covariance @ to_body.T
        self._propagate(translation, error)
        self._propagate_lasting(translation, scale_sigma, turn_sigma, seconds)
        error[:3, :3] += scale_sigma**2 * np.outer(translation, translation)
        self.pose = self.pose @ step
        # Rounding would slowly bend the rotation out of SO(3).
        self.pose[:3, :3] = rotation_from_quaternion(quaternion_from_rotation(self.pose[:3, :3]))
        self.distance += distance
        self._last = Motion(
            previous_current,
            seconds,
            translation / seconds,
            turn / seconds,
            error / seconds**2,
            confidence,
            covered,
        )
        return self._last

    def miss(self, seconds: float) -> None:
        """Widen the covariance by a gap of ``seconds`` in which nothing was seen.

        The body may have gone on, stopped or started. One standard deviation is the distance that
        it covers at its last speed, or at 1 m/s and 0.1 rad/s if it was slower, but at most at
        the speed that it can have; and never more than half a turn.
        """
        linear = angular = 0.0
        if self._last is not None:
            linear = float(np.linalg.norm(self._last.linear))
            angular = float(np.linalg.norm(self._last.angular))
        speed = min(max(linear, 1.0), self.noise.max_speed)
        turn = min(min(max(angular, 0.1), self.noise.max_turn_rate) * seconds, math.pi)
        sigmas = [speed * seconds] * 3 + [turn] * 3
        self._propagate(np.zeros(3), np.diag(np.square(sigmas)))

    def _propagate(self, translation: np.ndarray, step_covariance: np.ndarray) -> None:
        """First-order propagation of the covariance over one step.

        With p' = p + R t and R' = R dR, errors (dp, dtheta) in the odom frame grow as
        dp' = dp - skew(R t) dtheta + R dt and dtheta' = dtheta + R dr.
        """
        rotation = self.pose[:3, :3]
        f = np.eye(6)
        f[:3, 3:] = -skew(rotation @ translation)
        g = np.zeros((6, 6))
        g[:3, :3] = g[3:, 3:] = rotation
        self.covariance = f @ self.covariance @ f.T + g @ step_covariance @ g.T
        self._lasting = f @ self._lasting

    def _propagate_lasting(
        self, translation: np.ndarray, scale_sigma: float, turn_sigma: float, seconds: float
    ) -> None:
        """Errors that are alike from step to step: of the scale, and a slow turn that is not there.

        Each is a state of its own, u (4,) of variance 1, that forgets within ``MEMORY``. A step
        adds D u to the error of the pose, where D has the columns (R t, 0) sigma_scale and
        (0, R) sigma_turn. With C (6, 4) the covariance of the error and u,

            P' = P + C D^T + D C^T + D D^T,    C' = exp(-dt / MEMORY) (C + D).
        """
        rotation = self.pose[:3, :3]
        d = np.zeros((6, 4))
        d[:3, 0] = scale_sigma * rotation @ translation
        d[3:, 1:] = turn_sigma * rotation
        mixed = self._lasting @ d.T
        self.covariance += mixed + mixed.T + d @ d.T
        if d.any():
            self._lasting = math.exp(-seconds / MEMORY) * (self._lasting + d)
