"""Ground truth at the time of the images: the nearest message, poses in between, any kind of depth,
and damage that is counted and stops nothing."""

import struct

import numpy as np
import pytest
from support.bag_messages import (
    DEPTH,
    LABELS,
    TYPES,
    camera_info,
    compressed,
    header,
    image,
    odometry,
)
from support.lidar_messages import cloud, shifted, structured, transforms
from support.truth_recordings import images, record

from depth_ros.bags.ground_truth import LOOK_AHEAD, MAX_GAP_NS, GroundTruth, Nearest, PoseTrack
from depth_ros.bags.messages import (
    IMAGE,
    ODOMETRY,
    POSE,
    POSE_WITH_COVARIANCE,
    TF,
    BagError,
    header_stamp,
    message_types,
)
from depth_ros.bags.topics import Streams
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import pose, rotation_from_vector

MS = 10**6
CAMERA = Intrinsics(5.0, 5.0, 3.5, 2.5, 8, 6)
FRAME = 'camera_optical_frame'
STREAMS = {'image': '/cam/image', 'camera_info': '/cam/camera_info'}


def stamped_at(message, stamp):
    message.header = header(stamp, message.header.frame_id)
    return message


# The nearest message


def pairs(tmp_path, stamps, asked, tolerance=50):
    """The stamps, in ms, of what is found at those asked for; None where nothing is near."""
    nearest = Nearest(record(tmp_path / 'b', images(s * MS for s in stamps)), '/cam/image')
    found = [nearest.at(s * MS, tolerance * MS) for s in asked]
    nearest.close()
    return [m and header_stamp(m.data) // MS for m in found]


@pytest.mark.parametrize(
    'stamps, asked, expected',
    [
        pytest.param([130, 230, 330], [100, 200, 300], [130, 230, 330], id='later'),
        pytest.param([130, 330], [100, 200, 300], [130, None, 330], id='one missing'),
        pytest.param([150, 251], [100, 200], [150, 150], id='just within the tolerance'),
        pytest.param([151], [100], [None], id='just outside of it'),
        pytest.param(
            [100, 200, 300],
            [100, 133, 166, 200, 233],
            [100, 100, 200, 200, 200],
            id='slower than the images',
        ),
        pytest.param(range(0, 500, 10), [104, 206, 400], [100, 210, 400], id='faster'),
        pytest.param([300, 400], [100, 200, 300], [None, None, 300], id='begins later'),
        pytest.param([100], [100, 140, 200], [100, 100, None], id='ends earlier'),
        pytest.param(
            [100, 200, 2000, 100, 200],
            [100, 200, 2000, 100, 200],
            [100, 200, 2000, 100, 200],
            id='clock goes back',
        ),
        pytest.param(
            [2000, 2020, 2040, 2060, 100, 120],
            [2000, 2020, 100, 120],
            [2000, 2020, 100, 120],
            id='goes back after more messages than images',
        ),
        pytest.param([9000, 5000, 100], [9000, 5000, 100], [9000, 5000, 100], id='goes back twice'),
        pytest.param(
            [100, 2200, 100, 1100, 2200],
            [100, 1100, 2200, 100, 1100, 2200],
            [100, None, 2200, 100, 1100, 2200],
            id='not taken from after the jump',
        ),
        pytest.param(
            [100, 200, 300, 400, 500],
            [100, 300, 200, 400, 500],
            [100, 300, None, 400, 500],
            id='two images swapped',
        ),
        pytest.param(
            [100, 300, 200, 400, 500],
            [100, 200, 300, 400, 500],
            [100, 200, 300, 400, 500],
            id='two messages swapped',
        ),
    ],
)
def test_nearest(tmp_path, stamps, asked, expected):
    assert pairs(tmp_path, stamps, asked) == expected


def test_a_jump_back_is_found_within_the_look_ahead(tmp_path):
    late = range(2000, 2000 + 10 * (LOOK_AHEAD - 1), 10)  # the first of them is paired
    assert pairs(tmp_path, [*late, 100], [2000, 100], tolerance=5) == [2000, 100]


def test_truth_that_cannot_be_read_is_left_out(tmp_path):
    rows = images([1, 2])
    rows.insert(1, ('/cam/image', b'\0\1\0'))
    problems = {}
    nearest = Nearest(record(tmp_path / 'b', rows), '/cam/image', problems)
    assert [header_stamp(nearest.at(s, 0).data) for s in (1, 2)] == [1, 2]
    nearest.close()
    assert problems == {'a message of /cam/image has no header': 1}


# Poses in between


def turned(angle, x=0.0):
    return pose(rotation_from_vector([0, 0, angle]), [x, 0, 0])


def test_half_way_between_two_poses():
    track = PoseTrack({200: turned(1.0, 4.0), 100: turned(0.2, 2.0)})
    assert len(track) == 2
    found = track.at([100, 150, 175, 200], tolerance=0)
    expected = [turned(0.2, 2), turned(0.6, 3), turned(0.8, 3.5), turned(1, 4)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_poses_far_apart_are_not_interpolated():
    wide = MAX_GAP_NS + 2
    track = PoseTrack({0: turned(0, 1), wide: turned(0, 2), wide + MAX_GAP_NS: turned(0, 4)})
    found = track.at([10, wide // 2, wide - 10, wide + MAX_GAP_NS // 2], tolerance=10)
    assert found[[0, 2, 3], 0, 3] == pytest.approx([1, 2, 3])
    assert np.isnan(found[1]).all()


def test_poses_before_the_first_and_after_the_last():
    found = PoseTrack({100: turned(0, 1), 200: turned(0, 2)}).at([89, 90, 210, 211], tolerance=10)
    assert found[1:3, 0, 3].tolist() == [1, 2]
    assert np.isnan(found[[0, 3]]).all()


def test_a_track_of_one_pose_and_of_none():
    assert PoseTrack({5: turned(0, 7)}).at([4, 5], tolerance=1)[:, 0, 3].tolist() == [7, 7]
    none = PoseTrack({})
    assert len(none) == 0 and np.isnan(none.at([1, 2], tolerance=10)).all()
    assert none.at([], tolerance=10).shape == (0, 4, 4)


# Depth and labels


MILLIMETRES = np.round(DEPTH * 1000).astype(np.uint16)
LEAD = struct.pack('<iff', 0, 0, 0)


def truth(tmp_path, rows, lidar_pose=None, **topics):
    """The ground truth of a recording of these messages and of one image at 1 s."""
    path = record(tmp_path / 'b', [*images([10**9]), ('/cam/camera_info', camera_info()), *rows])
    return GroundTruth(path, Streams(**STREAMS, **topics), tolerance=10 * MS, lidar_pose=lidar_pose)


@pytest.mark.parametrize(
    'message, error',
    [
        (image(DEPTH, '32FC1'), 0),
        (image(MILLIMETRES, '16UC1'), 5.01e-4),
        (compressed(MILLIMETRES, '.png', '16UC1; compressedDepth png', LEAD), 5.01e-4),
    ],
    ids=['32FC1', '16UC1', 'compressedDepth'],
)
def test_depth_images(tmp_path, message, error):
    with truth(tmp_path, [('/gt/depth', message)], depth='/gt/depth') as found:
        depth = found.depth(10**9 + 5 * MS, CAMERA, FRAME)
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth, DEPTH, atol=error, rtol=0)
        assert found.depth(10**9 + 11 * MS, CAMERA, FRAME) is None
        assert found.labels(10**9) is None and not len(found.track)
        assert found.problems == {}


def test_labels(tmp_path):
    rows = [('/gt/labels', image(LABELS, 'mono8'))]
    with truth(tmp_path, rows, labels='/gt/labels') as found:
        np.testing.assert_array_equal(found.labels(10**9), LABELS)
        assert found.labels(2 * 10**9) is None and found.depth(10**9, CAMERA, FRAME) is None


# Two points ahead of a lidar whose axes are those of the camera: 2 m and 4 m away, on the axis and
# one metre to the right of it. A metre nearer than the camera, they come to be 3 m and 5 m away.
POINTS = cloud(structured([[[0, 0, 2], [1, 0, 4]]]))
BEFORE_CAMERA = shifted(z=1.0)


def assert_projected(depth):
    expected = np.full((6, 8), np.nan, np.float32)
    expected[3, 4] = 3  # (3.5, 2.5) rounded
    expected[3, 5] = 5  # 5 / 5 pixels to the right: 4.5
    np.testing.assert_array_equal(depth, expected)


def test_lidar_with_a_given_pose(tmp_path):
    rows = [('/lidar', POINTS)]
    with truth(tmp_path, rows, lidar_pose=BEFORE_CAMERA, depth='/lidar') as found:
        assert_projected(found.depth(10**9, CAMERA, FRAME))


def test_lidar_with_transforms(tmp_path):
    static = transforms(('base', FRAME, 1, shifted(x=1.0)), ('base', 'lidar', 1, shifted(1, 0, 1)))
    rows = [('/tf_static', static), ('/lidar', POINTS)]
    with truth(tmp_path, rows, depth='/lidar') as found:
        assert_projected(found.depth(10**9, CAMERA, FRAME))
        assert found.problems == {}


def test_lidar_without_transforms(tmp_path):
    with pytest.raises(BagError, match=r'no transforms \(/tf, /tf_static\).* give --lidar-pose'):
        truth(tmp_path, [('/lidar', POINTS)], depth='/lidar')


def test_lidar_that_is_not_connected_with_the_camera(tmp_path):
    rows = [('/tf_static', transforms(('base', 'lidar', 1, np.eye(4)))), ('/lidar', POINTS)]
    with truth(tmp_path, rows, depth='/lidar') as found:
        assert [found.depth(10**9 + i, CAMERA, FRAME) for i in range(3)] == [None] * 3
        ((problem, count),) = found.problems.items()
        assert count == 3 and f"no frame '{FRAME}'" in problem


# Poses


def pose_message(msgtype, x, stamp):
    message = odometry(stamp)
    message.pose.pose.position.x = x
    if msgtype == ODOMETRY:
        return message
    wrapped = message.pose if msgtype == POSE_WITH_COVARIANCE else message.pose.pose
    return TYPES[msgtype](header(stamp, 'map'), wrapped)


@pytest.mark.parametrize('msgtype', [ODOMETRY, POSE, POSE_WITH_COVARIANCE])
def test_topics_of_poses(tmp_path, msgtype):
    rows = [('/gt', pose_message(msgtype, x, s * 100 * MS)) for s, x in ((9, 1.0), (11, 3.0))]
    with truth(tmp_path, rows, odom='/gt') as found:
        at = found.track.at([10**9], tolerance=0)[0]
        np.testing.assert_allclose(at[:3], [[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 3]])


def test_poses_from_two_frames(tmp_path):
    moving = [
        ('/tf', transforms(('odom', 'base_link', s, shifted(x=x))))
        for s, x in ((0.9, 1.0), (1.1, 3.0))
    ]
    mounted = ('/tf_static', transforms(('base_link', 'imu', 1, shifted(y=5.0))))
    with truth(tmp_path, [mounted, *moving], odom='tf:odom>base_link') as found:
        assert found.track.stamps.tolist() == [10**9]  # where there is an image
        np.testing.assert_allclose(found.track.poses[0], shifted(x=2.0), atol=1e-12)
    with truth(tmp_path / '2', [mounted, *moving], odom='tf:imu>odom') as found:
        np.testing.assert_allclose(found.track.poses[0], shifted(-2, -5), atol=1e-12)


def test_frames_that_are_not_recorded(tmp_path):
    with pytest.raises(BagError, match='no transforms'):
        truth(tmp_path, [], odom='tf:odom>base_link')
    rows = [('/tf', transforms(('odom', 'base_link', 7, np.eye(4))))]
    with pytest.raises(BagError, match=r'never has a transform map>base_link .*no frame .map'):
        truth(tmp_path / '2', rows, odom='tf:map>base_link')
    with pytest.raises(BagError, match='never has a transform odom>base_link .*outside of the'):
        truth(tmp_path / '3', rows, odom='tf:odom>base_link')


# Damage


def test_damaged_truth_is_counted_and_stops_nothing(tmp_path):
    stamps = [10**9 + i * 100 * MS for i in range(4)]
    depth, labels, poses = [], [], []
    for i, stamp in enumerate(stamps):
        depth.append(image(DEPTH, '32FC1', stamp))
        labels.append(image(LABELS, 'mono8', stamp))
        poses.append(odometry(stamp))
        if i in (1, 2):
            depth[-1].data = depth[-1].data[: 100 + i]  # the same problem, with other numbers
            labels[-1].encoding = 'mono16'
            poses[-1].pose.pose.position.x = np.nan
    rows = [('/gt/depth', m) for m in depth] + [('/gt/labels', m) for m in labels]
    rows += [('/gt/odom', m) for m in poses]
    with truth(tmp_path, rows, depth='/gt/depth', labels='/gt/labels', odom='/gt/odom') as found:
        known = [found.depth(s, CAMERA, FRAME) is not None for s in stamps]
        assert known == [True, False, False, True]
        assert [found.labels(s) is not None for s in stamps] == known
        assert found.track.stamps.tolist() == [stamps[0], stamps[3]]
        assert [(p.split(': ')[0], n) for p, n in found.problems.items()] == [
            ('true pose', 2),
            ('true depth', 2),
            ('true labels', 2),
        ]
        assert 'truncated: 101 bytes' in '\n'.join(found.problems)


def test_bytes_that_are_no_message(tmp_path):
    rest = bytes(message_types().serialize_cdr(image(DEPTH, '32FC1', 10**9), IMAGE))[:60]
    with truth(tmp_path, [('/gt/depth', rest)], depth='/gt/depth') as found:
        assert found.depth(10**9, CAMERA, FRAME) is None
        ((problem, count),) = found.problems.items()
        assert count == 1 and problem.startswith('true depth: recording')
        assert 'no valid sensor_msgs/msg/Image' in problem


def test_damaged_transforms_are_left_out(tmp_path):
    path = tmp_path / 'b'
    with BagWriter(path) as writer:
        for topic, message in images([10**9]):
            writer.write(topic, IMAGE, 0, message)
        writer.write('/tf', TF, 1, b'\0\1\0\0\7\0\0\0')
        writer.write('/tf', TF, 2, transforms(('odom', 'base_link', 1, shifted(x=4.0))))
    streams = Streams(**STREAMS, odom='tf:odom>base_link')
    with GroundTruth(path, streams, tolerance=0) as found:
        assert found.track.poses[0, 0, 3] == 4
        ((problem, count),) = found.problems.items()
        assert count == 1 and 'a message of /tf at 1 ns is no valid' in problem


def test_truth_is_used_up_to_where_the_recording_is_damaged(tmp_path):
    path = tmp_path / 'b'
    noise = np.random.default_rng(0).uniform(4, 6, (48, 64)).astype(np.float32)
    with BagWriter(path, compress=True) as writer:
        for i in range(1, 401):
            writer.write('/gt/odom', ODOMETRY, i, odometry(i * MS))
            writer.write('/gt/depth', IMAGE, i, image(noise, '32FC1', i * MS))
    file = path / 'b.mcap'
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1000] = bytes(1000)
    file.write_bytes(data)
    streams = Streams(**STREAMS, depth='/gt/depth', odom='/gt/odom')
    with GroundTruth(path, streams, tolerance=0) as found:
        known = [found.depth(i * MS, CAMERA, FRAME) is not None for i in range(1, 401)]
        count = known.index(False)
        assert 50 < count < 350 and not any(known[count:])
        assert len(found.track) == count
        ((problem, times),) = found.problems.items()
        assert f'{path} is damaged' in problem and times == 2
