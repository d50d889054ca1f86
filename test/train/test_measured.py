"""Odometry and GPS of recordings: resets, stamps of zero, and times without pictures."""

import numpy as np
import pytest
from support.prepared import picture
from support.robot import STEP, Robot

from depth_ros.bags.writer import BagWriter
from train.data.measured import cut_jumps
from train.data.readers.bag import Topics, bag_source

ZERO = -(10.0**9)  # seconds of a robot's clock whose stamp is zero
FRAMES = 24


def recorded(path, tell, late=0.0):
    """The source of a recording of FRAMES pictures; `tell(robot, i)` puts what else there is."""
    with BagWriter(path) as bag:
        robot = Robot(bag)
        for i in range(FRAMES):
            robot.now = i * STEP + late
            robot.camera_info(i * STEP)
            robot.compressed(i * STEP, picture(4 * i))
            tell(robot, i)
    return bag_source(path, Topics())


def distances(source, apart=1):
    """Metres between pictures that are so many apart, NaN where unknown."""
    places = source.odometry[:, :3, 3]
    return np.linalg.norm(places[apart:] - places[:-apart], axis=1)


def test_a_reset_of_the_odometry_gives_no_distance(tmp_path):
    """1.5 m/s, set to zero after 12 pictures: 1.8 m that nobody drove."""
    source = recorded(
        tmp_path / 'reset', lambda robot, i: robot.odometry(i * STEP, (0.15 * (i % 12), 0, 0), 0.1)
    )
    for apart in (1, 2, 5):
        moved = distances(source, apart)
        known = np.isfinite(moved)
        assert np.nanmax(moved) < 0.15 * apart + 1e-6 and known.sum() >= len(moved) - 2 - apart
    found = distances(source)
    assert np.flatnonzero(np.isnan(found)).tolist() == [10, 11, 12]
    np.testing.assert_allclose(found[np.isfinite(found)], 0.15, atol=1e-6)
    assert any('/odom jumps 1 times, as after a reset' in text for text in source.warnings)


def test_a_reset_between_two_pictures(tmp_path):
    """Odometry at 100 Hz that is reset between picture 11 and 12."""

    def tell(robot, i):
        for k in range(10):
            seconds = i * STEP + k * STEP / 10
            robot.now = seconds
            robot.odometry(seconds, (1.5 * (seconds - (1.15 if seconds > 1.149 else 0)), 0, 0), 0)

    source = recorded(tmp_path / 'reset', tell)
    found = distances(source)
    np.testing.assert_allclose(found[np.isfinite(found)], 0.15, atol=1e-6)
    assert np.isnan(found[11]) and np.isfinite(found[:10]).all()


@pytest.mark.parametrize('jitter', [0, 0.004])
def test_how_robots_move_is_no_jump(jitter):
    """Starts, stops, turns, noise and stamps that jitter."""
    rng = np.random.default_rng(1)
    for speed, rate in ((0.3, 50), (2, 10), (15, 100), (35, 20)):
        times = np.arange(20 * rate) / rate
        ramp = np.interp(times, [0, 4, 6, 10, 12, 20], [0, 0, speed, speed, 0, 0])
        angle = 0.3 * np.sin(times)
        step = np.stack([ramp * np.cos(angle), ramp * np.sin(angle), 0 * times], 1) / rate
        poses = np.tile(np.eye(4), (len(times), 1, 1))
        poses[:, :3, 3] = np.cumsum(step, 0) + rng.normal(0, 0.003, (len(times), 3))
        stamped = np.sort(times + rng.uniform(-jitter, jitter, len(times)))
        cut, remarks = cut_jumps(stamped, poses)
        assert not remarks and np.isfinite(cut).all()


def test_stamps_of_zero_are_replaced_by_the_times_of_recording(tmp_path):
    for late in (0.0, 1000.0):  # the clock of the recorder may be another than the camera's
        source = recorded(
            tmp_path / f'zero{late:g}',
            lambda robot, i: robot.odometry(ZERO, (0.15 * i, 0, 0), 0),
            late,
        )
        np.testing.assert_allclose(distances(source), 0.15, atol=1e-6)
        assert any('the stamps of /odom are zero' in text for text in source.warnings)
        assert source.facts['odometry'] == '/odom, of 100 % of the images'


def test_odometry_of_another_time_is_said(tmp_path):
    source = recorded(
        tmp_path / 'bag', lambda robot, i: robot.odometry(500 + i * STEP, (0.15 * i, 0, 0), 0)
    )
    assert np.isnan(source.odometry).all()
    [said] = [text for text in source.warnings if '/odom' in text]
    assert 'says nothing at the times of the pictures' in said


def test_gps_that_jumps(tmp_path):
    """5 m/s north at 5 Hz, and 300 m to the side for a moment."""

    def tell(robot, i):
        if i % 2 == 0:
            metres = 5 * i * STEP + (300 if i == 10 else 0)
            robot.fix(i * STEP, 60 + np.degrees(metres / 6371008.8), 8.0)

    source = recorded(tmp_path / 'bag', tell)
    known = np.isfinite(source.speeds)
    np.testing.assert_allclose(source.speeds[known], 5, rtol=1e-3)
    assert 4 < known.sum() < FRAMES and any('/fix jumps 2 times' in t for t in source.warnings)


def test_folders_are_cut_alike():
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, 0, 3] = 0.2 * (np.arange(20) % 10)
    cut, remarks = cut_jumps(np.arange(20) / 10, poses)
    assert remarks and np.flatnonzero(np.isnan(cut[:, 0, 0])).tolist() == [9, 10]
    steps = np.diff(cut[:, 0, 3])
    np.testing.assert_allclose(steps[np.isfinite(steps)], 0.2)
    assert cut[11, 0, 3] - cut[8, 0, 3] == pytest.approx(0.4)  # without the step that is unknown
