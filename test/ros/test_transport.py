import os
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import rclpy
from rclpy.exceptions import NotInitializedException
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from support.onnx_models import save_perception
from support.ros_process import Camera, NodeProcess, Peer, image_message, info_message, set_stamp

from depth_ros.ros import transport
from depth_ros.share import share_path

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


@pytest.mark.parametrize(
    'publishers, setting, reliable',
    [
        ([], 'auto', False),
        ([RELIABLE], 'auto', True),
        ([BEST_EFFORT], 'auto', False),
        ([RELIABLE, BEST_EFFORT], 'auto', False),
        ([RELIABLE, RELIABLE], 'auto', True),
        ([RELIABLE], 'best_effort', False),
        ([BEST_EFFORT], 'reliable', True),
    ],
)
def test_reliability_follows_the_publishers(publishers, setting, reliable):
    qos = transport.input_qos(publishers, setting)
    assert (qos.reliability == ReliabilityPolicy.RELIABLE) is reliable
    assert qos.depth == 1 and qos.durability == DurabilityPolicy.VOLATILE


def test_latched_messages_are_asked_for_when_all_publishers_latch():
    assert transport.input_qos([LATCHED]).durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert transport.input_qos([LATCHED, RELIABLE]).durability == DurabilityPolicy.VOLATILE


@pytest.fixture
def context():
    transport.prepare_process()  # what the first in a process has counts for those after it
    rclpy.init()
    yield rclpy.get_default_context()
    rclpy.try_shutdown()


@pytest.mark.parametrize(
    'step',
    [
        lambda node, executor: executor.spin_once(timeout_sec=0.1),  # RCLError
        lambda node, executor: rclpy.spin_once(node, executor=executor),
        lambda node, executor: rclpy.create_node('late'),  # NotInitializedException
        lambda node, executor: rclpy.spin(node, executor),
    ],
)
def test_a_shutdown_at_any_step_is_the_end_without_an_error(context, step):
    node, executor = rclpy.create_node('node'), SingleThreadedExecutor()
    executor.add_node(node)
    rclpy.shutdown()
    with transport.until_shutdown():
        step(node, executor)


def test_errors_before_the_shutdown_are_raised(context):
    with pytest.raises(NotInitializedException), transport.until_shutdown():
        rclpy.create_node('node', context=rclpy.Context())
    executor = SingleThreadedExecutor()
    executor.add_node(rclpy.create_node('node'))
    with pytest.raises(RuntimeError), transport.until_shutdown():
        rclpy.shutdown()
        rclpy.init()  # a new one, which is up, while the executor's is down
        executor.spin_once(timeout_sec=0.1)
    with pytest.raises(ValueError), transport.until_shutdown():
        rclpy.shutdown()
        raise ValueError('not of ROS')


def test_profile_has_a_large_segment_and_udp():
    path = Path(transport.profile_environment({})[transport.PROFILE_VARIABLE])
    name = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    root = ElementTree.parse(path).getroot()
    kinds = {
        d.findtext(f'{name}type'): d.findtext(f'{name}segment_size')
        for d in root.iter(f'{name}transport_descriptor')
    }
    assert kinds.keys() == {'SHM', 'UDPv4'} and int(kinds['SHM']) == transport.SEGMENT_SIZE
    used = {e.text for e in root.find(f'.//{name}userTransports')}
    defined = {e.text for e in root.iter(f'{name}transport_id')}
    assert used == defined
    assert root.findtext(f'.//{name}useBuiltinTransports') == 'false'
    assert root.find(f'{name}participant').get('is_default_profile') == 'true'


def test_a_users_own_settings_are_kept():
    given = {transport.PROFILE_VARIABLE: '/my.xml', 'MALLOC_TOP_PAD_': '1', 'HOME': '/root'}
    found = transport.env(given)
    assert found | given == found
    assert found['MALLOC_MMAP_THRESHOLD_'] == '33554432'
    assert found['RMW_FASTRTPS_PUBLICATION_MODE'] == 'ASYNCHRONOUS'
    assert transport.env({})[transport.PROFILE_VARIABLE].endswith('config/fastdds.xml')
    assert 'FASTRTPS_DEFAULT_PROFILES_FILE' in transport.env({'ROS_DISTRO': 'humble'})


def test_preparing_the_process_sets_the_profile(monkeypatch):
    monkeypatch.delenv(transport.PROFILE_VARIABLE, raising=False)
    transport.prepare_process()
    assert os.environ[transport.PROFILE_VARIABLE].endswith('config/fastdds.xml')
    monkeypatch.setenv(transport.PROFILE_VARIABLE, '/my.xml')
    transport.prepare_process()
    assert os.environ[transport.PROFILE_VARIABLE] == '/my.xml'


def test_scarce_shared_memory_is_pointed_out(monkeypatch, tmp_path):
    monkeypatch.setattr(transport, 'SHARED_MEMORY', tmp_path)
    monkeypatch.setattr(transport.shutil, 'disk_usage', lambda path: SimpleNamespace(free=9 << 20))
    assert '9 MiB left' in transport.shared_memory_problem()
    assert '--shm-size' in transport.shared_memory_problem()
    monkeypatch.setattr(transport.shutil, 'disk_usage', lambda path: SimpleNamespace(free=9 << 30))
    assert transport.shared_memory_problem() == ''
    monkeypatch.setattr(transport, 'SHARED_MEMORY', tmp_path / 'absent')
    assert transport.shared_memory_problem() == ''


def test_missing_shared_files_are_named():
    assert share_path('config/fastdds.xml').is_file()
    with pytest.raises(FileNotFoundError, match="'config/nothing.xml'.*install"):
        share_path('config/nothing.xml')


def test_large_best_effort_images_arrive(tmp_path):
    """1280x720 images, best effort: nearly all of them get lost with Fast DDS's defaults."""
    model = save_perception(tmp_path / 'model.onnx')
    image = image_message(np.zeros((720, 1280, 3), np.uint8), 0.0)
    info = info_message(1280, 720, 640.0)
    count = 40
    with NodeProcess('perception_node', {'model': model}) as process, Peer() as peer:
        peer.listen_diagnostics()
        peer.listen(Image, '/depth/image_rect', reliable=False)
        camera = Camera(peer, reliable=False)
        peer.wait_state('perception_node', 'active')
        camera.wait_matched()
        for i in range(count):
            set_stamp(image, 10.0 + i)
            camera.publish(image, info)
            peer.spin_for(0.1)

        def settled():
            return peer.diagnostics('perception_node').get('input_silence_s', '0') > '1'

        peer.spin_until(settled, what='quiet diagnostics')
        found = peer.diagnostics('perception_node')
        received, processed = int(found['received']), int(found['processed'])
        assert found['reliability'] == 'best_effort'
        assert received >= 0.9 * count, process.output
        # The way out has no losses worth mentioning either, at 3.7 MB a message.
        assert len(peer.messages['/depth/image_rect']) >= 0.9 * processed
        assert processed >= 0.9 * received
