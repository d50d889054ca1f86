"""What a node publishes besides, and in other forms: class names, millimetres, raw images."""

import json

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from support.onnx_models import CLASSES, save_perception
from support.ros_process import NodeProcess, Peer, info_message
from support.scene import FOCAL, HEIGHT, WIDTH, Scene, expected_depth

from depth_ros.core.images import decode_depth
from depth_ros.nodes.class_names import label_info
from depth_ros.ros.transport import EVENT_QOS

DEPTH = '/depth/image_rect'
COMPRESSED = f'{DEPTH}/compressedDepth'


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    model = save_perception(tmp_path_factory.mktemp('models') / 'perception.onnx')
    parameters = {
        'model': model,
        'depth_encoding': '16UC1',
        'rectify': True,
        f'qos_overrides.{DEPTH}.publisher.reliability': 'best_effort',
    }
    with NodeProcess('perception_node', parameters) as process, Peer() as peer:
        peer.listen(Image, DEPTH, reliable=False)
        peer.listen(CompressedImage, COMPRESSED)
        peer.listen(CameraInfo, '/depth/camera_info')
        peer.wait_state('perception_node', 'active')
        scene = Scene(peer, process)
        scene.camera.wait_matched()
        yield scene
        assert process.stop() == 0
        assert 'Traceback' not in process.output and 'unknown parameters' not in process.output


def test_depth_in_millimetres_raw_and_compressed(running):
    found = running.answer([DEPTH, COMPRESSED])
    expected = expected_depth()
    for topic in (DEPTH, COMPRESSED):
        depth = decode_depth(found[topic])
        np.testing.assert_array_equal(np.isnan(depth), np.isnan(expected))
        np.testing.assert_allclose(depth, expected, atol=6e-4)
    assert found[DEPTH].encoding == '16UC1'
    assert found[COMPRESSED].format == '16UC1; compressedDepth png'


def test_reliability_of_an_output_is_a_parameter(running):
    peer = running.peer
    for topic, expected in ((DEPTH, 'BEST_EFFORT'), (COMPRESSED, 'RELIABLE')):
        (info,) = peer.node.get_publishers_info_by_topic(topic)
        assert info.qos_profile.reliability == ReliabilityPolicy[expected]
    # The parameter outlives a round of the life cycle.
    for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
        assert peer.change('perception_node', transition)
    peer.spin_until(lambda: peer.node.get_publishers_info_by_topic(DEPTH), what='publisher')
    (info,) = peer.node.get_publishers_info_by_topic(DEPTH)
    assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    running.camera.wait_matched()
    running.answer([DEPTH])


def test_raw_images_are_rectified(running):
    info = info_message(WIDTH, HEIGHT, FOCAL, distortion=-0.2)
    found = running.answer([DEPTH, '/depth/camera_info'], info=info)
    calibration = found['/depth/camera_info']
    assert not any(calibration.d) and calibration.p.tolist() == info.p.tolist()
    # Bands that are straight in the raw image are bent now, so the sky's lower edge is.
    labels = np.isnan(decode_depth(found[DEPTH]))
    edge = labels.sum(0)
    assert edge[WIDTH // 2] < edge[0] or edge[WIDTH // 2] > edge[0]
    assert 'lens distortion' not in running.process.output
    info.distortion_model = 'magic'
    running.send(info=info)
    assert "distortion model 'magic'" in running.process.wait_for('frame dropped')


def test_who_comes_late_gets_the_class_names(running):
    peer = running.peer
    peer.node.create_subscription(
        String, '/semantics/classes', peer.messages['classes'].append, EVENT_QOS
    )
    peer.spin_until(lambda: peer.messages['classes'], what='class names')
    table = json.loads(peer.messages['classes'][0].data)
    assert table['model'] == 'tiny_perception' and table['unlabeled'] == 255
    assert table['classes'][3] == {'id': 3, 'name': 'sky', 'color': [70, 130, 180]}
    info = label_info(CLASSES)
    if info is None:
        pytest.skip('vision_msgs, which has LabelInfo, is not installed here')
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.node.create_subscription(
        type(info), '/semantics/label_info', peer.messages['info'].append, qos
    )
    peer.spin_until(lambda: peer.messages['info'], what='label info')
    assert [c.class_name for c in peer.messages['info'][0].class_map][3] == 'sky'


def test_label_info_has_ids_and_names(monkeypatch):
    """With stand-ins for the two messages, as vision_msgs is not among the wheels."""
    import sys
    import types

    message = types.SimpleNamespace(
        LabelInfo=lambda **f: types.SimpleNamespace(**f),
        VisionClass=lambda **f: types.SimpleNamespace(**f),
    )
    monkeypatch.setitem(sys.modules, 'vision_msgs', types.ModuleType('vision_msgs'))
    monkeypatch.setitem(sys.modules, 'vision_msgs.msg', message)
    found = label_info(CLASSES)
    assert [(c.class_id, c.class_name) for c in found.class_map][1] == (1, 'car')
