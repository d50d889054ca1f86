"""How far a camera moves by its depth, and whether an inertial sensor says that it stands."""

import cv2
import numpy as np
import pytest

from depth_ros.core.camera import Intrinsics
from depth_ros.core.depth_motion import PATIENCE, DepthMotion
from depth_ros.core.travel import Stillness, Travel

CAMERA = Intrinsics(200.0, 200.0, 159.5, 79.5, 320, 160)
PERIOD = 0.1


def room(shift):
    """A picture on two walls, 4 and 8 units ahead, from ``shift`` units to the right.

    Returns:
        The image, its depth and whether a pixel is of the nearer wall.
    """
    random = np.random.default_rng(0)
    pictures = [
        cv2.resize(random.integers(0, 255, (40, 400), np.uint8), (1600, 160)) for _ in range(2)
    ]
    near = np.zeros((160, 320), bool)
    near[80:] = True
    image, depth = np.zeros((160, 320), np.uint8), np.where(near, 4.0, 8.0).astype(np.float32)
    for picture, rows, z in ((pictures[0], ~near[:, 0], 8.0), (pictures[1], near[:, 0], 4.0)):
        moved = np.float32([[1, 0, -200 * shift / z], [0, 1, 0]])
        image[rows] = cv2.warpAffine(picture, moved, (320, 160), flags=cv2.INTER_CUBIC)[rows]
    return np.repeat(image[..., None], 3, 2), depth, near


def walk(steps, factor=1.0, usable=None):
    """The motions found on a way of these shifts."""
    motion, found = DepthMotion(), []
    for i, shift in enumerate(steps):
        image, depth, _ = room(shift)
        moved = motion.step(image, factor * depth, CAMERA, usable, i * PERIOD)
        found += [moved] if moved else []
    return found


@pytest.mark.parametrize('factor', [0.01, 1.0, 50.0])
def test_the_way_is_in_the_unit_of_the_depth(factor):
    found = walk(0.1 * np.arange(12), factor)
    assert len(found) >= 5
    for moved in found:
        steps = (moved.end - moved.start) / PERIOD
        assert moved.units == pytest.approx(0.1 * steps * factor, rel=0.1)
        assert moved.turn < 0.01
    # No piece of the way is missing or counted twice.
    assert all(a.end == b.start for a, b in zip(found[:-1], found[1:], strict=True))
    total = sum(m.units for m in found)
    assert total == pytest.approx(0.1 * factor * (found[-1].end / PERIOD), rel=0.03)


def test_a_slow_way_is_measured_once_it_is_long_enough():
    found = walk(0.02 * np.arange(30))
    assert found and all(m.end - m.start > 2.5 * PERIOD for m in found)
    assert sum(m.units for m in found) == pytest.approx(0.02 * found[-1].end / PERIOD, rel=0.05)


def test_standing_is_no_motion():
    assert walk(np.zeros(int(2.5 * PATIENCE / PERIOD))) == []


def test_what_moves_by_itself_does_not_count():
    """The lower half is a bus that passes; the rest stands."""
    motion, still = DepthMotion(), room(0)[2]
    for i in range(10):
        image, depth, near = room(0.1 * i)
        image[~near] = room(0)[0][~near]
        assert motion.step(image, depth, CAMERA, ~still, i * PERIOD) is None


def test_images_without_corners_depth_or_of_another_size_say_nothing():
    motion = DepthMotion()
    image, depth, _ = room(0)
    grey = np.full_like(image, 128)
    for i, (rgb, z) in enumerate(
        [
            (grey, depth),
            (image, np.full_like(depth, np.nan)),
            (room(0.5)[0], depth),
            (image[:80, :160], depth[:80, :160]),
            (image, depth),
        ]
    ):
        camera = CAMERA.resized(*z.shape[::-1])
        assert motion.step(np.ascontiguousarray(rgb), z, camera, None, i * PERIOD) is None


def feel(stillness, seconds, rate, noise, seed=0):
    random = np.random.default_rng(seed)
    for t in np.arange(0, seconds, 0.01):
        stillness.add(
            float(t),
            rate + 0.1 * noise * random.standard_normal(3),
            np.array([0, 0, 9.81]) + noise * random.standard_normal(3),
        )


def test_an_inertial_sensor_tells_standing_from_driving():
    for rate, noise, stands in (
        ([0, 0, 0], 0.02, True),
        ([0, 0, 0], 0.5, False),  # an engine, a road
        ([0, 0, 0.3], 0.02, False),  # turns
    ):
        stillness = Stillness()
        feel(stillness, 2.0, np.array(rate, float), noise)
        assert stillness.during(0.5, 1.5) is stands
        assert not stillness.during(10.0, 11.0)  # nothing is known then


def test_distances_at_rest_are_not_compared():
    """GPS creeps while the robot stands, and so may the camera's way."""
    for stands in (True, False):
        travel = Travel()
        random = np.random.default_rng(0)
        for t in np.arange(0, 5, 0.01).tolist():
            shake = (0.02 if stands else 1.0) * random.standard_normal(3)
            travel.feel(t, np.zeros(3), np.array([0, 0, 9.81]) + shake)
            travel.speed(t, 0.3)
        for i in range(40):
            travel.move(i * PERIOD, (i + 1) * PERIOD, 0.02, 0.0)
        assert (travel.ratios() == []) is stands
