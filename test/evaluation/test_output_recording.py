"""What an evaluation records reads back as it was."""

import cv2
import numpy as np
import pytest

from depth_ros.bags.messages import IMAGE, TF, decode_pose, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import Intrinsics, intrinsics_from_info
from depth_ros.core.colors import WORST_ERROR, DepthColors, label_palette
from depth_ros.core.images import decode_depth, decode_labels
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose, pose_from_list, rotation_from_vector
from depth_ros.core.transform_tree import TransformTree
from depth_ros.evaluation.frame_scores import FrameOutputs
from depth_ros.evaluation.output_recording import WIDEST, OutputRecording, palette_png
from depth_ros.inference.contract import SemanticClass
from depth_ros.inference.outputs import OUTPUTS, Output, Topic

CLASSES = (SemanticClass(0, 'road', (128, 64, 128)), SemanticClass(1, 'car', (0, 0, 142)))
VIEW = Intrinsics(30.5, 31.25, 15.5, 11.75, 32, 24)
STAMP = 1_700_000_000_123_456_789  # more digits than a float has
MOUNT = pose_from_list((0.3, -0.1, 1.2, *OPTICAL_IN_BASE[3:]))
POSE = pose(rotation_from_vector([0.1, -0.2, 2.5]), [4.0, -5.0, 0.25])


def frame(index=0, frame_id='camera', **outputs):
    rgb = np.zeros((VIEW.height, VIEW.width, 3), np.uint8)
    return FrameOutputs(STAMP + index, VIEW, frame_id, rgb, VIEW, **outputs)


def depths():
    """As a network gives it, and as it is published."""
    depth = np.random.default_rng(0).uniform(1, 90, (24, 32)).astype(np.float32)
    published = depth.copy()
    published[:8] = np.nan
    return depth, published


def recorded(tmp_path, *frames, camera_pose=None, namespace='', errors=()):
    """The messages of each topic, with those that were read."""
    with BagWriter(tmp_path / 'b') as writer:
        output = OutputRecording(writer, CLASSES, namespace, camera_pose)
        for i, one in enumerate(frames):
            output.write(one, 1000 + i)
        for i, error in enumerate(errors):
            output.write_error(STAMP + i, 'camera', 2000 + i, error)
    with Bag(tmp_path / 'b') as bag:
        found = {}
        for message in bag.messages():
            found.setdefault(message.topic, []).append((message, bag.decode(message)))
        return found


def picture(message):
    """RGB pixels of a PNG image."""
    assert bytes(message.data[1:4]) == b'PNG' and 'png' in message.format
    return cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_depth_reads_back_bit_by_bit(tmp_path):
    depth, published = depths()
    found = recorded(tmp_path, frame(depth=depth, published=published))
    assert set(found) == {'/depth/image_rect', '/depth/camera_info', '/depth/color/compressed'}
    ((raw, message),) = found['/depth/image_rect']
    assert raw.log_ns == 1000 and header_stamp(raw.data) == STAMP
    assert (message.encoding, message.is_bigendian, message.step) == ('32FC1', 0, 32 * 4)
    assert message.header.frame_id == 'camera'
    assert message.data.tobytes() == published.tobytes()
    np.testing.assert_array_equal(decode_depth(message), published)
    ((raw, info),) = found['/depth/camera_info']
    assert header_stamp(raw.data) == STAMP and info.header.frame_id == 'camera'
    assert intrinsics_from_info(info, 32, 24) == VIEW
    assert info.k.tolist() == [30.5, 0, 15.5, 0, 31.25, 11.75, 0, 0, 1]


def test_an_output_of_the_table_alone(tmp_path, monkeypatch):
    """A new output is recorded as soon as it has a row in the table of outputs."""
    topic = Topic('depth/uncertainty', IMAGE, '32FC1')
    row = Output('uncertainty', 'perception', 'float32', topics=(topic,))
    monkeypatch.setitem(OUTPUTS, row.name, row)
    values = depths()[0]
    found = recorded(tmp_path, frame(others={'uncertainty': values}))
    assert set(found) == {'/depth/uncertainty'}
    np.testing.assert_array_equal(decode_depth(found['/depth/uncertainty'][0][1]), values)


def test_depth_that_was_not_published(tmp_path):
    depth, _ = depths()
    found = recorded(tmp_path, frame(depth=depth[:, ::-1]))  # not contiguous
    np.testing.assert_array_equal(decode_depth(found['/depth/image_rect'][0][1]), depth[:, ::-1])


def test_colours_of_depth(tmp_path):
    depth = np.full((24, 32), 40, np.float32)
    depth[:, :16] = 2
    depth[16:] = np.nan
    nothing = np.full((24, 32), np.nan, np.float32)
    found = recorded(tmp_path, frame(depth=depth), frame(1, depth=nothing), frame(2, depth=depth))
    first, unknown, last = (picture(m) for _, m in found['/depth/color/compressed'])
    near, far = first[:8, :8], first[:8, 24:]
    assert (near[..., 0] > near[..., 2] + 50).all() and (far[..., 2] > far[..., 0]).all()
    assert not first[20:].any() and not unknown.any()
    np.testing.assert_array_equal(first, last)  # a frame without depth does not shift the colours


def test_colours_are_the_nodes_pixel_for_pixel(tmp_path):
    """What `depth/color` and `semantics/color` of the perception node show, frame after frame."""
    rng = np.random.default_rng(3)
    depths = [rng.uniform(1, 9 + i, (24, 32)).astype(np.float32) for i in range(4)]
    for depth in depths:
        depth[rng.random(depth.shape) < 0.1] = np.nan
    labels = rng.choice([0, 1, 255], (24, 32)).astype(np.uint8)
    found = recorded(tmp_path, *(frame(i, depth=d, labels=labels) for i, d in enumerate(depths)))
    node = DepthColors()
    for (_, message), depth in zip(found['/depth/color/compressed'], depths, strict=True):
        np.testing.assert_array_equal(picture(message), node(depth))
    palette = label_palette({c.id: c.color for c in CLASSES})
    for _, message in found['/semantics/color/compressed']:
        np.testing.assert_array_equal(picture(message), palette[labels])


@pytest.mark.parametrize('shape', [(1, 1), (3, 7), (192, 640)])
def test_png_with_a_palette(shape):
    rng = np.random.default_rng(0)
    levels, palette = (
        rng.integers(0, 256, shape, np.uint8),
        rng.integers(0, 256, (256, 3), np.uint8),
    )
    found = cv2.imdecode(palette_png(levels, palette), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(found, palette[levels])


def test_labels(tmp_path):
    labels = np.zeros((24, 32), np.uint8)
    labels[:, 16:], labels[16:] = 1, 255
    found = recorded(tmp_path, frame(labels=labels))
    assert set(found) == {'/semantics/labels', '/semantics/color/compressed'}
    ((raw, message),) = found['/semantics/labels']
    assert header_stamp(raw.data) == STAMP and message.encoding == 'mono8'
    np.testing.assert_array_equal(decode_labels(message), labels)
    colors = picture(found['/semantics/color/compressed'][0][1])
    for where, color in (
        (np.s_[4, 4], (128, 64, 128)),
        (np.s_[4, 28], (0, 0, 142)),
        (np.s_[20, 4], (0, 0, 0)),
    ):
        np.testing.assert_array_equal(colors[where], color)


def test_odometry_and_transforms(tmp_path):
    found = recorded(
        tmp_path,
        frame(pose=np.eye(4)),
        frame(1, pose=POSE),
        frame(2, 'other', pose=POSE),
        frame(3),
        camera_pose=MOUNT,
    )
    assert {topic: len(messages) for topic, messages in found.items()} == {
        '/odom': 3,
        '/tf': 3,
        '/tf_static': 2,
    }
    raw, message = found['/odom'][1]
    assert header_stamp(raw.data) == STAMP + 1
    assert (message.header.frame_id, message.child_frame_id) == ('odom', 'base_link')
    np.testing.assert_allclose(decode_pose(message), POSE, atol=1e-12)
    tree = TransformTree()
    for topic in ('/tf', '/tf_static'):
        for _, message in found[topic]:
            tree.add(message, static=topic == '/tf_static')
    np.testing.assert_allclose(tree.lookup('odom', 'base_link', STAMP), np.eye(4), atol=1e-12)
    for camera in ('camera', 'other'):
        np.testing.assert_allclose(tree.lookup('odom', camera, STAMP + 2), POSE @ MOUNT, atol=1e-12)
    with Bag(tmp_path / 'b') as bag:
        assert bag.topics['/tf_static'] == (TF, 2, True)  # latched


def test_a_recording_with_transforms_of_its_own(tmp_path):
    assert set(recorded(tmp_path, frame(pose=POSE))) == {'/odom'}


def test_namespace(tmp_path):
    depth, published = depths()
    one = frame(depth=depth, published=published, pose=POSE, labels=np.zeros((24, 32), np.uint8))
    found = recorded(tmp_path, one, camera_pose=MOUNT, namespace='/depth_ros', errors=[depth])
    assert set(found) == {'/tf', '/tf_static'} | {
        f'/depth_ros/{name}'
        for name in (
            'depth/image_rect',
            'depth/camera_info',
            'depth/color/compressed',
            'semantics/labels',
            'semantics/color/compressed',
            'odom',
            'depth/error/compressed',
        )
    }


def test_errors_in_colours(tmp_path):
    error = np.full((24, 48), np.nan, np.float32)
    error[:, 16:32], error[:, 32:] = 0, WORST_ERROR
    error[12:, 32:] = 7
    ((raw, message),) = recorded(tmp_path, errors=[error])['/depth/error/compressed']
    assert raw.log_ns == 2000 and header_stamp(raw.data) == STAMP
    assert message.header.frame_id == 'camera'
    colors = picture(message)
    unknown, none, most = colors[:, :14], colors[:, 18:30], colors[:, 34:]
    assert not unknown.any()
    assert none.min() > 150 and (most[..., 0] > most[..., 2] + 50).all()
    assert (most == most[0, 0]).all()


@pytest.mark.parametrize('width', [WIDEST, 1242])
def test_errors_at_single_pixels_keep_their_colour(tmp_path, width):
    known = np.random.default_rng(0).uniform(size=(375, width)) < 0.05  # as a lidar's
    error = np.where(known, WORST_ERROR, np.nan)
    ((_, message),) = recorded(tmp_path, errors=[error])['/depth/error/compressed']
    colors = picture(message)
    scale = WIDEST / width
    assert colors.shape == (round(375 * scale), WIDEST, 3)
    rows, columns = (((i + 0.5) * scale).astype(int) for i in np.nonzero(known))
    red, _, blue = colors[rows, columns].T
    assert (red > blue + 15).mean() > 0.95


def test_large_errors_are_averaged_over_what_is_known(tmp_path):
    error = np.full((8, 2 * WIDEST), np.nan, np.float32)
    error[::2] = WORST_ERROR
    error[4::2, ::2] = 0
    small = np.full((4, WIDEST), WORST_ERROR, np.float32)
    small[2:] = WORST_ERROR / 2
    found = recorded(tmp_path, errors=[error, small])['/depth/error/compressed']
    large, expected = (picture(m) for _, m in found)
    np.testing.assert_array_equal(large, expected)
