"""Rigid motions: rotations, quaternions and 4x4 poses.

A pose ``T_a_b`` is a 4x4 matrix that takes points from frame b to frame a: x_a = T_a_b x_b. It is
also "the pose of b in a", and poses chain as T_a_c = T_a_b T_b_c.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

OPTICAL_IN_BASE = (0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5)
"""x y z qx qy qz qw of an optical frame (z forward, x right, y down) at the origin of a base frame
(x forward, y left, z up): REP 103."""


def skew(v: ArrayLike) -> np.ndarray:
    """The 3x3 matrix with skew(v) w = v x w."""
    x, y, z = np.asarray(v, float)
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_from_vector(vector: ArrayLike) -> np.ndarray:
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


def rotation_from_quaternion(quaternion: ArrayLike) -> np.ndarray:
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


def pose(rotation: ArrayLike, translation: ArrayLike) -> np.ndarray:
    """The 4x4 pose with this rotation matrix and translation."""
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = translation
    return result


def pose_from_list(values: Sequence[float]) -> np.ndarray:
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


def interpolate(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The pose at ``share`` (0..1) of the way from pose ``a`` to pose ``b``.

    The translation is interpolated linearly, the rotation about a fixed axis (slerp).
    """
    turn = vector_from_rotation(a[:3, :3].T @ b[:3, :3])
    return pose(
        a[:3, :3] @ rotation_from_vector(share * turn), (1 - share) * a[:3, 3] + share * b[:3, 3]
    )
