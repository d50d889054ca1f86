"""Stepping from image to image, and each reason why an image gives no motion."""

import numpy as np
import pytest

from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose_from_list
from depth_ros.core.trajectory import Motion, NoiseModel
from depth_ros.core.visual_odometry import (
    PATIENCE,
    Missed,
    NotFiniteError,
    Reason,
    VisualOdometry,
)

BASE = pose_from_list(OPTICAL_IN_BASE)
CAMERA = Intrinsics(50.0, 50.0, 49.5, 29.5, 100, 60)
NOISE = NoiseModel(0.01, 0.1, 0.001, 0.05)
PERIOD = 100_000_000  # nanoseconds
BROKEN, NAN = 200, 255  # images on which the network fails


def place(metres):
    """The image at a place along the camera's axis, whole centimetres."""
    return np.full((6, 8, 3), round(100 * metres), np.uint8)


def network(previous, current):
    """How far it is from one :func:`place` to another."""
    levels = int(previous[0, 0, 0]), int(current[0, 0, 0])
    if BROKEN in levels:
        raise RuntimeError('out of memory')
    if NAN in levels:
        return np.array([0, 0, 0, 0, 0, np.nan], np.float32)
    return np.array([0, 0, 0, 0, 0, (levels[1] - levels[0]) / 100], np.float32)


@pytest.fixture
def odometry():
    return VisualOdometry(network, BASE, NOISE)


def drive(odometry, *frames):
    """Step through (period, metres); returns the results. Forward is x of the body."""
    return [odometry.step(place(x), round(n * PERIOD), CAMERA) for n, x in frames]


def x_of(odometry):
    return pytest.approx(odometry.trajectory.pose[0, 3], abs=1e-6)


def spread(odometry):
    """Variance along the way."""
    return odometry.trajectory.covariance[0, 0]


def test_motions_chain(odometry):
    first, *motions = drive(odometry, (0, 0.1), (1, 0.2), (2, 0.4))
    assert first.reason is Reason.FIRST and first.starts
    assert all(isinstance(m, Motion) for m in motions)
    assert [m.seconds for m in motions] == [0.1, 0.1]
    assert motions[1].transform[2, 3] == pytest.approx(0.2)
    np.testing.assert_allclose(motions[1].linear, [2, 0, 0], atol=1e-6)
    assert 0.3 == x_of(odometry)


def test_a_doubled_image_is_ignored(odometry):
    _, _, doubled, motion = drive(odometry, (0, 0.1), (1, 0.2), (1, 0.25), (2, 0.4))
    assert doubled.reason is Reason.DOUBLED and not doubled.starts
    assert 'same stamp 0.100' in doubled.text
    assert motion.transform[2, 3] == pytest.approx(0.2) and motion.seconds == 0.1
    assert 0.3 == x_of(odometry)


def test_a_late_image_is_never_counted_twice(odometry):
    frames = (0, 0.0), (1, 0.1), (3, 0.3), (2, 0.2), (4, 0.4)
    *_, late, motion = drive(odometry, *frames)
    assert late.reason is Reason.LATE and not late.starts and '0.100 s behind' in late.text
    assert motion.seconds == pytest.approx(0.1)
    assert 0.4 == x_of(odometry) and odometry.trajectory.distance == pytest.approx(0.4)


def test_a_clock_that_goes_back(odometry):
    drive(odometry, (100, 0.1), (101, 0.2))
    before = spread(odometry)
    jump, motion = drive(odometry, (50, 0.5), (51, 0.6))
    assert jump.reason is Reason.CLOCK and jump.starts and 'back by 5.100 s' in jump.text
    assert isinstance(motion, Motion) and 0.2 == x_of(odometry)
    assert spread(odometry) > before + odometry.max_gap**2  # at 1 m/s


def test_a_clock_that_goes_back_a_little_is_not_waited_for(odometry):
    drive(odometry, (100, 0.1), (101, 0.2))
    results = drive(odometry, *((95 + i, 0.3 + 0.1 * i) for i in range(PATIENCE + 2)))
    assert [r.reason for r in results[:-1]] == [Reason.LATE] * PATIENCE + [Reason.CLOCK]
    assert isinstance(results[-1], Motion) and 0.2 == x_of(odometry)


def test_a_gap(odometry):
    odometry.max_gap = 0.5
    drive(odometry, (0, 0.1), (1, 0.2))
    before = spread(odometry)
    just, gap, motion = drive(odometry, (6, 0.3), (26, 0.9), (27, 1.0))
    assert isinstance(just, Motion) and just.seconds == 0.5
    assert gap.reason is Reason.GAP and gap.starts
    assert '2.00 s between two images is over max_gap (0.5 s)' in gap.text
    assert isinstance(motion, Motion) and 0.3 == x_of(odometry)
    assert spread(odometry) > before + 2.0**2


def test_another_image_size(odometry):
    drive(odometry, (0, 0.1), (1, 0.2))
    before = spread(odometry)
    half = CAMERA.resized(50, 30)
    changed = odometry.step(place(0.9), 2 * PERIOD, half)
    assert changed.reason is Reason.CAMERA and changed.starts
    assert 'from 100x60 to 50x30' in changed.text
    assert spread(odometry) == pytest.approx(before + 0.1**2)
    assert isinstance(odometry.step(place(1.0), 3 * PERIOD, half), Motion)
    assert 0.2 == x_of(odometry)


@pytest.mark.parametrize(
    'level, reason, text',
    [
        (BROKEN, Reason.NETWORK, 'out of memory'),
        (NAN, Reason.NOT_FINITE, 'the model is damaged'),
    ],
)
def test_after_a_failure_the_next_motion_spans_two_frames(odometry, level, reason, text):
    drive(odometry, (0, 0.0), (1, 0.1))
    before = spread(odometry)
    missed, motion = drive(odometry, (2, level / 100), (3, 0.5))
    assert missed.reason is reason and not missed.starts and text in missed.text
    assert motion.seconds == pytest.approx(0.2)
    np.testing.assert_allclose(motion.linear, [2, 0, 0], atol=1e-6)  # 0.4 m in 0.2 s
    assert 0.5 == x_of(odometry)  # nothing is missing
    assert spread(odometry) == pytest.approx(before + (0.01 + 0.1 * 0.4) ** 2)


@pytest.mark.parametrize('level', [BROKEN, NAN])
def test_an_image_that_spoils_every_pair_is_given_up(odometry, level):
    missed = drive(odometry, (0, level / 100), (1, 0.1), (2, 0.2), (3, 0.4))
    assert [m.starts for m in missed[1:-1]] == [False, True]
    assert missed[-1].transform[2, 3] == pytest.approx(0.2)
    assert 0.2 == x_of(odometry)
    assert spread(odometry) > 0.2**2  # two steps are missing


def test_the_covariance_grows_while_the_network_fails(odometry):
    drive(odometry, (0, 0.1), (1, 0.2))
    spreads = [spread(odometry)]
    for i in range(2, 2 + 3 * PATIENCE):
        assert isinstance(odometry.step(place(NAN / 100), i * PERIOD, CAMERA), Missed)
        spreads.append(spread(odometry))
    grown = np.diff(spreads).reshape(3, PATIENCE)
    np.testing.assert_allclose(grown, [[0] * (PATIENCE - 1) + [(0.1 * PATIENCE) ** 2]] * 3)
    assert 0.1 == x_of(odometry)


def test_failures_up_to_a_gap(odometry):
    drive(odometry, (0, 0.1), (1, 0.2))
    _, gap = drive(odometry, (2, NAN / 100), (12, 0.3))
    assert gap.reason is Reason.GAP and '1.10 s' in gap.text


@pytest.mark.parametrize(
    'metric, scale, metres',
    [(True, 0.0, 0.1), (True, 4.0, 0.1), (False, 0.0, 0.1), (False, 4.0, 0.4)],
)
def test_scale(metric, scale, metres):
    odometry = VisualOdometry(network, BASE, NOISE, metric=metric, translation_scale=scale)
    drive(odometry, (0, 0.0), (1, 0.1))
    assert metres == x_of(odometry)


def test_reset_starts_again(odometry):
    drive(odometry, (0, 0.1), (1, 0.2), (2, 0.3))
    before = spread(odometry)
    odometry.reset(BASE)
    trajectory = odometry.trajectory
    np.testing.assert_array_equal(trajectory.pose, np.eye(4))
    assert trajectory.distance == 0 and (np.diag(trajectory.covariance) > 0).all()
    first, motion = drive(odometry, (3, 0.5), (4, 0.6))
    assert first.reason is Reason.FIRST and isinstance(motion, Motion)
    assert 0.1 == x_of(odometry) and spread(odometry) < before


def test_two_images_apart_from_the_trajectory(odometry):
    drive(odometry, (0, 0.1), (1, 0.2))
    assert odometry.compare(place(0.1), place(0.5))[2, 3] == pytest.approx(0.4)
    with pytest.raises(NotFiniteError, match=r'returned \[0.0, .*nan\]; the model is damaged'):
        odometry.compare(place(0.1), place(NAN / 100))
    assert 0.1 == x_of(odometry)


def test_images_without_stamps_are_called_so(odometry):
    _, missed = drive(odometry, (0, 0.1), (0, 0.2))
    assert missed.reason is Reason.NO_STAMP and 'camera driver' in missed.text


def test_a_clock_that_is_set_forward_starts_the_trajectory_again(odometry):
    """A stamp of 1970, then NTP: 50 years are no gap, and metres of 1970 say nothing of today."""
    drive(odometry, (0, 0.1), (1, 0.2))
    years = 50 * 365 * 24 * 36000
    restart, motion = drive(odometry, (years, 0.5), (years + 1, 0.6))
    assert restart.reason is Reason.RESTART and restart.starts and 'restart_gap' in restart.text
    assert isinstance(motion, Motion) and 0.1 == x_of(odometry)
    assert spread(odometry) < 0.1


def test_gaps_widen_the_covariance_by_what_the_body_can_do():
    noise = NoiseModel(0.01, 0.1, 0.001, 0.05, max_speed=2.0, max_turn_rate=0.5)
    odometry = VisualOdometry(network, BASE, noise)
    drive(odometry, (0, 0.0), (1, 1.9))  # 19 m/s is a fault of the network
    before = spread(odometry)
    drive(odometry, (101, 0.2))
    assert spread(odometry) == pytest.approx(before + (2.0 * 10) ** 2)
    drive(odometry, (601, 0.2))
    turns = np.sqrt(np.diag(odometry.trajectory.covariance)[3:])
    assert (turns < 2 * np.pi).all()  # more than half a turn a gap means nothing


def test_a_pause_keeps_the_pose_and_widens_the_covariance(odometry):
    drive(odometry, (0, 0.1), (1, 0.2))
    before = spread(odometry)
    assert not odometry.pause(3.0)
    first, motion = drive(odometry, (31, 0.9), (32, 1.0))
    assert first.reason is Reason.FIRST and isinstance(motion, Motion)
    assert 0.2 == x_of(odometry) and spread(odometry) > before + 3.0**2
    assert odometry.pause(odometry.restart_gap + 1)
    assert 0.0 == x_of(odometry)
