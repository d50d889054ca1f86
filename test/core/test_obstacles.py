"""Obstacles over a plane, worked out by hand on a scene that is rendered exactly."""

import math

import numpy as np
import pytest

from depth_ros.core.camera import Intrinsics
from depth_ros.core.ground import Ground, ground_from_depth
from depth_ros.core.obstacles import (
    ObstacleLimits,
    beams_of,
    find_obstacles,
    level_ground,
    make_scan,
)

CAMERA = Intrinsics(200.0, 200.0, 159.5, 119.5, 320, 240)
HEIGHT = 1.2
LIMITS = ObstacleLimits(0.15, 2.0, 0.5, 15.0)
ROAD, BOX, SKY, UNKNOWN = 0, 1, 2, 255


def tilted(pitch):
    """The ground below a camera that looks down by `pitch` radians."""
    normal = np.array([0, math.cos(pitch), math.sin(pitch)])
    return Ground(normal, HEIGHT, 0.0, np.zeros(0, bool))


def scene(ground, box=(4.0, -0.5, 0.5, 1.0)):
    """Depth and labels of a plane with a box: ahead, right and left edge, height, metres.

    The box is a wall that stands across, along the ground's forward direction.
    """
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    rays = np.stack(
        [(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], -1
    )
    normal = ground.normal
    forward = np.array([0, 0, 1.0]) - normal[2] * normal
    forward /= np.linalg.norm(forward)
    with np.errstate(divide='ignore'):
        plane = ground.height / (rays @ normal)
    plane[(plane <= 0) | (plane > 40)] = np.nan
    wall = box[0] / (rays @ forward)
    point = wall[..., None] * rays
    side, height = point @ np.cross(forward, normal), ground.height - point @ normal
    hit = (wall > 0) & (side > box[1]) & (side < box[2]) & (height > 0) & (height < box[3])
    depth = np.where(hit, wall, plane).astype(np.float32)
    labels = np.where(hit, BOX, np.where(np.isnan(plane), SKY, ROAD)).astype(np.uint8)
    return depth, labels


def find(depth, labels, ground, limits=LIMITS):
    return find_obstacles(depth, CAMERA, labels, ground, limits, UNKNOWN)


@pytest.mark.parametrize('pitch', [0.0, 0.2, -0.1])
def test_a_box_on_the_ground_is_found_and_nothing_else(pitch):
    ground = tilted(pitch)
    seen = find(*scene(ground), ground)
    assert len(seen.points) > 100 and set(seen.points['label']) == {BOX}
    assert seen.points['height'].min() >= 0.15 and seen.points['height'].max() <= 1.0
    xyz = np.stack([seen.points[n] for n in 'xyz'], 1)
    np.testing.assert_allclose(HEIGHT - xyz @ ground.normal, seen.points['height'], atol=1e-4)
    # In the plane of the scan the whole box lies at the same place, whatever the camera's tilt.
    np.testing.assert_allclose(seen.ahead * math.cos(pitch), 4.0, atol=1e-3)
    assert -0.5 <= seen.left.min() < -0.45 and 0.45 < seen.left.max() <= 0.5


def test_the_fitted_plane_does_as_well():
    ground = tilted(0.15)
    depth, labels = scene(ground)
    weights = np.zeros(256)
    weights[ROAD] = 1
    fitted = ground_from_depth(depth, CAMERA, labels, weights)
    assert isinstance(fitted, Ground)
    assert len(find(depth, labels, fitted).points) == pytest.approx(
        len(find(depth, labels, ground).points), rel=0.02
    )


def test_errors_of_depth_leave_the_ground_empty():
    """6 % of depth are 6 % of the camera's height on the ground, at every distance."""
    ground = level_ground(HEIGHT)
    depth, labels = scene(ground, box=(4.0, 0, 0, 0))
    noise = np.random.default_rng(0).uniform(0.94, 1.06, depth.shape).astype(np.float32)
    assert len(find(depth * noise, labels, ground).points) == 0


@pytest.mark.parametrize(
    'change',
    [
        {'ignored': (BOX,)},
        {'most_range': 3.0},
        {'least_range': 5.0},
        {'least_height': 1.5},
        {'robot_rows': 1.0},
    ],
)
def test_what_is_excluded(change):
    ground = level_ground(HEIGHT)
    limits = ObstacleLimits(**{**vars(LIMITS), **change})
    assert len(find(*scene(ground), ground, limits).points) == 0


def test_a_bridge_is_no_obstacle():
    ground = level_ground(HEIGHT)
    depth, _ = scene(ground, box=(4.0, -3, 3, 4))
    seen = find(depth, None, ground)
    assert seen.points['height'].max() <= 2.0 and set(seen.points['label']) == {UNKNOWN}


@pytest.mark.parametrize('pitch', [0.0, 0.2])
def test_the_scan_has_the_box_where_it_is(pitch):
    ground = tilted(pitch)
    depth, labels = scene(ground)
    beams = beams_of(CAMERA)
    ranges = make_scan(find(depth, labels, ground), beams)
    angles = beams.start + beams.increment * np.arange(len(ranges))
    on_box = np.abs(4 / math.cos(pitch) * np.tan(angles)) < 0.45
    assert np.isfinite(ranges[on_box]).all()
    expected = 4 / math.cos(pitch) / np.cos(angles[on_box])
    np.testing.assert_allclose(ranges[on_box], expected, rtol=0.01)
    assert np.isinf(ranges[np.abs(4 * np.tan(angles)) > 0.6]).all()
    assert angles[0] == pytest.approx(-angles[-1], abs=0.02) and angles[0] < 0


def test_where_no_depth_is_known_the_scan_says_nothing():
    ground = level_ground(HEIGHT)
    depth, labels = scene(ground)
    depth[:, 200:] = np.nan  # to the right
    ranges = make_scan(find(depth, labels, ground), beams_of(CAMERA))
    assert np.isnan(ranges[:25]).all() and not np.isnan(ranges[-40:]).any()


def test_nothing_at_all():
    depth = np.full((240, 320), np.nan, np.float32)
    seen = find(depth, None, level_ground(HEIGHT))
    assert not len(seen.points) and np.isnan(make_scan(seen, beams_of(CAMERA))).all()
