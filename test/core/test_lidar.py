"""Lidar ground truth: clouds and transforms as real recordings hold them, worked out by hand."""

import math

import cv2
import numpy as np
import pytest
from support.lidar_messages import (
    CLOUD,
    FLOAT32,
    SECOND,
    UINT16,
    cloud,
    shifted,
    structured,
    transforms,
)

from depth_ros.bags.bag import TF, Bag, BagWriter
from depth_ros.core.camera import Intrinsics
from depth_ros.core.lidar import (
    TransformError,
    TransformTree,
    interpolate,
    lidar_depth,
    points_from_cloud,
    project_points,
)
from depth_ros.core.trajectory import (
    OPTICAL_IN_BASE,
    inverse,
    pose,
    pose_from_list,
    rotation_from_vector,
)
from train.data.velodyne import file_projection, project_velodyne, read_calibration, read_points

CAMERA = Intrinsics(10.0, 10.0, 9.5, 9.5, 20, 20)


def tree_of(moving=(), static=()):
    tree = TransformTree()
    tree.add(transforms(*moving), static=False)
    tree.add(transforms(*static), static=True)
    return tree


# Clouds


@pytest.mark.parametrize(
    'kind, bigendian', [('<f4', False), ('<f8', False), ('>f4', True), ('>f8', True)]
)
def test_points_of_any_layout(kind, bigendian):
    points = np.arange(1.0, 19).reshape(2, 3, 3)
    message = cloud(structured(points, kind), row_padding=5, bigendian=bigendian)
    found = points_from_cloud(message)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, points.reshape(-1, 3))


def test_rays_that_came_back_from_nowhere_are_left_out():
    points = [[[1, 2, 3], [np.nan, 1, 1], [0, 0, 0], [1, np.inf, 1], [0, 0, -4]]]
    np.testing.assert_array_equal(
        points_from_cloud(cloud(structured(points))), [[1, 2, 3], [0, 0, -4]]
    )


def test_empty_clouds_and_rows_of_no_length():
    assert points_from_cloud(cloud(structured(np.empty((1, 0, 3))))).shape == (0, 3)
    message = cloud(structured(np.ones((1, 4, 3))))
    message.row_step = 0
    assert points_from_cloud(message).shape == (4, 3)


def test_clouds_without_coordinates_are_named():
    array = structured(np.ones((1, 4, 3)))
    with pytest.raises(ValueError, match=r"'lidar' has no field 'z' .* it has x \(datatype 7\)"):
        points_from_cloud(cloud(array, [('x', 0, FLOAT32), ('y', 8, FLOAT32)]))
    with pytest.raises(ValueError, match="'y' of FLOAT32"):
        points_from_cloud(cloud(array, [('x', 0, FLOAT32), ('y', 8, UINT16), ('z', 16, FLOAT32)]))


@pytest.mark.parametrize(
    'name, value',
    [
        ('point_step', 18),
        ('row_step', 100),
        ('width', 5),
        ('height', 3),
        ('data', np.zeros(255, np.uint8)),
    ],
)
def test_clouds_cut_short_are_refused(name, value):
    message = cloud(structured(np.ones((2, 4, 3))))
    setattr(message, name, value)
    with pytest.raises(ValueError, match='points of .* check what publishes it'):
        points_from_cloud(message)


# Projection


def test_pixels_reach_half_a_pixel_to_all_sides():
    # At depth 10 a metre is a pixel, and (0, 0) lies between the four in the middle.
    points = np.array(
        [
            [0.01, 0.01, 10],
            [-0.01, 0.99, 10],
            [9.99, -9.99, 10],
            [10.01, 0, 10],
            [-9.99, 9.99, 10],
            [0, -10.01, 10],
            [5.5, 5.5, 10],
        ]
    )
    depth = project_points(points, np.eye(4), CAMERA)
    assert depth.dtype == np.float32
    assert {(int(u), int(v)) for v, u in np.argwhere(~np.isnan(depth))} == {
        (10, 10),
        (9, 10),
        (19, 0),
        (0, 19),
        (15, 15),
    }


def test_the_nearest_point_counts_and_none_behind():
    points = np.array(
        [[0.1, 0.1, 4], [0.05, 0.05, 2], [0.2, 0.2, 8], [0.1, 0.1, -1], [0, 0, 0], [np.nan, 0, 1]]
    )
    depth = project_points(points, np.eye(4), CAMERA)
    assert depth[10, 10] == 2
    assert np.isnan(depth).sum() == depth.size - 1
    assert np.isnan(project_points(np.empty((0, 3)), np.eye(4), CAMERA)).all()


def test_points_are_taken_to_the_camera():
    # The lidar looks along x, a metre behind and a metre above the camera.
    camera_lidar = inverse(pose_from_list((1.0, 0, -1, *OPTICAL_IN_BASE[3:])))
    depth = project_points(np.array([[11.0, -2.45, -1.55]]), camera_lidar, CAMERA)
    assert depth[10, 12] == pytest.approx(10)  # 2.45 m to the right, 0.55 m below the camera


def test_real_velodyne(data_dir):
    """Against the projections of training, whose protocols differ in known ways."""
    folder = data_dir / 'kitti_lidar_frames/000001'
    if not folder.is_dir():
        pytest.skip(f'{data_dir} has no kitti_lidar_frames')
    height, width = cv2.imread(str(folder / 'image.png')).shape[:2]
    points, matrix = read_points(folder / 'velodyne.bin'), file_projection(folder / 'calib.txt', 2)
    # KITTI's projection K [I | t] holds the shift t from the reference camera to this one.
    k = read_calibration(folder / 'calib.txt')['P2'].reshape(3, 4)[:, :3]
    camera = Intrinsics(k[0, 0], k[1, 1], k[0, 2], k[1, 2], width, height)
    camera_lidar = np.vstack([np.linalg.solve(k, matrix), [0, 0, 0, 1]])
    depth = project_points(points[:, :3], camera_lidar, camera)
    filled = ~np.isnan(depth)

    expected = project_velodyne(points, matrix, (height, width), 'camera')
    assert 15000 < filled.sum() < 25000
    np.testing.assert_array_equal(filled, expected > 0)
    np.testing.assert_allclose(depth[filled], expected[filled], rtol=1e-6)

    # Eigen's map lies one pixel up and left, and measures from the Velodyne, 27 cm behind.
    eigen = project_velodyne(points, matrix, (height, width))
    np.testing.assert_array_equal(filled[1:, 1:], eigen[:-1, :-1] > 0)
    both = filled[1:, 1:]
    behind = eigen[:-1, :-1][both] - depth[1:, 1:][both]
    assert np.median(behind) == pytest.approx(0.27, abs=0.1)


# Transforms


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
    ahead, left = (lidar_depth(c, tree, CAMERA, 'camera') for c in clouds)
    assert np.argwhere(~np.isnan(ahead)).tolist() == [[10, 10]]
    assert ahead[10, 10] == pytest.approx(10)
    # Turned to the left, the lidar has on its right what is ahead.
    assert np.argwhere(~np.isnan(left)).tolist() == [[10, 9]]
    assert left[10, 9] == pytest.approx(8)
