"""Rigid motions and their chaining into a trajectory. Pure numpy, no ROS.

A pose ``T_a_b`` is a 4x4 matrix that takes points from frame b to frame a: x_a = T_a_b x_b. It is
also "the pose of b in a", and poses chain as T_a_c = T_a_b T_b_c. Covariances are 6x6 in the
order of geometry_msgs: x, y, z, rotation about X, Y, Z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OPTICAL_IN_BASE = (0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5)
"""x y z qx qy qz qw of an optical frame (z forward, x right, y down) at the origin of a base frame
(x forward, y left, z up): REP 103."""


def skew(v: np.ndarray) -> np.ndarray:
    """The 3x3 matrix with skew(v) w = v x w."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_from_vector(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix of an axis-angle vector in radians (Rodrigues' formula).

    R = I + sin(a)/a K + (1 - cos(a))/a^2 K^2 with K = skew(vector) and a = |vector|.
    """
    vector = np.asarray(vector, float)
    angle = np.linalg.norm(vector)
    k = skew(vector)
    if angle < 1e-6:  # series, since sin(a)/a loses its digits
        return np.eye(3) + k + 0.5 * k @ k
    return np.eye(3) + np.sin(angle) / angle * k + (1 - np.cos(angle)) / angle**2 * k @ k


def vector_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Axis-angle vector in radians, of length 0..pi, of a rotation matrix."""
    x, y, z, w = quaternion_from_rotation(rotation)
    axis = np.array([x, y, z])
    norm = np.linalg.norm(axis)
    if norm < 1e-12:
        return 2 * axis
    return 2 * np.arctan2(norm, w) / norm * axis


def quaternion_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (x, y, z, w) with w >= 0 of a rotation matrix.

    The largest of the four components is found first and the others are divided by it (Shepperd's
    method), which is accurate for every rotation, half turns included.
    """
    m = rotation
    trace = np.trace(m)
    squares = np.array([m[0, 0], m[1, 1], m[2, 2], trace])
    i = int(np.argmax(squares))
    q = np.empty(4)
    if i == 3:
        q[:] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + trace
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q[i] = 1 + 2 * m[i, i] - trace
        q[j] = m[i, j] + m[j, i]
        q[k] = m[i, k] + m[k, i]
        q[3] = m[k, j] - m[j, k]
    q /= np.linalg.norm(q)
    return -q if q[3] < 0 else q


def rotation_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix of a quaternion (x, y, z, w), which is normalised first.

    Raises:
        ValueError: if the quaternion is zero or not finite.
    """
    q = np.asarray(quaternion, float)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f'quaternion {q.tolist()} (x, y, z, w) has no direction')
    x, y, z, w = q / norm
    k = skew(np.array([x, y, z]))
    return np.eye(3) + 2 * w * k + 2 * k @ k


def pose(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """The 4x4 pose with this rotation matrix and translation."""
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = translation
    return result


def pose_from_list(values: tuple[float, ...]) -> np.ndarray:
    """The 4x4 pose of [x, y, z, qx, qy, qz, qw].

    Raises:
        ValueError: if there are not seven finite numbers with a usable quaternion.
    """
    if len(values) != 7 or not np.all(np.isfinite(values)):
        raise ValueError(f'{list(values)} must be seven finite numbers: x y z qx qy qz qw')
    return pose(rotation_from_quaternion(values[3:]), values[:3])


def inverse(transform: np.ndarray) -> np.ndarray:
    """Inverse of a rigid 4x4 transform."""
    rotation = transform[:3, :3].T
    return pose(rotation, -rotation @ transform[:3, 3])


@dataclass(frozen=True)
class NoiseModel:
    """Standard deviation of one step: a floor plus a share of the motion.

    Attributes:
        translation: metres a step.
        translation_ratio: metres a metre moved.
        rotation: radians a step.
        rotation_ratio: radians a radian turned.
    """

    translation: float
    translation_ratio: float
    rotation: float
    rotation_ratio: float

    def covariance(self, distance: float, angle: float) -> np.ndarray:
        """Covariance 6x6 of a step of ``distance`` metres and ``angle`` radians."""
        linear = self.translation + self.translation_ratio * distance
        angular = self.rotation + self.rotation_ratio * angle
        return np.diag([linear**2] * 3 + [angular**2] * 3)


@dataclass(frozen=True)
class Motion:
    """What one step of a :class:`Trajectory` was.

    Attributes:
        linear, angular: mean velocity in the body frame, m/s and rad/s.
        covariance: of the velocity, 6x6.
    """

    linear: np.ndarray
    angular: np.ndarray
    covariance: np.ndarray


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
        self._last: Motion | None = None
        self.reset()

    def reset(self) -> None:
        """Go back to the origin and forget the covariance."""
        self.pose = np.eye(4)
        self.covariance = 1e-9 * np.eye(6)  # never zero, which many consumers read as unknown
        self.distance = 0.0
        self._last = None

    def advance(self, previous_current: np.ndarray, seconds: float) -> Motion:
        """Add one step.

        Args:
            previous_current: T_previous_current 4x4 of the camera, optical frame, metres.
            seconds: time between the two images, > 0.

        Returns:
            The body's mean motion during the step.
        """
        step = self._extrinsic @ previous_current @ self._extrinsic_inverse
        translation, turn = step[:3, 3], vector_from_rotation(step[:3, :3])
        distance = float(np.linalg.norm(translation))
        covariance = self.noise.covariance(distance, float(np.linalg.norm(turn)))
        self._propagate(translation, covariance)
        self.pose = self.pose @ step
        # Rounding would slowly bend the rotation out of SO(3).
        self.pose[:3, :3] = rotation_from_quaternion(quaternion_from_rotation(self.pose[:3, :3]))
        self.distance += distance
        self._last = Motion(translation / seconds, turn / seconds, covariance / seconds**2)
        return self._last

    def miss(self, seconds: float) -> None:
        """Widen the covariance by a gap of ``seconds`` in which nothing was seen.

        The body may have gone on as it did, stopped or started: one standard deviation is the way
        it would have gone at its last speed, or at 1 m/s and 0.1 rad/s if it was slower.
        """
        linear = angular = 0.0
        if self._last is not None:
            linear = float(np.linalg.norm(self._last.linear))
            angular = float(np.linalg.norm(self._last.angular))
        sigmas = [max(linear, 1.0) * seconds] * 3 + [max(angular, 0.1) * seconds] * 3
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
