import math

import numpy as np
import pytest

from depth_ros.core.se3 import (
    OPTICAL_IN_BASE,
    inverse,
    pose,
    pose_from_list,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_from_vector,
    vector_from_rotation,
)

BASE = pose_from_list(OPTICAL_IN_BASE)


def random_vectors(count=50):
    rng = np.random.default_rng(1)
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return axes * rng.uniform(0, math.pi - 1e-6, (count, 1))


def test_quarter_turn_about_z():
    rotation = rotation_from_vector([0, 0, math.pi / 2])
    np.testing.assert_allclose(rotation, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(quaternion_from_rotation(rotation), [0, 0, half, half])


@pytest.mark.parametrize(
    'vector', [*random_vectors(), np.zeros(3), np.array([1e-9, 0, 0]), np.array([1e-5, -2e-5, 0])]
)
def test_rotation_vector_there_and_back(vector):
    rotation = rotation_from_vector(vector)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(vector_from_rotation(rotation), vector, atol=1e-9)


@pytest.mark.parametrize('axis', np.eye(3))
def test_half_turns(axis):
    rotation = rotation_from_vector(math.pi * axis)
    quaternion = quaternion_from_rotation(rotation)
    np.testing.assert_allclose(np.abs(quaternion), [*axis, 0], atol=1e-12)
    np.testing.assert_allclose(rotation_from_quaternion(quaternion), rotation, atol=1e-12)
    assert np.linalg.norm(vector_from_rotation(rotation)) == pytest.approx(math.pi)


def test_quaternions_are_normalised_and_zero_is_refused():
    np.testing.assert_allclose(
        rotation_from_quaternion([0, 0, 2, 2]),
        rotation_from_vector([0, 0, math.pi / 2]),
        atol=1e-15,
    )
    with pytest.raises(ValueError, match='no direction'):
        rotation_from_quaternion([0, 0, 0, 0])
    with pytest.raises(ValueError, match='seven'):
        pose_from_list((0, 0, 0))


def test_optical_axes_in_base_axes():
    # Optical z is forward (x), optical x is right (-y), optical y is down (-z).
    np.testing.assert_allclose(BASE[:3, :3], [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-15)


def test_inverse():
    motion = pose(rotation_from_vector([0.1, -0.5, 0.3]), [1, 2, 3])
    np.testing.assert_allclose(motion @ inverse(motion), np.eye(4), atol=1e-12)
