"""What something trivial scores, worked out by hand."""

import math

import numpy as np
import pytest

from depth_ros.core.camera import Intrinsics
from depth_ros.core.metrics.baselines import (
    BestConstant,
    baseline_lines,
    depth_baselines,
    flat_ground_depth,
    trajectory_baselines,
)
from depth_ros.core.metrics.depth import depth_errors
from depth_ros.core.metrics.trajectory import trajectory_table

CAMERA = Intrinsics(10.0, 10.0, 4.5, 1.0, 10, 6)


def test_flat_ground_by_hand():
    depth = flat_ground_depth(CAMERA, 2.0)
    assert depth.shape == (6, 10)
    # h fy / (v - cy): 20 / 1, 20 / 2, ...; the horizon and what is above it is far.
    np.testing.assert_allclose(depth[:, 0], [30, 30, 20, 10, 20 / 3, 5], rtol=1e-6)
    assert (depth == depth[:, :1]).all()


def test_depth_by_hand():
    truth = np.full((6, 10), np.nan)
    truth[2], truth[3], truth[5] = 40.0, 20.0, 10.0
    found = depth_baselines(truth, CAMERA, height=2.0)
    assert set(found) == {'constant', 'flat_ground', 'flat_ground_in_metres'}
    # Any constant becomes the median, 20: off by 50 %, 0 and 100 %.
    assert found['constant'].abs_rel == pytest.approx(0.5)
    # The ground gives 20, 10 and 5, half of everything.
    assert found['flat_ground'].abs_rel == pytest.approx(0, abs=1e-6)
    assert found['flat_ground_in_metres'].abs_rel == pytest.approx(0.5)
    assert set(depth_baselines(truth, CAMERA)) == {'constant', 'flat_ground'}
    assert set(depth_baselines(truth, None)) == {'constant'}
    assert depth_baselines(np.full((6, 10), np.nan), CAMERA) == {}


def test_depth_at_another_size_than_the_camera():
    truth = flat_ground_depth(CAMERA.resized(40, 24), 1.5)
    found = depth_baselines(truth, CAMERA, height=1.5)
    assert found['flat_ground_in_metres'].abs_rel == pytest.approx(0, abs=1e-6)


def test_the_best_constant_of_all_images():
    random = np.random.default_rng(0)
    images = [random.uniform(2, 60, (40, 50)), random.uniform(1, 5, (40, 50))]
    best = BestConstant()
    assert best.errors() is None
    for image in images:
        image[:3], image[3:5] = np.nan, 0  # unknown
        best.add(image)
    constant, errors = best.errors()
    known = [image[image > 0] for image in images]

    def mean(value):
        return np.mean([depth_errors(np.full_like(k, value), k) for k in known], axis=0)

    np.testing.assert_allclose(errors, mean(constant), rtol=0.05, atol=0.02)
    tried = [mean(value)[0] for value in np.geomspace(0.5, 60, 300)]
    assert errors.abs_rel < 1.03 * min(tried)


def drive(count=150, turn=0.0):
    """Poses of a car that goes a metre a step and turns, seen by a camera ahead."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for i in range(1, count):
        c, s = math.cos(turn), math.sin(turn)
        step = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 1.0], [0, 0, 0, 1]])
        poses[i] = poses[i - 1] @ step
    return poses


def test_a_straight_drive_is_a_straight_line():
    truth = drive()
    found = trajectory_baselines(truth, np.arange(len(truth)) / 10)
    line = found['constant_velocity']
    assert line['ate_se3'] == pytest.approx(0, abs=1e-6)
    assert line['t_err_se3'] == pytest.approx(0, abs=1e-6)
    still = found['standing_still']
    # Positions 0 .. 149 on a line: their standard deviation.
    assert still['ate_se3'] == still['ate_sim3'] == pytest.approx(np.arange(150).std())
    assert still['rpe_se3'] == pytest.approx(1) and still['t_err_se3'] == pytest.approx(100, abs=2)


def test_a_turn_is_none():
    truth = drive(turn=math.radians(0.5))
    found = trajectory_baselines(truth, np.arange(len(truth)) / 10)
    line = found['constant_velocity']
    assert line['ate_sim3'] > 1 and line['r_err'] == pytest.approx(50, rel=0.02)
    assert set(line) <= set(trajectory_table(truth, truth))  # the same names


def test_who_stands_has_no_straight_line():
    still = np.tile(np.eye(4), (20, 1, 1))
    found = trajectory_baselines(still, np.arange(20.0))
    assert set(found) == {'standing_still'} and found['standing_still']['ate_se3'] == 0
    assert set(trajectory_baselines(drive(5), np.zeros(5))) == {'standing_still'}


def test_lines_of_text():
    rows = {'standing_still': {'ate_se3': 1.23456, 'r_err': 2.0}}
    assert baseline_lines(rows, {'ate_se3': 'ATE', 't_err': 't_err'}) == [
        'standing still: ATE 1.23'
    ]
