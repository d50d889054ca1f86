"""Metres from the camera's height and from wheels, by the real node over real DDS."""

import math
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import Vector3Stamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image, PointCloud2
from support.onnx_models import save_perception
from support.ros_process import (
    Camera,
    NodeProcess,
    Peer,
    image_message,
    info_message,
    set_stamp,
    stamp,
)
from support.scene import pixels

from depth_ros.core.scale import START

pytestmark = pytest.mark.slow

WIDTH, HEIGHT, FOCAL = 160, 96, 80.0
INTRINSICS = (FOCAL, FOCAL, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
PERIOD = 0.1
NODE = 'perception_node'


def ground_depth(height):
    """Depth of flat ground, and of a wall above the horizon."""
    below = (np.arange(HEIGHT) - INTRINSICS[3]) / FOCAL
    rows = np.where(below > 0.05, height / np.maximum(below, 0.05), height / 0.05)
    return np.repeat(rows[:, None], WIDTH, 1)


def road():
    """An image whose lower half the network takes for road, and its upper for buildings."""
    rows = np.where(np.arange(HEIGHT) > HEIGHT // 2, 20, 170).astype(np.uint8)
    return np.repeat(np.repeat(rows[:, None, None], WIDTH, 1), 3, 2)


def wall(shift):
    """A picture on a wall, moved to the left by whole pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 4, WIDTH), np.uint8)
    picture = cv2.resize(noise, (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.repeat(picture[:, shift : shift + WIDTH, None], 3, 2)


class Drive:
    """A node that is shown one image after another."""

    def __init__(self, peer, process):
        self.peer, self.process, self.camera, self.time = peer, process, Camera(peer), 100.0
        self.wheels = peer.publisher(Odometry, '/wheel_odom')

    def send(self, image):
        self.time += PERIOD
        message = image_message(np.ascontiguousarray(image), 0)
        set_stamp(message, self.time)
        self.camera.publish(message, info_message(WIDTH, HEIGHT, FOCAL))
        return self.time

    def roll(self, seconds, metres):
        message = Odometry()
        set_stamp(message, seconds)
        message.pose.pose.position.x = metres
        self.wheels.publish(message)

    def newest(self, topic, seconds):
        return [m for m in self.peer.messages[topic] if stamp(m) == pytest.approx(seconds)]

    def answer(self, image):
        """Show an image; returns the scale's message."""
        sent = self.send(image)
        self.peer.spin_until(lambda: self.newest('/scale', sent), what=f'scale at {sent}')
        return self.newest('/scale', sent)[0].vector


@contextmanager
def driving(model, **parameters):
    with NodeProcess(NODE, {'model': model, **parameters}) as process, Peer() as peer:
        peer.listen_diagnostics()
        for kind, topic in (
            (Vector3Stamped, '/scale'),
            (Image, '/depth/image_rect'),
            (Image, '/depth/color'),
            (PointCloud2, '/points'),
        ):
            peer.listen(kind, topic)
        drive = Drive(peer, process)
        peer.wait_state(NODE, 'active')
        drive.camera.wait_matched()
        yield drive


def save(path, depth, outputs=('depth', 'labels'), metric=False):
    return save_perception(
        path / 'perception.onnx',
        width=WIDTH,
        height=HEIGHT,
        intrinsics=INTRINSICS,
        outputs=outputs,
        metric=metric,
        depth=depth,
    )


def test_metres_from_the_height_of_the_camera(tmp_path):
    model = save(tmp_path, ground_depth(0.5))
    with driving(model, scale_source='height', camera_height=1.5) as drive:
        messages = drive.peer.messages
        first = drive.answer(road())
        assert math.isnan(first.x) and math.isnan(first.y)
        found = drive.peer.diagnostics_after(NODE, lambda d: d.get('scale') == 'not yet known')
        assert found['scale_source'] == 'height' and found['ground'].startswith('height 0.5,')
        assert 'not yet known' in messages['/diagnostics'][-1].status[0].message
        assert not messages['/depth/image_rect'] and not messages['/points']
        assert messages['/depth/color']  # needs no metres
        for _ in range(START):
            known = drive.answer(road())
        assert known.x == pytest.approx(3.0, rel=1e-3) and 0 < known.y < 0.5 and known.z < 0.2
        drive.peer.spin_until(
            lambda: drive.newest('/depth/image_rect', drive.time), what='depth in metres'
        )
        depth = pixels(drive.newest('/depth/image_rect', drive.time)[0])
        np.testing.assert_allclose(depth, 3 * ground_depth(0.5), rtol=1e-3)
        drive.peer.spin_until(lambda: messages['/points'], what='points')
        # Where no ground is seen, the scale is held.
        held = drive.answer(np.full((HEIGHT, WIDTH, 3), 170, np.uint8))
        assert held.x == known.x and held.z == pytest.approx(PERIOD, abs=1e-3)
        found = drive.peer.diagnostics_after(NODE, lambda d: 'little' in d.get('ground', ''))
        assert found['scale'] == '3'


def test_metres_from_wheels(tmp_path):
    model = save(tmp_path, np.full((HEIGHT, WIDTH), 5.0), outputs=('depth',))
    shift, metres = 4, 0.5  # a frame: pixels to the left, metres to the right
    units = shift * 5.0 / FOCAL
    with driving(model, scale_source='odometry') as drive:
        drive.peer.spin_until(drive.wheels.get_subscription_count, what='subscription')
        for i in range(40):
            drive.roll(drive.time + PERIOD, metres * i)
            known = drive.answer(wall(shift * i))
        # A wall's motion aside looks much as a turn does, which costs some exactness.
        assert known.x == pytest.approx(metres / units, rel=0.05)
        assert 0 < known.y < 0.1 * known.x
        # Wheels that stand while the picture moves, and the other way round, change nothing.
        for i in range(5):
            drive.roll(drive.time + PERIOD, metres * 40)
            after = drive.answer(wall(shift * (40 + i)))
        assert after.x == pytest.approx(known.x, rel=0.02)


def test_metric_models_say_their_own_scale(tmp_path):
    with driving(save(tmp_path, ground_depth(1.5), metric=True)) as drive:
        found = drive.answer(road())
        assert found.x == 1.0 and found.z == 0.0
        drive.peer.spin_until(lambda: drive.newest('/depth/image_rect', drive.time), what='depth')


@pytest.mark.parametrize(
    'parameters, message',
    [
        ({'scale_source': 'height'}, "scale_source 'height' needs camera_height"),
        (
            {'scale_source': 'height', 'camera_height_from_tf': True},
            'camera_height_from_tf needs the ROS 2 package tf2_ros',
        ),
        ({'scale_source': 'height', 'camera_height': -1.5}, "'camera_height' must be a double"),
        ({'scale_source': 'lidar'}, 'must be one of: model, height, odometry, fused'),
        ({'camera_height': 1.5}, "camera_height is not used with scale_source 'model'"),
        ({'ground_frame': '/ground'}, "'/ground' is no name of a frame"),
    ],
)
def test_what_cannot_be_had_is_said(tmp_path, parameters, message):
    if 'camera_height_from_tf' in parameters:
        try:
            import tf2_ros  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip('tf2_ros is installed')
    with NodeProcess(NODE, {'model': save(tmp_path, ground_depth(1.5)), **parameters}) as process:
        process.wait_for(message)
