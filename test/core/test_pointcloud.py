"""Lidar clouds of every layout, and their projection, worked out by hand."""

import cv2
import numpy as np
import pytest
from support.lidar_messages import (
    FLOAT32,
    UINT16,
    cloud,
    structured,
)

from depth_ros.core.camera import Intrinsics
from depth_ros.core.pointcloud import make_cloud, points_from_cloud, project_points
from depth_ros.core.se3 import (
    OPTICAL_IN_BASE,
    inverse,
    pose_from_list,
)
from train.data.velodyne import file_projection, project_velodyne, read_calibration, read_points

CAMERA = Intrinsics(10.0, 10.0, 9.5, 9.5, 20, 20)


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


# Clouds of depth images


def test_cloud_without_labels_is_unlabeled():
    ones = np.ones((2, 3), np.float32)
    rays = (np.zeros(3, np.float32), np.zeros(2, np.float32))
    cloud = make_cloud(ones, np.zeros((2, 3, 3), np.uint8), None, rays, 255)
    assert (cloud['label'] == 255).all()
