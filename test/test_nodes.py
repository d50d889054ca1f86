"""The real nodes, each in its own process, over real DDS."""

import signal

import cv2
import numpy as np
import pytest
from lifecycle_msgs.msg import State
from nav_msgs.msg import Odometry, Path
from onnx_models import CLASSES, INTRINSICS, row_depth, save_perception, save_pose
from ros_process import (
    FRAME,
    ROOT,
    Camera,
    NodeProcess,
    Peer,
    image_message,
    info_message,
    set_stamp,
    stamp,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_srvs.srv import Trigger

from depth_ros.camera import intrinsics_from_info, unproject
from depth_ros.conversions import CLOUD_TYPE

WIDTH, HEIGHT, FOCAL = 128, 96, 64.0  # twice the network's size and focal length
IMAGE_TOPICS = ('/depth/image_rect', '/depth/color', '/semantics/labels', '/semantics/color')


def bands():
    """An image whose quarters, from top to bottom, are the network's classes 3 (sky) to 0."""
    rows = np.repeat(np.array([250, 170, 100, 20], np.uint8), HEIGHT // 4)
    return np.repeat(np.repeat(rows[:, None, None], WIDTH, 1), 3, 2)


def expected_depth():
    """What perception gives for :func:`bands`: the rows' depth, invalid in the sky."""
    depth = row_depth()
    depth[:12] = np.nan
    return cv2.resize(depth, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def pixels(message):
    dtype, channels = {'32FC1': (np.float32, 1), 'mono8': (np.uint8, 1),
                       'rgb8': (np.uint8, 3)}[message.encoding]
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(message.data, dtype).reshape(shape)


class Perception:
    """A running perception node with a camera; each test sends frames of its own time."""

    def __init__(self, peer, process):
        self.peer, self.process = peer, process
        self.camera = Camera(peer)
        self.time = 100.0

    def send(self, image=None, info=None):
        """Publish a frame; returns its stamp."""
        self.time += 1.0
        image = image_message(bands(), 0) if image is None else image
        set_stamp(image, self.time)
        self.camera.publish(image, info or info_message(WIDTH, HEIGHT, FOCAL))
        return self.time

    def answer(self, topics, **frame):
        """Publish a frame and return its outputs on ``topics``, {topic: message}."""
        sent = self.send(**frame)

        def of_frame(topic):
            return [m for m in self.peer.messages[topic] if stamp(m) == pytest.approx(sent)]
        try:
            self.peer.spin_until(lambda: all(of_frame(t) for t in topics), what=f'frame {sent}')
        except AssertionError as error:
            raise AssertionError(f'{error}\n{self.process.output}') from error
        return {t: of_frame(t)[0] for t in topics}


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return {'perception': save_perception(folder / 'perception.onnx'),
            'pose': save_pose(folder / 'pose.onnx'),
            'turning': save_pose(folder / 'turning.onnx', motion=(0, -0.1, 0, 0, 0, 0.5))}


@pytest.fixture(scope='module')
def perception(models):
    with (NodeProcess('perception_node', {'model': models['perception'], 'points_stride': 1})
          as process, Peer() as peer):
        peer.listen_diagnostics()
        running = Perception(peer, process)
        peer.wait_state('perception_node', 'active')
        running.camera.wait_matched()
        yield running


@pytest.fixture
def listening(perception):
    """Listen to every output for one test."""
    kinds = {**dict.fromkeys(IMAGE_TOPICS, Image), '/depth/camera_info': CameraInfo,
             '/points': PointCloud2}
    listeners = [perception.peer.listen(kind, topic) for topic, kind in kinds.items()]
    perception.peer.spin_until(
        lambda: all(s.get_publisher_count() for s in listeners), what='publishers')
    perception.peer.spin_for(0.3)
    yield perception
    for listener in listeners:
        perception.peer.node.destroy_subscription(listener)


def diagnostics_after(peer, condition, node='perception_node'):
    """The first diagnostics that satisfy ``condition``."""
    peer.messages['/diagnostics'].clear()
    peer.spin_until(lambda: peer.diagnostics(node) and condition(peer.diagnostics(node)),
                    what='diagnostics')
    return peer.diagnostics(node)


def test_nothing_is_computed_while_nobody_listens(perception):
    before = diagnostics_after(perception.peer, lambda d: True)
    perception.send()
    found = diagnostics_after(
        perception.peer, lambda d: int(d['not_wanted']) > int(before['not_wanted']))
    assert found['processed'] == before['processed'] == '0'
    assert found['state'] == 'active' and found['model'] == 'tiny_perception'


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
    points = np.frombuffer(found['/points'].data, CLOUD_TYPE).reshape(HEIGHT, WIDTH)
    expected = unproject(pixels(found['/depth/image_rect']),
                         intrinsics_from_info(info, WIDTH, HEIGHT))
    for i, axis in enumerate('xyz'):
        np.testing.assert_allclose(points[axis], expected[..., i], rtol=1e-5)
    np.testing.assert_array_equal(points['label'], pixels(found['/semantics/labels']))
    grey = bands()[..., 0].astype(np.uint32)
    np.testing.assert_array_equal(points['rgb'].copy().view(np.uint32), grey * 0x010101)


def test_depth_is_corrected_by_the_focal_length(listening):
    twice = listening.answer(['/depth/image_rect'],
                             info=info_message(WIDTH, HEIGHT, 2 * FOCAL))
    np.testing.assert_allclose(pixels(twice['/depth/image_rect']), 2 * expected_depth(), rtol=1e-6)


def test_parameters_change_from_the_next_frame_on(listening):
    assert listening.peer.set_parameters(
        'perception_node', points_stride=4, max_depth=8.0).successful
    found = listening.answer(['/depth/image_rect', '/points'])
    assert (found['/points'].width, found['/points'].height) == (WIDTH // 4, HEIGHT // 4)
    depth = pixels(found['/depth/image_rect'])
    assert 5 < np.nanmax(depth) <= 8 and np.isnan(depth[-1]).all()
    assert listening.peer.set_parameters(
        'perception_node', points_stride=1, max_depth=0.0).successful


@pytest.mark.parametrize('values, reason', [
    ({'points_stride': 3, 'max_depth': -1.0}, 'max_depth'),
    ({'points_stride': 3, 'max_depth': float('nan')}, 'max_depth'),
    ({'points_stride': 3, 'output_size': 'network'}, 'output_size is fixed'),
    ({'points_stride': 3, 'autostart': False}, 'autostart'),
    ({'points_stride': 3, 'depth_scale': 'big'}, 'type'),
    ({'points_stride': 3, 'colour': 1}, 'undeclared'),
])
def test_wrong_parameters_are_rejected_as_a_whole(listening, values, reason):
    result = listening.peer.set_parameters('perception_node', **values)
    assert not result.successful and reason in result.reason
    assert listening.answer(['/points'])['/points'].width == WIDTH


@pytest.mark.parametrize('encoding', ['bgr8', 'mono8', 'rgba8', 'bayer_rggb8'])
def test_other_encodings(listening, encoding):
    grey = bands()
    image = {'bgr8': grey, 'mono8': grey[..., 0], 'bayer_rggb8': grey[..., 0],
             'rgba8': np.concatenate((grey, grey[..., :1]), -1)}[encoding]
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
    peer.spin_for(0.3)
    perception.answer(['/semantics/labels'])
    late = peer.listen(Image, '/depth/image_rect')
    peer.spin_for(0.5)
    assert not peer.messages['/depth/image_rect']
    peer.node.destroy_subscription(late)
    peer.node.destroy_subscription(labels)


def test_diagnostics_tell_how_the_node_fares(listening):
    listening.answer(['/depth/image_rect'])
    found = diagnostics_after(listening.peer, lambda d: 'time_overhead_ms' in d)
    assert found['image_topic'] == '/image' and found['reliability'] == 'reliable'
    assert found['backend'] in ('onnxruntime', 'openvino') and len(found['model_sha256']) == 12
    parts = ('decode', 'preprocess', 'inference', 'postprocess', 'publish', 'overhead', 'latency')
    assert all(float(found[f'time_{part}_ms']) > 0 for part in parts)
    assert int(found['processed']) <= int(found['received'])


def test_node_ends_cleanly_on_sigint(perception):
    # The last test that uses the module's node.
    assert perception.process.stop(signal.SIGINT) == 0
    assert 'Traceback' not in perception.process.output


@pytest.fixture
def odometry(models):
    """Start an odometry node; returns a function that sends a frame."""
    processes = []

    def start(model='pose', **parameters):
        process = NodeProcess('odometry_node', {'model': models[model], **parameters})
        processes.append(process)
        peer.wait_state('odometry_node', 'active')
        camera.wait_matched()

        def send(seconds, brightness=100):
            image = np.full((HEIGHT, WIDTH, 3), brightness, np.uint8)
            camera.publish(image_message(image, seconds), info_message(WIDTH, HEIGHT, FOCAL))
        return process, send

    with Peer() as peer:
        peer.listen(Odometry, '/odom')
        peer.listen(Path, '/path')
        camera = Camera(peer)
        start.peer = peer
        yield start
        for process in processes:
            assert process.stop(signal.SIGTERM) == 0
            assert 'Traceback' not in process.output


def test_odometry_chains_the_motions(odometry):
    process, send = odometry('turning', path_step=0.0)
    peer, odom = odometry.peer, odometry.peer.messages['/odom']
    for i in range(6):
        send(50 + 0.1 * i)
        peer.spin_until(lambda expected=i: len(odom) == expected, what=f'odom {i}')
    assert [stamp(m) for m in odom] == pytest.approx([50.1, 50.2, 50.3, 50.4, 50.5])
    assert {(m.header.frame_id, m.child_frame_id) for m in odom} == {('odom', 'base_link')}
    # 0.5 m ahead and 0.1 rad to the left each step; forward is x, left is y, up is z.
    yaw, x, y = 0.0, 0.0, 0.0
    for message in odom:
        x, y, yaw = x + 0.5 * np.cos(yaw), y + 0.5 * np.sin(yaw), yaw + 0.1
        place, turn = message.pose.pose.position, message.pose.pose.orientation
        np.testing.assert_allclose([place.x, place.y, place.z], [x, y, 0], atol=1e-6)
        np.testing.assert_allclose([turn.x, turn.y, turn.z, turn.w],
                                   [0, 0, np.sin(yaw / 2), np.cos(yaw / 2)], atol=1e-6)
        twist = message.twist.twist
        assert twist.linear.x == pytest.approx(5) and twist.angular.z == pytest.approx(1)
    variances = np.array([np.diag(m.pose.covariance.reshape(6, 6)) for m in odom])
    assert (variances > 0).all() and (np.diff(variances, axis=0) > 0).all()
    assert (np.diag(odom[0].twist.covariance.reshape(6, 6)) > 0).all()

    peer.spin_for(0.6)  # paths come twice a second at most
    send(50.6)
    peer.spin_until(lambda: peer.messages['/path'] and
                    stamp(peer.messages['/path'][-1]) > 50.55, what='path')
    path = peer.messages['/path'][-1]
    assert path.header.frame_id == 'odom' and len(path.poses) == 6
    assert path.poses[2].pose == odom[2].pose.pose


def test_odometry_knows_which_image_came_first(odometry):
    _, send = odometry()
    peer, odom = odometry.peer, odometry.peer.messages['/odom']
    for i, brightness in enumerate([100, 150, 50]):
        send(10 + i, brightness)
        peer.spin_until(lambda expected=i: len(odom) == expected, what=f'odom {i}')
    # The tiny network adds 0.01 m for each grey level that the current image is brighter.
    assert odom[0].twist.twist.linear.x == pytest.approx(0.5 + 0.5)
    assert odom[1].twist.twist.linear.x == pytest.approx(0.5 - 1.0)


def test_odometry_survives_time_and_size_jumps(odometry):
    process, send = odometry(max_gap=0.5)
    peer, odom = odometry.peer, odometry.peer.messages['/odom']
    for seconds in (20.0, 20.1):
        send(seconds)
    peer.spin_until(lambda: len(odom) == 1, what='odom')
    send(15.0)  # back in time
    process.wait_for('stamps went back by 5.100 s')
    send(15.1)
    peer.spin_until(lambda: len(odom) == 2, what='odom')
    assert odom[1].pose.pose.position.x == pytest.approx(1.0)  # the trajectory went on
    send(17.1)  # a gap
    assert 'max_gap' in process.wait_for('2.00 s between two images')
    send(17.2)
    peer.spin_until(lambda: len(odom) == 3, what='odom')
    assert odom[2].pose.pose.position.x == pytest.approx(1.5)
    assert odom[2].pose.covariance[0] > odom[1].pose.covariance[0] + 1
    send(17.2)  # the same image again
    peer.spin_for(0.5)
    assert len(odom) == 3


def test_odometry_starts_again_on_reset(odometry):
    _, send = odometry()
    peer, odom = odometry.peer, odometry.peer.messages['/odom']
    for seconds in (1.0, 1.1, 1.2):
        send(seconds)
        peer.spin_for(0.2)
    peer.spin_until(lambda: len(odom) == 2, what='odom')
    assert peer.call(Trigger, '/reset', Trigger.Request()).success
    for seconds in (1.3, 1.4):
        send(seconds)
        peer.spin_for(0.2)
    peer.spin_until(lambda: len(odom) == 3, what='odom')
    assert odom[-1].pose.pose.position.x == pytest.approx(0.5)
    assert odom[-1].pose.covariance[0] < odom[1].pose.covariance[0]


def test_models_in_unknown_units(tmp_path):
    """Without metres the outputs stay in model units and the node says so; a scale fixes it."""
    depth = save_perception(tmp_path / 'depth.onnx', metric=False, outputs=('depth',))
    motion = save_pose(tmp_path / 'motion.onnx', metric=False)
    with NodeProcess('perception_node', {'model': depth}) as first, \
            NodeProcess('odometry_node', {'model': motion, 'translation_scale': 4.0}) as second, \
            Peer() as peer:
        assert 'depth_scale' in first.wait_for('not metric')
        peer.wait_state('odometry_node', 'active')
        assert 'not metric' not in second.output
        peer.listen(Image, '/depth/image_rect')
        peer.listen(Odometry, '/odom')
        running = Perception(peer, first)
        running.camera.wait_matched()
        found = running.answer(['/depth/image_rect'])
        # Without labels there is no sky.
        plain = cv2.resize(row_depth(), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(pixels(found['/depth/image_rect']), plain, rtol=1e-6)
        assert peer.set_parameters('perception_node', depth_scale=3.0).successful
        found = running.answer(['/depth/image_rect'])
        np.testing.assert_allclose(pixels(found['/depth/image_rect']), 3 * plain, rtol=1e-6)
        peer.spin_until(lambda: peer.messages['/odom'], what='odom')
        assert peer.messages['/odom'][0].pose.pose.position.x == pytest.approx(2.0)


def test_namespace_remapping_parameter_file_and_compressed_images(models):
    """As the launch file starts it: a robot's namespace, a JPEG camera, our parameter file."""
    parameters = {'model': models['perception'], 'image_transport': 'compressed',
                  'use_sim_time': True, 'fit': 'crop', 'odom_frame': 'unknown_here'}
    extra = ('-r', '__ns:=/robot', '--params-file', str(ROOT / 'config' / 'depth_ros.yaml'))
    remap = {'image': '/front/image_rect', 'camera_info': '/front/camera_info'}
    with NodeProcess('perception_node', parameters, remap, extra) as process, Peer() as peer:
        camera = Camera(peer, '/front/image_rect', '/front/camera_info', compressed=True)
        peer.listen(Image, '/robot/semantics/labels')
        peer.listen(Image, '/robot/depth/image_rect')
        peer.wait_state('robot/perception_node', 'active')
        assert 'model' in process.wait_for('unknown parameters are ignored: odom_frame')
        camera.wait_matched()
        tall = np.repeat(bands(), 2, axis=0)  # the network's aspect ratio is half of it
        image = CompressedImage(format='jpeg')
        image.data.frombytes(cv2.imencode('.jpg', tall)[1].tobytes())
        set_stamp(image, 7.0)
        camera.publish(image, info_message(WIDTH, 2 * HEIGHT, FOCAL))
        topics = ('/robot/semantics/labels', '/robot/depth/image_rect')
        peer.spin_until(lambda: all(peer.messages[t] for t in topics), what='outputs')
        labels, depth = (pixels(peer.messages[t][0]) for t in topics)
        # Above and below the crop nothing is known.
        border = HEIGHT // 2
        assert (labels[:border] == 255).all() and (labels[-border:] == 255).all()
        assert np.isnan(depth[:border]).all() and np.isnan(depth[-border:]).all()
        assert set(np.unique(labels[border:-border])) == {1, 2}
        np.testing.assert_allclose(
            depth[border:-border],
            cv2.resize(row_depth(), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), rtol=1e-6)


def test_reliability_follows_the_publishers_while_running(models):
    with NodeProcess('perception_node', {'model': models['perception']}) as process, \
            Peer() as peer:
        peer.listen_diagnostics()
        peer.listen(Image, '/semantics/labels')
        peer.wait_state('perception_node', 'active')
        running = Perception(peer, process)
        running.camera.wait_matched()
        running.answer(['/semantics/labels'])
        diagnostics_after(peer, lambda d: d['reliability'] == 'reliable')
        # A best-effort camera joins: a reliable subscription would not hear it.
        reliable, running.camera = running.camera, Camera(peer, reliable=False)
        diagnostics_after(peer, lambda d: d['reliability'] == 'best_effort')
        running.camera.wait_matched()
        running.answer(['/semantics/labels'])
        running.camera = reliable
        running.answer(['/semantics/labels'])


def test_without_autostart_the_node_waits(models):
    with NodeProcess('odometry_node', {'model': models['pose'], 'autostart': False}) as process, \
            Peer() as peer:
        assert peer.state('odometry_node') == 'unconfigured'
        assert peer.change('odometry_node', 'configure')
        assert peer.state('odometry_node') == 'inactive'
        assert peer.change('odometry_node', 'activate')
        assert peer.change('odometry_node', 'active_shutdown')
        assert peer.state('odometry_node') == 'finalized'
        assert State.PRIMARY_STATE_FINALIZED == 4
        assert process.stop() == 0 and 'Traceback' not in process.output


def test_tf_is_asked_for_where_it_is_not_installed(models):
    try:
        import tf2_msgs.msg  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip('tf2_msgs is installed here')
    with NodeProcess('odometry_node', {'model': models['pose'], 'publish_tf': True}) as process, \
            Peer() as peer:
        assert 'publish_tf to false' in process.wait_for('tf2_msgs')
        assert peer.state('odometry_node') == 'unconfigured'
        assert peer.set_parameters('odometry_node', publish_tf=False).successful
        assert peer.change('odometry_node', 'configure')
        assert process.stop() == 0 and 'Traceback' not in process.output


def test_tiny_models_fit_the_test_camera():
    assert INTRINSICS[0] == FOCAL / 2
