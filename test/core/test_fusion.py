"""The odometry's twist in an extended Kalman filter, as config/robot_localization.yaml fuses it."""

from pathlib import Path

import numpy as np
import yaml

from depth_ros.core.se3 import pose, rotation_from_vector
from depth_ros.core.trajectory import NoiseModel, Trajectory

SIGMA = np.r_[np.full(3, 0.02), np.full(3, 0.002)]
CONFIG = Path(__file__).parents[2] / 'config' / 'robot_localization.yaml'


def test_the_file_fuses_the_twist():
    settings = yaml.safe_load(CONFIG.read_text())['ekf_filter_node']['ros__parameters']
    assert settings['odom0'] == 'odom' and settings['world_frame'] == settings['odom_frame']
    fused = settings['odom0_config']
    assert fused == [False] * 6 + [True] * 6 + [False] * 3
    assert not settings['odom0_differential'] and not settings['odom0_relative']


def test_a_filter_that_believes_the_twist_is_neither_too_sure_nor_too_unsure():
    """A planar filter (x, y, yaw) integrates 60 fused twists; its error is as large as it says."""
    ratios = []
    for seed in range(80):
        random = np.random.default_rng(seed)
        trajectory = Trajectory(np.eye(4), NoiseModel(0.02, 0.0, 0.002, 0.0))
        state, covariance, true = np.zeros(3), np.zeros((3, 3)), np.zeros(3)
        for _ in range(60):
            step = pose(rotation_from_vector([0, 0, 0.03]), [0.3, 0, 0])
            error = SIGMA * random.normal(size=6)
            error[[2, 3, 4]] = 0
            seen = step @ pose(rotation_from_vector(error[3:]), error[:3])
            motion = trajectory.advance(seen, 0.1, np.diag(SIGMA**2))
            for twist, place in (
                (np.r_[motion.linear[:2], motion.angular[2]], state),
                (np.array([3.0, 0.0, 0.3]), true),
            ):
                c, s = np.cos(place[2]), np.sin(place[2])
                place[:] += 0.1 * (np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ twist)
            c, s = np.cos(state[2]), np.sin(state[2])
            turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            ahead = turn[:2, :2] @ motion.linear[:2] * 0.1
            f = np.eye(3)
            f[:2, 2] = -ahead[1], ahead[0]
            noise = motion.covariance[np.ix_([0, 1, 5], [0, 1, 5])] * 0.01
            covariance = f @ covariance @ f.T + turn @ noise @ turn.T
        error = state - true
        ratios.append(error @ np.linalg.solve(covariance, error) / 3)
    assert 0.7 < np.mean(ratios) < 1.4
