"""Recordings: what is written can be read, what is wrong is named, topics are found, depth and
labels come back exactly."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros import bag as bags
from depth_ros.bag import Bag, BagError, BagWriter, find_streams

TYPES = bags.message_types().types
HEIGHT, WIDTH = 6, 8


def header(stamp_ns: int, frame: str = 'camera_optical_frame'):
    time = TYPES['builtin_interfaces/msg/Time'](stamp_ns // 10**9, stamp_ns % 10**9)
    return TYPES['std_msgs/msg/Header'](time, frame)


def image(pixels: np.ndarray, encoding: str, stamp_ns: int = 10**9, padding: int = 0):
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return TYPES[bags.IMAGE](
        header(stamp_ns), *pixels.shape[:2], encoding, 0, padded.shape[1], padded.reshape(-1)
    )


def compressed(pixels: np.ndarray, suffix: str, form: str, lead: bytes = b''):
    data = lead + cv2.imencode(suffix, pixels)[1].tobytes()
    return TYPES[bags.COMPRESSED_IMAGE](header(10**9), form, np.frombuffer(data, np.uint8))


def camera_info(stamp_ns: int = 10**9):
    k = np.array([5.0, 0, 4, 0, 5, 3, 0, 0, 1])
    p = np.array([5.0, 0, 4, 0, 0, 5, 3, 0, 0, 0, 1, 0])
    roi = TYPES['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return TYPES[bags.CAMERA_INFO](
        header(stamp_ns), HEIGHT, WIDTH, 'plumb_bob', np.zeros(5), k, np.eye(3).ravel(), p, 0, 0,
        roi,
    )


def odometry(stamp_ns: int = 10**9):
    geometry = 'geometry_msgs/msg/'
    pose = TYPES[geometry + 'Pose'](
        TYPES[geometry + 'Point'](1.0, 2.0, 3.0), TYPES[geometry + 'Quaternion'](0.0, 0.0, 0.0, 1.0)
    )
    still = TYPES[geometry + 'Vector3'](0.0, 0.0, 0.0)
    return TYPES[bags.ODOMETRY](
        header(stamp_ns, 'odom'),
        'base_link',
        TYPES[geometry + 'PoseWithCovariance'](pose, np.eye(6).ravel()),
        TYPES[geometry + 'TwistWithCovariance'](TYPES[geometry + 'Twist'](still, still),
                                                np.eye(6).ravel()),
    )


RGB = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
DEPTH = np.linspace(1, 60, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
LABELS = (np.arange(HEIGHT * WIDTH, dtype=np.uint8) % 19).reshape(HEIGHT, WIDTH)


def write(path: Path, topics: dict, storage: str = 'mcap', **options) -> Path:
    """Write one message of each topic; the type follows from the message."""
    with BagWriter(path, storage, **options) as writer:
        for index, (topic, message) in enumerate(topics.items()):
            writer.write(topic, message.__msgtype__, 10**9 + index, message)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A recording with one picture and its camera_info."""
    return write(tmp_path / 'plain', {'/cam/image': image(RGB, 'rgb8'),
                                      '/cam/camera_info': camera_info()})


# Writing and reading


@pytest.mark.parametrize('storage, compress', [('mcap', False), ('mcap', True), ('sqlite3', False)])
def test_written_messages_are_read_back_bit_for_bit(tmp_path, storage, compress):
    types = bags.message_types()
    raw = bytes(types.serialize_cdr(image(RGB, 'rgb8', 1_500_000_007), bags.IMAGE))
    with BagWriter(tmp_path / 'b', storage, compress=compress) as writer:
        writer.write('/b', bags.IMAGE, 20, raw)
        writer.write('/a', bags.CAMERA_INFO, 30, camera_info(5))
        writer.write('/b', bags.IMAGE, 40, raw)
    with Bag(tmp_path / 'b') as bag:
        assert bag.topics == {'/b': (bags.IMAGE, 2, False), '/a': (bags.CAMERA_INFO, 1, False)}
        assert (bag.start_ns, bag.end_ns) == (20, 40)
        messages = list(bag.messages())
        assert [(m.topic, m.log_ns) for m in messages] == [('/b', 20), ('/a', 30), ('/b', 40)]
        assert messages[0].data == raw
        assert bags.header_stamp(raw) == 1_500_000_007
        assert [m.log_ns for m in bag.messages(['/a'])] == [30]
        assert bag.decode(messages[1]).k[0] == 5.0
        assert bag.first('/b').width == WIDTH
        assert bag.has_header(bags.IMAGE) and not bag.has_header(bags.TF)


def test_static_transforms_are_marked_as_latched(tmp_path):
    tf = TYPES[bags.TF]([])
    with Bag(write(tmp_path / 'b', {'/tf': tf, '/tf_static': tf})) as bag:
        assert bag.topics['/tf_static'].latched and not bag.topics['/tf'].latched


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / 'b') as writer:
        writer.write('/cam/image', bags.IMAGE, 1, image(RGB, 'rgb8'))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_old_recording_is_kept_until_the_new_one_is_complete(plain):
    with pytest.raises(BagError, match='exists already'):
        BagWriter(plain)
    with pytest.raises(ZeroDivisionError), BagWriter(plain, overwrite=True):
        raise ZeroDivisionError
    with Bag(plain) as bag:
        assert '/cam/image' in bag.topics
    write(plain, {'/other': camera_info()}, overwrite=True)
    with Bag(plain) as bag:
        assert list(bag.topics) == ['/other']
    assert [p.name for p in plain.parent.iterdir()] == ['plain']


@pytest.mark.parametrize('storage, suffix', [('mcap', '.mcap'), ('sqlite3', '.db3')])
def test_opens_without_metadata(tmp_path, storage, suffix):
    path = write(tmp_path / 'b', {'/cam/image': image(RGB, 'rgb8')}, storage)
    (path / 'metadata.yaml').unlink()
    for what in (path, path / f'b{suffix}'):
        with Bag(what) as bag:
            assert bag.topics['/cam/image'].count == 1
            assert bag.first('/cam/image').data.tobytes() == RGB.tobytes()


# Recordings that cannot be used


def test_missing_path(tmp_path):
    with pytest.raises(BagError, match='nowhere does not exist'):
        Bag(tmp_path / 'nowhere')


def test_folder_without_recording(tmp_path):
    with pytest.raises(BagError, match='no metadata.yaml, .mcap or .db3'):
        Bag(tmp_path)


def test_ros1_bag_and_foreign_file(tmp_path):
    (tmp_path / 'old.bag').touch()
    with pytest.raises(BagError, match='rosbags-convert'):
        Bag(tmp_path / 'old.bag')
    (tmp_path / 'x.txt').touch()
    with pytest.raises(BagError, match='no rosbag2 recording'):
        Bag(tmp_path / 'x.txt')


def test_several_files_without_metadata(plain):
    (plain / 'metadata.yaml').unlink()
    (plain / 'second.mcap').touch()
    with pytest.raises(BagError, match='ros2 bag reindex'):
        Bag(plain)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('metadata', [True, False])
def test_truncated_recording_names_the_remedy(tmp_path, storage, metadata):
    path = tmp_path / 'b'
    with BagWriter(path, storage) as writer:
        for stamp in range(100):
            writer.write('/cam/image', bags.IMAGE, stamp, image(RGB, 'rgb8'))
    file = next(p for p in path.iterdir() if p.suffix in ('.mcap', '.db3'))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if not metadata:
        (path / 'metadata.yaml').unlink()
    with pytest.raises(BagError, match=r'damaged or was cut short.*recover'), Bag(path) as bag:
        list(bag.messages())


def test_broken_metadata(plain):
    (plain / 'metadata.yaml').write_text('rosbag2_bagfile_information: [')
    with pytest.raises(BagError, match='damaged'):
        Bag(plain)


def test_empty_recording(tmp_path):
    with BagWriter(tmp_path / 'b'):
        pass
    with pytest.raises(BagError, match='no messages'):
        Bag(tmp_path / 'b')


def test_message_of_garbage(tmp_path):
    with BagWriter(tmp_path / 'b') as writer:
        writer.write('/cam/image', bags.IMAGE, 1, b'\x00\x01\x00\x00abc')
    with Bag(tmp_path / 'b') as bag, pytest.raises(BagError, match='/cam/image at 1 ns'):
        bag.first('/cam/image')


# Which topic is what


def test_the_planned_names(tmp_path):
    truth = '/ground_truth/'
    path = write(tmp_path / 'b', {
        '/camera/image_rect/compressed': compressed(RGB, '.jpg', 'jpeg'),
        '/camera/camera_info': camera_info(),
        truth + 'depth/image_rect/compressedDepth': compressed(
            (DEPTH * 1000).astype(np.uint16), '.png', '16UC1; compressedDepth png', lead=bytes(12)),
        truth + 'depth/camera_info': camera_info(),
        truth + 'semantics/labels/compressed': compressed(LABELS, '.png', 'mono8; png compressed'),
        truth + 'odom': odometry(),
    })
    with Bag(path) as bag:
        assert find_streams(bag) == bags.Streams(
            '/camera/image_rect/compressed', '/camera/camera_info',
            truth + 'depth/image_rect/compressedDepth', truth + 'semantics/labels/compressed',
            truth + 'odom')


def test_color_wins_over_grey_depth_and_infrared(tmp_path):
    path = write(tmp_path / 'b', {
        '/cam/gray/image_raw': image(LABELS, 'mono8'),
        '/cam/gray/camera_info': camera_info(),
        '/cam/color/image_raw': image(RGB, 'bgr8'),
        '/cam/color/image_raw/compressed': compressed(RGB, '.jpg', 'bgr8; jpeg compressed bgr8'),
        '/cam/color/camera_info': camera_info(),
        '/cam/aligned_depth_to_color/image_raw': image((DEPTH * 1e3).astype(np.uint16), '16UC1'),
        '/cam/aligned_depth_to_color/camera_info': camera_info(),
        '/cam/infra1/image_rect_raw': image(LABELS, 'mono8'),
    })
    with Bag(path) as bag:
        assert find_streams(bag) == bags.Streams('/cam/color/image_raw', '/cam/color/camera_info')


def test_raw_ground_truth_is_found_and_options_win(tmp_path):
    path = write(tmp_path / 'b', {
        '/cam/image': image(RGB, 'rgb8'), '/cam/camera_info': camera_info(),
        '/gt/depth': image(DEPTH, '32FC1'), '/gt/labels': image(LABELS, 'mono8'),
        '/gt/odom': odometry(), '/other/depth': image(DEPTH, '32FC1'), '/slam': odometry(),
    })
    with Bag(path) as bag:
        found = find_streams(bag)
        assert (found.depth, found.labels, found.odom) == ('/gt/depth', '/gt/labels', '/gt/odom')
        found = find_streams(bag, depth='/other/depth', odom='/slam')
        assert (found.depth, found.labels, found.odom) == ('/other/depth', '/gt/labels', '/slam')
        with pytest.raises(BagError, match='/slam is a nav_msgs/msg/Odometry, but the depth-gt'):
            find_streams(bag, depth='/slam')
        with pytest.raises(BagError, match='no topic /nothing.*/cam/image '):
            find_streams(bag, image='/nothing')


def test_two_cameras_ask_for_a_choice(tmp_path):
    path = write(tmp_path / 'b', {
        f'/{side}/{name}': message
        for side in ('left', 'right')
        for name, message in (('image', image(RGB, 'rgb8')), ('camera_info', camera_info()))
    })
    with Bag(path) as bag:
        with pytest.raises(BagError, match='/left/image, /right/image: choose one with --image-t'):
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


# Depth and labels


def test_depth_in_millimetres_and_metres():
    millimetres = (DEPTH * 1000).astype(np.uint16)
    millimetres[0, 0] = 0
    lead = struct.pack('<iff', 0, 0, 0)
    for message in (image(millimetres, '16UC1', padding=2),
                    compressed(millimetres, '.png', '16UC1; compressedDepth png', lead=lead),
                    compressed(millimetres, '.png', '16UC1; compressedDepth', lead=lead)):
        depth = bags.decode_depth(message)
        assert depth.dtype == np.float32 and np.isnan(depth[0, 0])
        assert np.abs(depth - DEPTH).ravel()[1:].max() < 1.01e-3
    metres = DEPTH.copy()
    metres[0, :3] = 0, np.inf, np.nan
    decoded = bags.decode_depth(image(metres, '32FC1'))
    assert np.isnan(decoded[0, :3]).all() and np.array_equal(decoded[1:], DEPTH[1:])


def test_quantised_float_depth_follows_the_transport_plugin():
    # compressed_depth_image_transport: code = A / depth + B, 0 = invalid.
    a, b = 100.0 * 101.0, 1.0 - 101.0
    codes = np.round(a / DEPTH + b).astype(np.uint16)
    codes[2, 3] = 0
    lead = struct.pack('<iff', 0, a, b)
    depth = bags.decode_depth(compressed(codes, '.png', '32FC1; compressedDepth png', lead))
    assert np.isnan(depth[2, 3])
    valid = np.isfinite(depth)
    assert valid.sum() == DEPTH.size - 1
    # Half a code step in inverse depth.
    assert np.all(np.abs(depth - DEPTH)[valid] <= 0.51 * DEPTH[valid] ** 2 / a * 1.02)


def test_labels():
    for message in (image(LABELS, 'mono8', padding=3), compressed(LABELS, '.png', 'mono8; png')):
        assert np.array_equal(bags.decode_labels(message), LABELS)
    with pytest.raises(ValueError, match='publish mono8'):
        bags.decode_labels(compressed(RGB, '.png', 'png'))


def test_big_endian_depth():
    message = image(DEPTH.astype('>f4'), '32FC1')
    message.is_bigendian = 1
    assert np.array_equal(bags.decode_depth(message), DEPTH)


def test_bad_pictures():
    short = image(DEPTH, '32FC1')
    short.data = short.data[:-1]
    with pytest.raises(ValueError, match='8x6 32FC1 with step 32 has 191 bytes'):
        bags.decode_depth(short)
    empty = TYPES[bags.COMPRESSED_IMAGE](header(1), 'mono8; png', np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match='9 bytes cannot be decoded'):
        bags.decode_labels(empty)
    with pytest.raises(ValueError, match="'mono16' is not supported"):
        bags.decode_depth(image(LABELS.astype(np.uint16), 'mono16'))
    with pytest.raises(ValueError, match="'rgb8' is not supported"):
        bags.decode_labels(image(RGB, 'rgb8'))
