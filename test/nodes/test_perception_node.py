"""The real perception node, in its own process, over real DDS."""

import signal

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from support.onnx_models import CLASSES, row_depth, save_perception
from support.ros_process import FRAME, NodeProcess, Peer, image_message, info_message
from support.scene import FOCAL, HEIGHT, WIDTH, Scene, bands, expected_depth, pixels

from depth_ros.core.camera import intrinsics_from_info
from depth_ros.core.pointcloud import POINT

IMAGE_TOPICS = ('/depth/image_rect', '/depth/color', '/semantics/labels', '/semantics/color')


@pytest.fixture(scope='module')
def perception(tmp_path_factory):
    model = save_perception(tmp_path_factory.mktemp('models') / 'perception.onnx')
    with (
        NodeProcess('perception_node', {'model': model, 'points_stride': 1}) as process,
        Peer() as peer,
    ):
        peer.listen_diagnostics()
        running = Scene(peer, process)
        peer.wait_state('perception_node', 'active')
        yield running


@pytest.fixture
def listening(perception):
    """Listen to every output for one test."""
    kinds = {
        **dict.fromkeys(IMAGE_TOPICS, Image),
        '/depth/camera_info': CameraInfo,
        '/points': PointCloud2,
    }
    listeners = [perception.peer.listen(kind, topic) for topic, kind in kinds.items()]
    perception.peer.spin_until(
        lambda: all(s.get_publisher_count() for s in listeners), what='publishers'
    )
    perception.camera.wait_matched()
    yield perception
    for listener in listeners:
        perception.peer.node.destroy_subscription(listener)


def test_nothing_is_taken_while_nobody_listens(perception):
    peer, topics = perception.peer, ('/image', '/camera_info')
    peer.spin_until(
        lambda: not any(peer.node.count_subscribers(t) for t in topics), what='end of subscription'
    )
    perception.send()
    found = peer.diagnostics_after('perception_node', lambda d: d['input_silence_s'])
    assert found['received'] == found['processed'] == '0' and found['input_age_ms'] == ''
    assert found['state'] == 'active' and found['model'] == 'tiny_perception'
    status = peer.messages['/diagnostics'][-1].status[0]
    assert (status.level, status.message) == (b'\0', 'nobody listens; images are not subscribed')
    listener = peer.listen(Image, '/semantics/labels')
    perception.camera.wait_matched()
    perception.answer(['/semantics/labels'])
    peer.node.destroy_subscription(listener)
    peer.spin_until(
        lambda: not any(peer.node.count_subscribers(t) for t in topics), what='end of subscription'
    )


def test_outputs_have_the_inputs_geometry_stamp_and_frame(listening):
    info = info_message(WIDTH, HEIGHT, FOCAL, distortion=0.1)
    found = listening.answer([*IMAGE_TOPICS, '/depth/camera_info', '/points'], info=info)
    for message in found.values():
        assert message.header.frame_id == FRAME
        assert (message.width, message.height) == (WIDTH, HEIGHT)
    depth = pixels(found['/depth/image_rect'])
    np.testing.assert_allclose(depth, expected_depth(), rtol=1e-6)
    assert np.isnan(depth[:20]).all() and np.isfinite(depth[30:]).all()

    labels = pixels(found['/semantics/labels'])
    np.testing.assert_array_equal(labels[:, 0], np.repeat([3, 2, 1, 0], HEIGHT // 4))
    palette = np.array([c.color for c in CLASSES], np.uint8)
    np.testing.assert_array_equal(pixels(found['/semantics/color']), palette[labels])

    color = pixels(found['/depth/color']).astype(int)
    assert (color[:20] == 0).all()
    assert color[40, 5, 0] > color[40, 5, 2] and color[-1, 5, 2] > color[-1, 5, 0]  # red is near

    calibration = found['/depth/camera_info']
    assert calibration.k.tolist() == info.k.tolist() and calibration.d == info.d
    listening.process.wait_for('lens distortion')


def test_points_are_the_depth_in_space(listening):
    info = info_message(WIDTH, HEIGHT, FOCAL)
    found = listening.answer(['/depth/image_rect', '/semantics/labels', '/points'], info=info)
    points = np.frombuffer(found['/points'].data, POINT).reshape(HEIGHT, WIDTH)
    depth = pixels(found['/depth/image_rect'])
    x, y = intrinsics_from_info(info, WIDTH, HEIGHT).rays()
    for axis, expected in {'x': depth * x, 'y': depth * y[:, None], 'z': depth}.items():
        np.testing.assert_allclose(points[axis], expected, rtol=1e-5)
    np.testing.assert_array_equal(points['label'], pixels(found['/semantics/labels']))
    grey = bands()[..., 0].astype(np.uint32)
    np.testing.assert_array_equal(points['rgb'].copy().view(np.uint32), grey * 0x010101)


def test_depth_is_corrected_by_the_focal_length(listening):
    twice = listening.answer(['/depth/image_rect'], info=info_message(WIDTH, HEIGHT, 2 * FOCAL))
    np.testing.assert_allclose(pixels(twice['/depth/image_rect']), 2 * expected_depth(), rtol=1e-6)


def test_parameters_change_from_the_next_frame_on(listening):
    assert listening.peer.set_parameters(
        'perception_node', points_stride=4, max_depth=8.0
    ).successful
    found = listening.answer(['/depth/image_rect', '/points'])
    assert (found['/points'].width, found['/points'].height) == (WIDTH // 4, HEIGHT // 4)
    depth = pixels(found['/depth/image_rect'])
    assert 5 < np.nanmax(depth) <= 8 and np.isnan(depth[-1]).all()
    assert listening.peer.set_parameters(
        'perception_node', points_stride=1, max_depth=0.0
    ).successful


@pytest.mark.parametrize(
    'values, reason',
    [
        ({'points_stride': 3, 'max_depth': -1.0}, 'max_depth'),
        ({'points_stride': 3, 'max_depth': float('nan')}, 'max_depth'),
        ({'points_stride': 3, 'output_size': 'network'}, 'output_size is fixed'),
        ({'points_stride': 3, 'autostart': False}, 'autostart'),
        ({'points_stride': 3, 'depth_scale': 'big'}, 'type'),
        ({'points_stride': 3, 'colour': 1}, 'undeclared'),
    ],
)
def test_wrong_parameters_are_rejected_as_a_whole(listening, values, reason):
    result = listening.peer.set_parameters('perception_node', **values)
    assert not result.successful and reason in result.reason
    assert listening.answer(['/points'])['/points'].width == WIDTH


@pytest.mark.parametrize('encoding', ['bgr8', 'mono8', 'rgba8', 'bayer_rggb8'])
def test_other_encodings(listening, encoding):
    grey = bands()
    image = {
        'bgr8': grey,
        'mono8': grey[..., 0],
        'bayer_rggb8': grey[..., 0],
        'rgba8': np.concatenate((grey, grey[..., :1]), -1),
    }[encoding]
    found = listening.answer(['/semantics/labels'], image=image_message(image, 0, encoding))
    labels = pixels(found['/semantics/labels'])
    np.testing.assert_array_equal(labels[12::24, 64], [3, 2, 1, 0])


def test_resolution_may_change_between_frames(listening):
    small = image_message(np.ascontiguousarray(bands()[::2, ::2]), 0)
    topics = ['/depth/image_rect', '/depth/camera_info', '/points']
    found = listening.answer(topics, image=small, info=info_message(64, 48, FOCAL / 2))
    assert {(m.width, m.height) for m in found.values()} == {(64, 48)}
    np.testing.assert_allclose(pixels(found['/depth/image_rect'])[12:], row_depth()[12:])
    found = listening.answer(topics)
    assert {(m.width, m.height) for m in found.values()} == {(WIDTH, HEIGHT)}


def test_lifecycle_goes_round_and_network_size_outputs(listening):
    peer, node = listening.peer, 'perception_node'
    for size in ('network', 'input'):
        assert peer.change(node, 'deactivate') and peer.state(node) == 'inactive'
        assert not peer.change(node, 'configure')  # not from here
        assert peer.change(node, 'cleanup') and peer.state(node) == 'unconfigured'
        assert peer.set_parameters(node, output_size=size).successful
        assert peer.change(node, 'configure') and peer.change(node, 'activate')
        listening.camera.wait_matched()
        peer.spin_for(0.5)  # our subscriptions find the new publishers
        found = listening.answer([*IMAGE_TOPICS, '/depth/camera_info', '/points'])
        expected = (64, 48) if size == 'network' else (WIDTH, HEIGHT)
        assert {(m.width, m.height) for m in found.values()} == {expected}
        calibration = found['/depth/camera_info']
        assert calibration.k[0] == calibration.p[0] == FOCAL * expected[0] / WIDTH
        assert calibration.header == found['/depth/image_rect'].header
        if size == 'network':
            valid = pixels(found['/depth/image_rect'])[12:]
            np.testing.assert_array_equal(valid, row_depth()[12:])


def test_only_what_is_listened_to_is_published(perception):
    peer = perception.peer
    for topic in peer.messages:
        peer.messages[topic].clear()
    labels = peer.listen(Image, '/semantics/labels')
    peer.spin_until(labels.get_publisher_count, what='publisher')
    perception.camera.wait_matched()
    perception.answer(['/semantics/labels'])
    late = peer.listen(Image, '/depth/image_rect')
    peer.spin_for(0.5)
    assert not peer.messages['/depth/image_rect']
    peer.node.destroy_subscription(late)
    peer.node.destroy_subscription(labels)


def test_diagnostics_tell_how_the_node_fares(listening):
    listening.answer(['/depth/image_rect'])
    found = listening.peer.diagnostics_after('perception_node', lambda d: 'time_overhead_ms' in d)
    assert found['image_topic'] == '/image' and found['reliability'] == 'reliable'
    assert found['backend'] in ('onnxruntime', 'openvino') and len(found['model_sha256']) == 12
    parts = ('decode', 'preprocess', 'inference', 'postprocess', 'publish', 'overhead', 'latency')
    assert all(float(found[f'time_{part}_ms']) > 0 for part in parts)
    assert int(found['processed']) <= int(found['received'])


def test_node_ends_cleanly_on_sigint(perception):
    # The last test that uses the module's node.
    assert perception.process.stop(signal.SIGINT) == 0
    assert 'Traceback' not in perception.process.output
