import math

import numpy as np
import pytest

from depth_ros.core.se3 import (
    OPTICAL_IN_BASE,
    inverse,
    pose,
    pose_from_list,
    rotation_from_vector,
)
from depth_ros.core.trajectory import NoiseModel, Trajectory

QUIET = NoiseModel(0.01, 0.1, 0.001, 0.05)
BASE = pose_from_list(OPTICAL_IN_BASE)


def forward(distance, yaw=0.0):
    """Motion of a camera: ``distance`` along its z axis, then a left turn about its -y axis."""
    return pose(rotation_from_vector([0, -yaw, 0]), [0, 0, distance])


def test_a_square_drive_returns_to_the_start():
    trajectory = Trajectory(BASE, QUIET)
    corners = []
    for _ in range(4):
        trajectory.advance(forward(2.0, math.pi / 2), 1.0)
        corners.append(trajectory.pose[:3, 3].copy())
    # Forward is x of the base, left is y.
    np.testing.assert_allclose(corners, [[2, 0, 0], [2, 2, 0], [0, 2, 0], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(trajectory.pose, np.eye(4), atol=1e-12)
    assert trajectory.distance == pytest.approx(8)


def test_velocity_is_the_body_motion_over_time():
    trajectory = Trajectory(BASE, QUIET)
    trajectory.advance(forward(1.0, 0.3), 0.1)
    motion = trajectory.advance(forward(1.0, 0.2), 0.1)
    np.testing.assert_allclose(motion.linear, [10, 0, 0], atol=1e-12)
    np.testing.assert_allclose(motion.angular, [0, 0, 2], atol=1e-12)
    np.testing.assert_allclose(np.diag(motion.covariance)[:3], (0.01 + 0.1) ** 2 / 0.01)


def test_a_camera_off_the_centre_moves_when_the_body_turns():
    # Camera 1 m in front of the body; the body turns left on the spot.
    extrinsic = pose_from_list((1.0, 0, 0, *OPTICAL_IN_BASE[3:]))
    turn = pose(rotation_from_vector([0, 0, 0.4]), [0, 0, 0])
    trajectory = Trajectory(extrinsic, QUIET)
    trajectory.advance(inverse(extrinsic) @ turn @ extrinsic, 1.0)
    np.testing.assert_allclose(trajectory.pose, turn, atol=1e-12)
    assert trajectory.distance == pytest.approx(0, abs=1e-12)


def test_covariance_of_a_straight_drive_by_hand():
    noise = NoiseModel(0.01, 0.1, 0.002, 0.0)
    trajectory = Trajectory(BASE, noise)
    trajectory.covariance = np.zeros((6, 6))
    trajectory.advance(forward(1.0), 1.0)
    trajectory.advance(forward(1.0), 1.0)
    step, turn = 0.11**2, 0.002**2
    # Along the drive: two steps. Across: two steps, and the first turn's error times 1 m.
    np.testing.assert_allclose(
        np.diag(trajectory.covariance),
        [2 * step, 2 * step + turn, 2 * step + turn, 2 * turn, 2 * turn, 2 * turn],
    )
    np.testing.assert_allclose(trajectory.covariance[1, 5], turn)  # left is error of yaw
    np.testing.assert_allclose(trajectory.covariance, trajectory.covariance.T)


def test_covariance_agrees_with_simulation():
    rng = np.random.default_rng(0)
    noise = NoiseModel(0.02, 0.0, 0.01, 0.0)
    steps = [forward(1.0, 0.1)] * 10
    truth = Trajectory(BASE, noise)
    for step in steps:
        truth.advance(step, 1.0)
    ends = []
    for _ in range(800):
        run = np.eye(4)
        for step in steps:
            body = BASE @ step @ inverse(BASE)
            error = pose(rotation_from_vector(rng.normal(0, 0.01, 3)), [0, 0, 0])
            body = pose((body @ error)[:3, :3], body[:3, 3] + rng.normal(0, 0.02, 3))
            run = run @ body
        ends.append(run[:3, 3])
    spread = np.cov(np.array(ends).T)
    assert np.linalg.norm(spread - truth.covariance[:3, :3]) < 0.25 * np.linalg.norm(spread)


def test_a_gap_widens_the_covariance_but_keeps_the_pose():
    trajectory = Trajectory(BASE, QUIET)
    trajectory.advance(forward(2.0), 1.0)
    before = trajectory.covariance.copy()
    place = trajectory.pose.copy()
    trajectory.miss(3.0)
    np.testing.assert_array_equal(trajectory.pose, place)
    np.testing.assert_allclose(np.diag(trajectory.covariance - before)[:3], (2.0 * 3) ** 2)


def test_covariance_is_never_zero():
    trajectory = Trajectory(BASE, QUIET)
    assert (np.diag(trajectory.covariance) > 0).all()
    motion = trajectory.advance(pose(np.eye(3), np.zeros(3)), 1.0)
    assert (np.diag(motion.covariance) > 0).all()


def test_long_chains_stay_rotations():
    trajectory = Trajectory(BASE, QUIET)
    for _ in range(2000):
        trajectory.advance(forward(0.5, 0.01).astype(np.float32), 0.1)
    rotation = trajectory.pose[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)


def test_an_error_that_lasts_adds_up_and_not_by_its_square():
    """Scale: 1 % of ten metres. A turn that is not there: ten times as much after ten steps."""
    trajectory = Trajectory(BASE, QUIET)
    trajectory.covariance = np.zeros((6, 6))
    for _ in range(10):
        trajectory.advance(forward(1.0), 1e-6, np.zeros((6, 6)), 0.01, 0.001)
    sigma = np.sqrt(np.diag(trajectory.covariance))
    assert sigma[0] == pytest.approx(0.1, rel=1e-4)
    assert sigma[5] == pytest.approx(0.01, rel=1e-4)
    assert sigma[1] == pytest.approx(0.001 * sum(range(10)), rel=1e-4)  # sideways, in front
    np.testing.assert_allclose(trajectory.covariance, trajectory.covariance.T, atol=1e-15)


def test_a_lasting_error_is_forgotten():
    """Far apart in time, errors of the scale are independent: sqrt(n) instead of n."""
    trajectory = Trajectory(BASE, QUIET)
    trajectory.covariance = np.zeros((6, 6))
    for _ in range(16):
        trajectory.advance(forward(1.0), 1000.0, np.zeros((6, 6)), 0.01)
    assert np.sqrt(trajectory.covariance[0, 0]) == pytest.approx(0.04, rel=1e-4)


def test_the_covariance_of_a_camera_becomes_that_of_the_body():
    """A camera 2 m above the body: its error of rotation about the axis across moves the body."""
    trajectory = Trajectory(pose_from_list((0, 0, 2.0, *OPTICAL_IN_BASE[3:])), QUIET)
    pitch = np.diag([0, 0, 0, 1e-4, 0, 0])  # about the camera's x axis, which is the body's -y
    motion = trajectory.advance(forward(1.0), 1.0, pitch)
    np.testing.assert_allclose(np.diag(motion.covariance)[3:], [0, 1e-4, 0], atol=1e-12)
    np.testing.assert_allclose(np.diag(motion.covariance)[:3], [4e-4, 0, 0], atol=1e-12)
