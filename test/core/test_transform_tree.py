"""Transforms between frames as real recordings hold them, worked out by hand."""

import math

import numpy as np
import pytest
from support.lidar_messages import (
    CLOUD,
    SECOND,
    cloud,
    shifted,
    structured,
    transforms,
)

from depth_ros.bags.messages import TF
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import Intrinsics
from depth_ros.core.pointcloud import points_from_cloud, project_points
from depth_ros.core.se3 import (
    OPTICAL_IN_BASE,
    interpolate,
    inverse,
    pose,
    pose_from_list,
    rotation_from_vector,
)
from depth_ros.core.transform_tree import TransformError, TransformTree

CAMERA = Intrinsics(10.0, 10.0, 9.5, 9.5, 20, 20)


def tree_of(moving=(), static=()):
    tree = TransformTree()
    tree.add(transforms(*moving), static=False)
    tree.add(transforms(*static), static=True)
    return tree


def test_chains_through_a_common_parent():
    camera, lidar = pose_from_list((1.0, 0, 2, *OPTICAL_IN_BASE[3:])), shifted(x=-1, z=3)
    mast = pose(rotation_from_vector([0, 0, math.pi / 2]), [0, 1, 0])
    tree = tree_of(
        static=[
            ('base', 'camera', 0, camera),
            ('mast', 'lidar', 0, lidar),
            ('base', 'mast', 0, mast),
        ]
    )
    for stamp in (0, 10**18):
        np.testing.assert_allclose(
            tree.lookup('camera', 'lidar', stamp), inverse(camera) @ mast @ lidar, atol=1e-12
        )
    np.testing.assert_allclose(tree.lookup('base', 'lidar', 0), mast @ lidar, atol=1e-12)
    np.testing.assert_allclose(tree.lookup('/lidar', 'base', 0), inverse(mast @ lidar), atol=1e-12)
    np.testing.assert_array_equal(tree.lookup('base', 'base', 0), np.eye(4))
    # Ten metres ahead of the camera is eleven metres ahead of the base.
    np.testing.assert_allclose(
        tree.lookup('base', 'camera', 0) @ [0, 0, 10, 1], [11, 0, 2, 1], atol=1e-12
    )


def test_moving_transforms_are_interpolated():
    quarter = pose(rotation_from_vector([0, 0, math.pi / 2]), [4, 0, 2])
    # Messages need not come in the order of their stamps.
    tree = tree_of(
        [
            ('odom', 'base', 12, shifted(x=9)),
            ('odom', 'base', 10, np.eye(4)),
            ('odom', 'base', 11, quarter),
            ('odom', 'base', 11, quarter),
        ]
    )
    np.testing.assert_allclose(
        tree.lookup('odom', 'base', 10 * SECOND + SECOND // 4),
        pose(rotation_from_vector([0, 0, math.pi / 8]), [1, 0, 0.5]),
        atol=1e-9,
    )
    np.testing.assert_allclose(tree.lookup('odom', 'base', 11 * SECOND), quarter, atol=1e-12)


def test_interpolation_takes_the_short_way():
    a, b = (pose(rotation_from_vector([0, 0, math.radians(d)]), [0, 0, 0]) for d in (170, -170))
    np.testing.assert_allclose(interpolate(a, b, 0.5)[:3, :3], np.diag([-1, -1, 1]), atol=1e-9)


def test_times_outside_the_recording():
    tree = tree_of(
        [('odom', 'base', 10, np.eye(4)), ('odom', 'base', 11, shifted(x=1))],
        [('base', 'camera', 0, np.eye(4)), ('base', 'lidar', 0, shifted(z=1))],
    )
    np.testing.assert_array_equal(tree.lookup('odom', 'base', int(9.9 * SECOND)), np.eye(4))
    np.testing.assert_array_equal(tree.lookup('odom', 'base', int(11.1 * SECOND)), shifted(x=1))
    for stamp in (9.7, 11.3):
        with pytest.raises(
            TransformError,
            match=rf"'base' to 'odom': {stamp:.3f} s is outside .*"
            r'10\.000 to 11\.000 s',
        ):
            tree.lookup('odom', 'camera', int(stamp * SECOND))
    # What moves above both does not matter.
    np.testing.assert_allclose(tree.lookup('camera', 'lidar', 0), shifted(z=1))


def test_unknown_and_unconnected_frames_are_named():
    tree = tree_of(static=[('base', 'camera', 0, np.eye(4)), ('rack', 'lidar', 0, np.eye(4))])
    with pytest.raises(TransformError, match="no frame 'velodyne'; there are base, camera, lidar"):
        tree.lookup('camera', 'velodyne', 0)
    with pytest.raises(TransformError, match="'rack' has no parent; .*'base' has no parent"):
        tree.lookup('camera', 'lidar', 0)
    with pytest.raises(TransformError, match='there are none'):
        TransformTree().lookup('camera', 'lidar', 0)


def test_what_is_no_tree_is_an_error():
    still = np.eye(4)
    tree = tree_of(
        static=[
            ('b', 'a', 0, still),
            ('c', 'b', 0, still),
            ('a', 'c', 0, still),
            ('x', 'x', 0, still),
            ('odom', 'base', 0, still),
            ('map', 'base', 0, still),
            ('base', 'camera', 0, still),
            ('base', 'lidar', 0, shifted(z=1)),
        ]
    )
    with pytest.raises(TransformError, match="'c' has the parent 'a', which is a loop"):
        tree.lookup('camera', 'a', 0)
    with pytest.raises(TransformError, match="'x' has the parent 'x', which is a loop"):
        tree.lookup('x', 'lidar', 0)
    with pytest.raises(TransformError, match="'base' has several parents, map, odom"):
        tree.lookup('odom', 'camera', 0)
    # Below the mistakes all is well.
    np.testing.assert_allclose(tree.lookup('camera', 'lidar', 0), shifted(z=1))
    np.testing.assert_allclose(tree.lookup('b', 'a', 0), still)


@pytest.mark.parametrize(
    'values, problem',
    [((0, 0, 0, 0, 0, 0, 0), 'no direction'), ((0, 0, math.nan, 0, 0, 0, 1), 'finite')],
)
def test_transforms_that_are_none(values, problem):
    tree = tree_of(static=[('base', 'lidar', 0, values)])
    with pytest.raises(TransformError, match=f"'lidar' to 'base': .*{problem}"):
        tree.lookup('base', 'lidar', 0)


# A recording


def test_ground_truth_of_a_recording(tmp_path):
    """The mast turns; a cloud is projected with its direction at the cloud's stamp."""
    to_left = pose(rotation_from_vector([0, 0, math.pi / 2]), [0, 0, 0])
    mount = pose_from_list(OPTICAL_IN_BASE)
    points = structured([[[10.0, -0.5, -0.5], [20, -1, -1], [0, 0, 0], [0.4, -8, -0.4]]])
    with BagWriter(tmp_path / 'drive') as bag:
        bag.write('/tf_static', TF, 0, transforms(('base', 'camera', 0, mount)))
        for stamp, turn in ((1, to_left), (2, np.eye(4)), (3, to_left)):
            bag.write('/tf', TF, stamp * SECOND, transforms(('base', 'lidar', stamp, turn)))
        for stamp in (2, 3):
            bag.write('/points', CLOUD, stamp * SECOND, cloud(points, stamp_ns=stamp * SECOND))
    tree, clouds = TransformTree(), []
    with Bag(tmp_path / 'drive') as bag:
        for message in bag.messages():
            if message.topic == '/points':
                clouds.append(bag.decode(message))
            else:
                tree.add(bag.decode(message), static=message.topic == '/tf_static')
    ahead, left = (
        project_points(points_from_cloud(c), tree.lookup('camera', 'lidar', stamp * SECOND), CAMERA)
        for c, stamp in zip(clouds, (2, 3), strict=True)
    )
    assert np.argwhere(~np.isnan(ahead)).tolist() == [[10, 10]]
    assert ahead[10, 10] == pytest.approx(10)
    # Turned to the left, the lidar has on its right what is ahead.
    assert np.argwhere(~np.isnan(left)).tolist() == [[10, 9]]
    assert left[10, 9] == pytest.approx(8)
