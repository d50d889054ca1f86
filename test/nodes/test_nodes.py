"""The real odometry node, and what both nodes share, in their own processes over real DDS."""

import json
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from nav_msgs.msg import Odometry, Path
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.onnx_models import row_depth, save_perception, save_pose
from support.ros_process import (
    ROOT,
    Camera,
    NodeProcess,
    Peer,
    image_message,
    info_message,
    ros_environment,
    set_stamp,
    stamp,
)
from support.scene import FOCAL, HEIGHT, WIDTH, Scene, bands, pixels

from depth_ros.ros.transport import EVENT_QOS


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return {
        'perception': save_perception(folder / 'perception.onnx'),
        'pose': save_pose(folder / 'pose.onnx'),
        'turning': save_pose(folder / 'turning.onnx', motion=(0, -0.1, 0, 0, 0, 0.5)),
    }


@pytest.mark.parametrize('node', ['perception_node', 'odometry_node'])
@pytest.mark.parametrize('option', ['-h', '--help'])
def test_help_starts_no_node(node, option):
    done = subprocess.run(
        [sys.executable, '-m', f'depth_ros.nodes.{node}', option],
        cwd=ROOT,
        text=True,
        env=ros_environment(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == ''
    for text in ('camera_info', '-p NAME:=VALUE', 'depth_ros.launch.py', 'docs/parameters.md'):
        assert text in done.stdout


@pytest.fixture
def odometry(models):
    """Start an odometry node; returns a function that sends a frame."""
    processes = []

    def start(model='pose', **parameters):
        parameters = {'refinement': 'none', **parameters}  # frames are of one brightness
        process = NodeProcess('odometry_node', {'model': models[model], **parameters})
        processes.append(process)
        peer.wait_state('odometry_node', 'active')
        camera.wait_matched()

        def publish(seconds, brightness=100):
            image = np.full((HEIGHT, WIDTH, 3), brightness, np.uint8)
            camera.publish(image_message(image, seconds), info_message(WIDTH, HEIGHT, FOCAL))

        start.publish = publish

        def send(seconds, brightness=100):
            publish(seconds, brightness)
            # The node drops a frame that a newer one overtakes, so one after the other.
            sent.append(seconds)
            odom = peer.messages['/odom']
            peer.spin_until(
                lambda: (
                    (odom and stamp(odom[-1]) == pytest.approx(seconds))
                    or int(peer.diagnostics('odometry_node').get('processed', 0)) >= len(sent)
                ),
                what='processed frame',
            )

        sent = []
        return process, send

    with Peer() as peer:
        peer.listen(Odometry, '/odom')
        peer.listen(Path, '/path')
        peer.listen_diagnostics()
        camera = Camera(peer)
        start.peer, start.camera = peer, camera
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
        np.testing.assert_allclose(
            [turn.x, turn.y, turn.z, turn.w], [0, 0, np.sin(yaw / 2), np.cos(yaw / 2)], atol=1e-6
        )
        twist = message.twist.twist
        assert twist.linear.x == pytest.approx(5) and twist.angular.z == pytest.approx(1)
    variances = np.array([np.diag(m.pose.covariance.reshape(6, 6)) for m in odom])
    assert (variances > 0).all() and (np.diff(variances, axis=0) > 0).all()
    assert (np.diag(odom[0].twist.covariance.reshape(6, 6)) > 0).all()

    peer.spin_for(0.6)  # paths come twice a second at most
    send(50.6)
    peer.spin_until(
        lambda: peer.messages['/path'] and stamp(peer.messages['/path'][-1]) > 50.55, what='path'
    )
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


def events(peer):
    return [json.loads(m.data) for m in peer.messages['/events']]


def test_a_deactivated_odometry_goes_on_where_it_was(odometry):
    _, send = odometry()
    peer, odom = odometry.peer, odometry.peer.messages['/odom']
    peer.node.create_subscription(String, '/events', peer.messages['/events'].append, EVENT_QOS)
    for i in range(3):
        send(1 + 0.1 * i)
        peer.spin_until(lambda expected=i: len(odom) == expected, what=f'odom {i}')
    assert peer.change('odometry_node', 'deactivate')
    peer.spin_for(0.5)
    assert peer.change('odometry_node', 'activate')
    odometry.camera.wait_matched()
    peer.spin_until(lambda: events(peer), what='event')
    found = events(peer)[-1]
    assert found['event'] == 'trajectory goes on' and found['node'] == '/odometry_node'
    for seconds in (2.0, 2.1):
        odometry.publish(seconds)
        peer.spin_for(0.3)
    peer.spin_until(lambda: len(odom) == 3, what='odom after the pause')
    assert odom[2].pose.pose.position.x == pytest.approx(1.5)
    assert odom[2].pose.covariance[0] > 2 * odom[1].pose.covariance[0]


def test_simulated_time_that_goes_back_starts_the_trajectory_again(odometry):
    """A recording is played in a loop, with /clock."""
    _, send = odometry(use_sim_time=True)
    peer, odom = odometry.peer, odometry.peer.messages['/odom']
    peer.node.create_subscription(String, '/events', peer.messages['/events'].append, EVENT_QOS)
    clock = peer.publisher(Clock, '/clock')
    peer.spin_until(clock.get_subscription_count, what='subscription of /clock')
    for loop in range(2):
        for i in range(3):
            message = Clock()
            message.clock.sec, message.clock.nanosec = 10, i * 10**8
            clock.publish(message)
            if loop and not i:
                peer.spin_until(lambda: events(peer), what='event')
            send(10 + 0.1 * i)
    peer.spin_until(lambda: len(odom) == 4, what='odom')
    assert [m.pose.pose.position.x for m in odom] == pytest.approx([0.5, 1.0, 0.5, 1.0])
    peer.spin_until(lambda: len(events(peer)) == 2, what='events')
    assert [e['event'] for e in events(peer)] == ['clock went back', 'trajectory restarted']
    assert '0.200 s' in events(peer)[0]['reason']


@pytest.mark.parametrize(
    ('parameters', 'cause'),
    [
        ({'odom_frame': "''"}, "odom_frame: '' is no name of a frame"),
        ({'base_frame': '/base'}, "base_frame: '/base' is no name of a frame"),
        ({'odom_frame': 'base_link'}, "odom_frame and base_frame are both 'base_link'"),
    ],
)
def test_frames_need_names_of_their_own(models, parameters, cause):
    with NodeProcess('odometry_node', {'model': models['pose'], **parameters}) as process:
        process.wait_for(cause)
        assert process.stop() in (0, 1) and 'Traceback' not in process.output


def test_models_in_unknown_units(tmp_path):
    """Without metres the outputs stay in model units and the node says so; a scale fixes it."""
    depth = save_perception(tmp_path / 'depth.onnx', metric=False, outputs=('depth',))
    motion = save_pose(tmp_path / 'motion.onnx', metric=False)
    with (
        NodeProcess('perception_node', {'model': depth}) as first,
        NodeProcess(
            'odometry_node', {'model': motion, 'translation_scale': 4.0, 'refinement': 'none'}
        ) as second,
        Peer() as peer,
    ):
        assert 'depth_scale' in first.wait_for('not metric')
        peer.wait_state('odometry_node', 'active')
        assert 'not metric' not in second.output
        peer.listen(Image, '/depth/image_rect')
        peer.listen(Odometry, '/odom')
        running = Scene(peer, first)
        running.camera.wait_matched(nodes=2)
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
    parameters = {
        'model': models['perception'],
        'image_transport': 'compressed',
        'use_sim_time': True,
        'fit': 'crop',
        'odom_frame': 'unknown_here',
    }
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
            cv2.resize(row_depth(), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR),
            rtol=1e-6,
        )


def test_reliability_follows_the_publishers_while_running(models):
    with NodeProcess('perception_node', {'model': models['perception']}) as process, Peer() as peer:
        peer.listen_diagnostics()
        peer.listen(Image, '/semantics/labels')
        peer.wait_state('perception_node', 'active')
        running = Scene(peer, process)
        running.camera.wait_matched()
        running.answer(['/semantics/labels'])
        peer.diagnostics_after('perception_node', lambda d: d['reliability'] == 'reliable')
        # A best-effort camera joins: a reliable subscription would not hear it.
        reliable, running.camera = running.camera, Camera(peer, reliable=False)
        peer.diagnostics_after('perception_node', lambda d: d['reliability'] == 'best_effort')
        running.camera.wait_matched()
        running.answer(['/semantics/labels'])
        running.camera = reliable
        running.answer(['/semantics/labels'])


def test_without_autostart_the_node_waits(models):
    with (
        NodeProcess('odometry_node', {'model': models['pose'], 'autostart': False}) as process,
        Peer() as peer,
    ):
        assert peer.state('odometry_node') == 'unconfigured'
        assert peer.change('odometry_node', 'configure')
        assert peer.state('odometry_node') == 'inactive'
        assert peer.change('odometry_node', 'activate')
        assert peer.change('odometry_node', 'active_shutdown')
        assert peer.state('odometry_node') == 'finalized'
        assert process.stop() == 0 and 'Traceback' not in process.output


def test_tf_is_asked_for_where_it_is_not_installed(models):
    try:
        import tf2_msgs.msg  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip('tf2_msgs is installed here')
    with (
        NodeProcess('odometry_node', {'model': models['pose'], 'publish_tf': True}) as process,
        Peer() as peer,
    ):
        assert 'publish_tf to false' in process.wait_for('tf2_msgs')
        assert peer.state('odometry_node') == 'unconfigured'
        assert peer.set_parameters('odometry_node', publish_tf=False).successful
        assert peer.change('odometry_node', 'configure')
        assert process.stop() == 0 and 'Traceback' not in process.output
