"""The plane of the ground: worked out by hand, then tilted, noisy, hidden, and absurd."""

import math

import numpy as np
import pytest

from depth_ros.core.camera import Intrinsics
from depth_ros.core.ground import (
    GREATEST_SIGMA,
    MOST_POINTS,
    Ground,
    NoGround,
    fit_ground,
    ground_from_depth,
    ground_points,
    ground_weights,
)
from depth_ros.core.se3 import rotation_from_vector
from depth_ros.inference.classes import CITYSCAPES, ROAD

CAMERA = Intrinsics(360.0, 360.0, 320.0, 96.0, 640, 192)


def normal_of(pitch=0.0, roll=0.0):
    """From the camera to the ground, where the camera looks down by ``pitch`` degrees."""
    turn = rotation_from_vector([0, 0, -math.radians(roll)])
    turn = turn @ rotation_from_vector([math.radians(pitch), 0, 0])
    return turn @ [0.0, 1.0, 0.0]


def plane_points(height, pitch=0.0, roll=0.0, count=400, noise=0.0, seed=0):
    """Points on the plane at ``height``, 3 to 12 heights ahead, with relative noise of depth."""
    random = np.random.default_rng(seed)
    normal = normal_of(pitch, roll)
    rays = np.stack(
        [random.uniform(-0.5, 0.5, 4000), random.uniform(-0.1, 0.5, 4000), np.ones(4000)], axis=1
    )
    steep = rays @ normal
    rays = rays[(steep > 1 / 12) & (steep < 1 / 2)][:count]
    points = rays * (height / (rays @ normal))[:, None]
    return points * (1 + noise * random.standard_normal(len(points)))[:, None]


def depth_image(height, pitch=0.0, roll=0.0, far=60.0, camera=CAMERA):
    """Depth of flat ground and of a wall far ahead, and labels that say which is which."""
    x, y = camera.rays()
    rays = np.stack(np.broadcast_arrays(x, y[:, None], np.float32(1)), axis=-1)
    steep = rays @ normal_of(pitch, roll)
    depth = np.where(steep > height / far, height / np.maximum(steep, 1e-9), far)
    labels = np.where(steep > height / far, ROAD, 2).astype(np.uint8)
    return depth.astype(np.float32), labels


WEIGHTS = ground_weights({c.name: c.id for c in CITYSCAPES})


# By hand


def test_a_level_plane_by_hand():
    x, z = np.meshgrid([-2.0, -1, 0, 1, 2], [4.0, 6, 8])
    points = np.stack([x, np.full(x.shape, 1.5), z], axis=-1).reshape(-1, 3)
    found = fit_ground(points)
    assert isinstance(found, Ground)
    assert found.height == pytest.approx(1.5)
    np.testing.assert_allclose(found.normal, [0, 1, 0], atol=1e-9)
    assert found.inliers.all() and found.sigma < 1e-6
    assert found.pitch == pytest.approx(0) and found.roll == pytest.approx(0)


@pytest.mark.parametrize('unit', [1e-3, 1.0, 250.0])
@pytest.mark.parametrize('pitch, roll', [(0, 0), (12, 0), (-5, 0), (0, 10), (30, -8), (3, 15)])
def test_pitch_and_roll_are_free_and_the_unit_does_not_matter(pitch, roll, unit):
    found = fit_ground(unit * plane_points(1.65, pitch, roll))
    assert isinstance(found, Ground)
    assert found.height == pytest.approx(1.65 * unit)
    np.testing.assert_allclose(found.normal, normal_of(pitch, roll), atol=1e-6)
    assert math.degrees(found.pitch) == pytest.approx(pitch, abs=1e-3)
    if pitch == 0:
        assert math.degrees(found.roll) == pytest.approx(roll, abs=1e-3)


# Noise and what is no ground


def test_the_standard_deviation_is_that_of_repeated_trials():
    found = [fit_ground(plane_points(1.65, 4, 2, 300, 0.02, seed)) for seed in range(60)]
    assert all(isinstance(f, Ground) for f in found)
    heights = np.array([f.height for f in found])
    assert heights.mean() == pytest.approx(1.65, rel=0.01)
    assert 0.6 < np.mean([f.sigma for f in found]) / heights.std() < 1.6


@pytest.mark.parametrize('share', [0.2, 0.4, 0.6])
def test_walls_and_cars_do_not_move_it(share):
    ground = plane_points(1.65, 5, -3, 600, 0.01)
    random = np.random.default_rng(1)
    count = int(len(ground) * share / (1 - share))
    wall = np.stack(
        [np.full(count, 2.5), random.uniform(-2, 1.6, count), random.uniform(4, 20, count)], axis=1
    )
    found = fit_ground(np.concatenate([ground, wall]), least_share=0.35)
    assert isinstance(found, Ground)
    assert found.height == pytest.approx(1.65, rel=0.02)
    assert found.inliers[: len(ground)].mean() > 0.95
    assert found.inliers[len(ground) :].mean() < 0.15


def test_a_raised_pavement_counts_less():
    road = plane_points(1.65, 0, 0, 300, 0.01)
    pavement = plane_points(1.5, 0, 0, 300, 0.01, seed=3)
    points = np.concatenate([road, pavement])
    weights = np.repeat([1.0, 0.3], 300)
    found = fit_ground(points, weights, least_share=0.35)
    assert isinstance(found, Ground) and found.height == pytest.approx(1.65, rel=0.02)


def test_points_that_are_no_numbers_or_behind_do_not_count():
    points = np.concatenate(
        [plane_points(1.65), [[np.nan, 1, 5], [0, np.inf, 3], [1, 1.6, -4], [0, 0, 0]]]
    )
    found = fit_ground(points)
    assert isinstance(found, Ground) and found.height == pytest.approx(1.65)
    assert found.inliers.shape == (len(points),) and not found.inliers[-4:].any()


# Refused


def wall_ahead(count=400):
    random = np.random.default_rng(0)
    return np.stack(
        [random.uniform(-3, 3, count), random.uniform(-2, 2, count), np.full(count, 6.0)], axis=1
    )


def wall_aside(count=400):
    return wall_ahead(count)[:, [2, 1, 0]] + [0, 0, 8.0]


def clutter(count=400):
    random = np.random.default_rng(0)
    return random.uniform([-4, -1, 3], [4, 2, 20], (count, 3))


def a_line(count=400):
    random = np.random.default_rng(0)
    z = random.uniform(4, 12, count)
    return np.stack([np.full(count, 0.1), np.full(count, 1.5), z], axis=1)


@pytest.mark.parametrize(
    'points, reason',
    [
        (np.empty((0, 3)), 'too few points'),
        (plane_points(1.65, count=8), 'too few points'),
        (wall_ahead(), 'plane'),
        (wall_aside(), 'plane'),
        (clutter(), 'plane'),
        (a_line(), 'line'),
        (-plane_points(1.65) * [1, 1, -1], 'plane'),  # a ceiling
        (np.full((50, 3), np.nan), 'too few points'),
        (np.ones((50, 3)), ''),  # all the same
    ],
)
def test_what_is_no_ground_is_refused(points, reason):
    found = fit_ground(points)
    assert isinstance(found, NoGround)
    assert reason in found.reason


def test_a_plane_steeper_than_the_camera_can_be_held_is_refused():
    assert isinstance(fit_ground(plane_points(1.65, 20)), Ground)
    assert isinstance(fit_ground(plane_points(1.65, 20), max_tilt=math.radians(10)), NoGround)
    down = normal_of(20)
    assert isinstance(fit_ground(plane_points(1.65, 20), down=down, max_tilt=0.05), Ground)


def test_an_absurd_height_is_refused():
    found = fit_ground(plane_points(9.0), heights=(0.1, 5.0))
    assert isinstance(found, NoGround) and 'absurd' in found.reason


def test_a_height_that_noise_leaves_open_is_refused():
    points = plane_points(1.65, count=30, noise=0.03)
    found = fit_ground(points, independent=1)
    assert isinstance(found, NoGround) or found.sigma <= GREATEST_SIGMA * found.height


# Of a depth image


@pytest.mark.parametrize('labelled', [True, False])
@pytest.mark.parametrize('pitch, roll', [(0, 0), (8, 3), (-3, -4)])
def test_the_ground_of_a_depth_image(pitch, roll, labelled):
    depth, labels = depth_image(1.65, pitch, roll)
    random = np.random.default_rng(0)
    depth *= (1 + 0.02 * random.standard_normal(depth.shape)).astype(np.float32)
    found = ground_from_depth(depth, CAMERA, *((labels, WEIGHTS) if labelled else ()))
    assert isinstance(found, Ground)
    assert found.height == pytest.approx(1.65, rel=0.02)
    assert abs(found.height - 1.65) < 4 * found.sigma
    assert math.degrees(found.pitch) == pytest.approx(pitch, abs=1)


def test_sky_and_holes_in_depth_do_not_count():
    depth, labels = depth_image(1.65)
    depth[labels != ROAD] = np.nan
    depth[::3, ::2] = 0
    depth[150:160] = np.inf
    found = ground_from_depth(depth, CAMERA, labels, WEIGHTS)
    assert isinstance(found, Ground) and found.height == pytest.approx(1.65)


def test_little_ground_is_no_ground():
    depth, labels = depth_image(1.65)
    labels[:] = 2
    labels[180:190, 300:330] = ROAD
    found = ground_from_depth(depth, CAMERA, labels, WEIGHTS)
    assert isinstance(found, NoGround) and 'little ground' in found.reason


def test_without_labels_a_cluttered_room_is_refused():
    random = np.random.default_rng(0)
    depth = random.uniform(1, 5, (192, 640)).astype(np.float32)
    assert isinstance(ground_from_depth(depth, CAMERA), NoGround)


def test_points_are_few_and_where_the_pixels_look():
    depth, labels = depth_image(2.0, far=1000)
    points, weights = ground_points(depth, CAMERA, labels, WEIGHTS)
    assert 200 < len(points) == len(weights) <= MOST_POINTS
    np.testing.assert_allclose(points[:, 1], 2.0, rtol=1e-5)


def test_ground_of_other_label_sets():
    weights = ground_weights({'wall': 0, 'floor': 1, 'chair': 2})
    assert weights is not None and weights.nonzero()[0].tolist() == [1]
    assert ground_weights({'wall': 0, 'chair': 1}) is None
    assert ground_weights({}) is None
