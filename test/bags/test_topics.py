"""The topics of the camera and of ground truth are found by their types and names."""

import numpy as np
import pytest
from support.bag_files import write
from support.bag_messages import (
    DEPTH,
    LABELS,
    RGB,
    TYPES,
    camera_info,
    compressed,
    header,
    image,
    odometry,
    stamped,
)

from depth_ros.bags.messages import (
    POINT_CLOUD,
    POSE,
    POSE_WITH_COVARIANCE,
    BagError,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams, find_streams


def test_the_planned_names(tmp_path):
    truth = '/ground_truth/'
    path = write(
        tmp_path / 'b',
        {
            '/camera/image_rect/compressed': compressed(RGB, '.jpg', 'jpeg'),
            '/camera/camera_info': camera_info(),
            truth + 'depth/image_rect/compressedDepth': compressed(
                (DEPTH * 1000).astype(np.uint16),
                '.png',
                '16UC1; compressedDepth png',
                lead=bytes(12),
            ),
            truth + 'depth/camera_info': camera_info(),
            truth + 'semantics/labels/compressed': compressed(
                LABELS, '.png', 'mono8; png compressed'
            ),
            truth + 'odom': odometry(),
        },
    )
    with Bag(path) as bag:
        assert find_streams(bag) == Streams(
            '/camera/image_rect/compressed',
            '/camera/camera_info',
            truth + 'depth/image_rect/compressedDepth',
            truth + 'semantics/labels/compressed',
            truth + 'odom',
        )


def test_color_wins_over_grey_depth_and_infrared(tmp_path):
    path = write(
        tmp_path / 'b',
        {
            '/cam/gray/image_raw': image(LABELS, 'mono8'),
            '/cam/gray/camera_info': camera_info(),
            '/cam/color/image_raw': image(RGB, 'bgr8'),
            '/cam/color/image_raw/compressed': compressed(
                RGB, '.jpg', 'bgr8; jpeg compressed bgr8'
            ),
            '/cam/color/camera_info': camera_info(),
            '/cam/aligned_depth_to_color/image_raw': image(
                (DEPTH * 1e3).astype(np.uint16), '16UC1'
            ),
            '/cam/aligned_depth_to_color/camera_info': camera_info(),
            '/cam/infra1/image_rect_raw': image(LABELS, 'mono8'),
        },
    )
    with Bag(path) as bag:
        assert find_streams(bag) == Streams('/cam/color/image_raw', '/cam/color/camera_info')


def test_raw_ground_truth_is_found_and_options_win(tmp_path):
    path = write(
        tmp_path / 'b',
        {
            '/cam/image': image(RGB, 'rgb8'),
            '/cam/camera_info': camera_info(),
            '/gt/depth': image(DEPTH, '32FC1'),
            '/gt/labels': image(LABELS, 'mono8'),
            '/gt/odom': odometry(),
            '/other/depth': image(DEPTH, '32FC1'),
            '/slam': odometry(),
        },
    )
    with Bag(path) as bag:
        found = find_streams(bag)
        assert (found.depth, found.labels, found.odom) == ('/gt/depth', '/gt/labels', '/gt/odom')
        found = find_streams(bag, depth='/other/depth', odom='/slam')
        assert (found.depth, found.labels, found.odom) == ('/other/depth', '/gt/labels', '/slam')
        with pytest.raises(BagError, match='/slam is a nav_msgs/msg/Odometry, but the depth-gt'):
            find_streams(bag, depth='/slam')
        with pytest.raises(BagError, match=r'no topic /cam/image_raw; did you mean /cam/image\?'):
            find_streams(bag, image='/cam/image_raw')
        with pytest.raises(BagError, match=r'no topic /gt_depth; did you mean /gt/depth\?'):
            find_streams(bag, depth='/gt_depth')
        with pytest.raises(BagError, match=r'no topic /odom; did you mean /gt/odom\?'):
            find_streams(bag, odom='/odom')


def test_a_topic_of_a_type_that_there_is_not(tmp_path):
    path = write(
        tmp_path / 'b', {'/cam/image': image(RGB, 'rgb8'), '/cam/camera_info': camera_info()}
    )
    with Bag(path) as bag, pytest.raises(BagError, match='no topic /cam/odom; it has /cam/'):
        find_streams(bag, odom='/cam/odom')


def test_lidar_and_poses_as_ground_truth(tmp_path):
    cloud = TYPES[POINT_CLOUD](header(1), 1, 0, [], False, 12, 0, np.zeros(0, np.uint8), True)
    camera = {'/cam/image': image(RGB, 'rgb8'), '/cam/camera_info': camera_info()}
    path = write(
        tmp_path / 'b',
        camera
        | {
            '/ground_truth/points': cloud,
            '/ground_truth/pose': stamped(POSE_WITH_COVARIANCE),
            '/mocap': stamped(POSE),
        },
    )
    with Bag(path) as bag:
        found = find_streams(bag)
        assert (found.depth, found.odom) == (None, '/ground_truth/pose')
        found = find_streams(bag, depth='/ground_truth/points', odom='/mocap')
        assert (found.depth, found.odom) == ('/ground_truth/points', '/mocap')
        with pytest.raises(BagError, match='PoseStamped, but the semantics-gt topic must be'):
            find_streams(bag, labels='/mocap')
    path = write(tmp_path / 'c', camera | {'/gt/pose': stamped(POSE), '/gt/odom': odometry()})
    with Bag(path) as bag:
        assert find_streams(bag).odom == '/gt/odom'


def test_two_cameras_ask_for_a_choice(tmp_path):
    path = write(
        tmp_path / 'b',
        {
            f'/{side}/{name}': message
            for side in ('left', 'right')
            for name, message in (('image', image(RGB, 'rgb8')), ('camera_info', camera_info()))
        },
    )
    with Bag(path) as bag:
        with pytest.raises(BagError, match='/left/image, /right/image: choose one with --image$'):
            find_streams(bag)
        assert find_streams(bag, image='/right/image').camera_info == '/right/camera_info'


def test_no_image_lists_the_topics(tmp_path):
    path = write(tmp_path / 'b', {'/cam/camera_info': camera_info(), '/odom': odometry()})
    with Bag(path) as bag, pytest.raises(BagError, match=r'no camera image topic.*/odom \(nav'):
        find_streams(bag)


def test_no_camera_info(tmp_path):
    path = write(tmp_path / 'b', {'/cam/image': image(RGB, 'rgb8')})
    with Bag(path) as bag, pytest.raises(BagError, match='no camera_info topic'):
        find_streams(bag)
