"""Each kind of bad input: one clear, throttled message with cause and remedy; the node goes on."""

import numpy as np
import onnx
import pytest
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from support.onnx_models import row_depth, save_perception, save_pose
from support.ros_process import Camera, NodeProcess, Peer, image_message, info_message
from support.scene import FOCAL, HEIGHT, WIDTH, Scene, bands, pixels


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return {
        'perception': save_perception(folder / 'perception.onnx'),
        'pose': save_pose(folder / 'pose.onnx'),
    }


def messages_about(process, *causes):
    """Lines of the node's output with every cause."""
    return [line for line in process.output.splitlines() if all(c in line for c in causes)]


def image_with(**changes):
    """A good image with some fields spoilt."""
    image = image_message(bands(), 0)
    for name, value in changes.items():
        setattr(image, name, value)
    return image


def moved_info(cx):
    """A camera_info whose principal point is in another column."""
    info = info_message(WIDTH, HEIGHT, FOCAL)
    info.k[2] = info.p[2] = float(cx)
    return info


class TestWhileRunning:
    """Bad frames between good ones."""

    @pytest.fixture(scope='class')
    def running(self, models):
        with (
            NodeProcess('perception_node', {'model': models['perception']}) as process,
            Peer() as peer,
        ):
            peer.listen_diagnostics()
            peer.listen(Image, '/semantics/labels')
            peer.wait_state('perception_node', 'active')
            scene = Scene(peer, process)
            scene.camera.wait_matched()
            scene.answer(['/semantics/labels'])
            yield scene
            assert process.stop() == 0
            assert 'Traceback' not in process.output

    @pytest.mark.parametrize(
        'image, causes',
        [
            (image_with(encoding='purple'), ("encoding 'purple'", 'let the camera driver')),
            (
                image_with(data=image_with().data[:1000]),
                ('truncated: 1000 bytes', 'connection'),
            ),
            (image_with(width=0), ('0x96 pixels', 'resolution')),
            (Image(), ("encoding '' is not supported", 'rgb8')),
        ],
        ids=[
            *('encoding', 'truncated', 'empty', 'blank'),
        ],
    )
    def test_bad_frame(self, running, image, causes):
        before = len(running.peer.messages['/semantics/labels'])
        failed = int(
            running.peer.diagnostics_after('perception_node', lambda d: True).get('failed')
        )
        running.send(image=image)
        running.peer.diagnostics_after('perception_node', lambda d: int(d['failed']) == failed + 1)
        # Nothing came of it, and the next good frame is as good as ever.
        assert len(running.peer.messages['/semantics/labels']) == before
        labels = pixels(running.answer(['/semantics/labels'])['/semantics/labels'])
        np.testing.assert_array_equal(labels[12::24, 5], [3, 2, 1, 0])
        line = running.process.wait_for(causes[0])
        assert all(c in line for c in causes)

    @pytest.mark.parametrize(
        'info',
        [
            info_message(WIDTH, HEIGHT, 0.0),
            info_message(WIDTH, WIDTH, FOCAL),
            CameraInfo(),
            moved_info(2 * WIDTH),
        ],
        ids=['zero-intrinsics', 'other-size', 'no-info', 'other-resolution'],
    )
    def test_a_camera_info_that_cannot_be_used_is_passed_over(self, running, info):
        """The latest that can be belongs to the image."""
        labels = pixels(running.answer(['/semantics/labels'], info=info)['/semantics/labels'])
        np.testing.assert_array_equal(labels[12::24, 5], [3, 2, 1, 0])

    def test_a_flood_of_bad_frames_gives_few_messages(self, running):
        before = len(messages_about(running.process, 'frame dropped'))
        levels = []
        for _ in range(40):
            running.send(image=image_with(encoding='sepia'))
            running.peer.spin_for(0.05)
            newest = running.peer.messages['/diagnostics'][-1:]
            levels += [(s.level, s.message) for m in newest for s in m.status]
        # A second without an output is an error, and is said with the reason.
        assert any(level == b'\2' and "'sepia'" in text for level, text in levels)
        found = running.peer.diagnostics_after(
            'perception_node', lambda d: float(d['input_silence_s']) > 1
        )
        assert int(found['failed']) >= 20
        # Two seconds, or more where the machine is busy, and one message in five.
        assert len(messages_about(running.process, 'frame dropped')) - before <= 4

    def test_odd_intrinsics_are_pointed_out_and_used(self, running):
        running.answer(['/semantics/labels'], info=moved_info(5))
        running.process.wait_for('principal point is far from the centre')

    def test_frames_of_different_cameras_are_pointed_out(self, running):
        running.time += 1
        running.camera.publish(
            image_message(bands(), running.time, frame='left'),
            info_message(WIDTH, HEIGHT, FOCAL),
            info_frame='right',
        )
        line = running.process.wait_for("image frame 'left'")
        assert "camera_info frame 'right'" in line and 'remapped' in line


def test_silent_inputs_are_explained(models):
    """No publisher, another type, no camera_info: each within seconds, with what there is."""
    model = {'model': models['perception']}
    with (
        NodeProcess('perception_node', model, {'__node': 'lonely', 'image': '/nowhere'}) as lonely,
        NodeProcess('perception_node', model, {'__node': 'wrong', 'image': '/jpeg'}) as wrong,
        NodeProcess(
            'odometry_node',
            {'model': models['pose']},
            {'__node': 'blind', 'image': '/front/image', 'camera_info': '/nothing'},
        ) as blind,
        Peer() as peer,
    ):
        front = Camera(peer, '/front/image', '/front/camera_info')
        peer.publisher(CompressedImage, '/jpeg')
        peer.wait_state('blind', 'active')
        front.wait_matched(with_info=False)
        front.publish(image_message(bands(), 1.0), info_message(WIDTH, HEIGHT, FOCAL))

        line = lonely.wait_for('no image for 5 s on /nowhere')
        assert 'nobody publishes it' in line and '-r image:=/front/image' in line
        line = wrong.wait_for('no image for 5 s on /jpeg (sensor_msgs/msg/Image)')
        assert 'published as sensor_msgs/msg/CompressedImage' in line
        assert 'image_transport to compressed' in line
        # Images still come here, only their calibration is missing.
        for i in range(100):
            front.publish(image_message(bands(), 2.0 + i), info_message(WIDTH, HEIGHT, FOCAL))
            peer.spin_for(0.1)
            if 'no camera_info' in blind.output:
                break
        line = blind.wait_for('no camera_info for 5 s on /nothing')
        assert '-r camera_info:=/front/camera_info' in line and 'images wait' in line
        for process in (lonely, wrong, blind):
            assert process.stop() == 0 and 'Traceback' not in process.output


def truncated(path, folder):
    target = folder / 'truncated.onnx'
    target.write_bytes(path.read_bytes()[:300])
    return target


def without_contract(path, folder):
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, folder / 'foreign.onnx')
    return folder / 'foreign.onnx'


def contradicting(path, folder):
    model = onnx.load(path)
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"input_width": 64', '"input_width": 32')
    onnx.save(model, folder / 'contradicting.onnx')
    return folder / 'contradicting.onnx'


@pytest.mark.parametrize(
    'make, causes',
    [
        (lambda path, folder: folder / 'missing.onnx', ('missing.onnx', 'does not exist')),
        (truncated, ('truncated.onnx', 'damaged')),
        (without_contract, ('foreign.onnx', "'depth_ros'", 'export')),
        (contradicting, ('contradicting.onnx', "'image'")),
        (
            lambda path, folder: save_pose(folder / 'pose.onnx'),
            ('pose.onnx', "'task'", 'perception'),
        ),
    ],
    ids=['missing', 'truncated', 'foreign', 'contradicting', 'other-task'],
)
def test_bad_model_files(make, causes, models, tmp_path):
    path = make(models['perception'], tmp_path)
    with NodeProcess('perception_node', {'model': path}) as process, Peer() as peer:
        line = process.wait_for('cannot configure')
        assert all(c in line for c in causes), line
        assert 'ros2 lifecycle set /perception_node configure' in line
        assert peer.state('perception_node') == 'unconfigured'
        assert len(messages_about(process, '[ERROR]')) == 1
        # The good model makes it whole.
        assert peer.set_parameters('perception_node', model=str(models['perception'])).successful
        assert peer.change('perception_node', 'configure')
        assert peer.change('perception_node', 'activate')
        assert process.stop() == 0 and 'Traceback' not in process.output


@pytest.mark.parametrize(
    'parameters, causes',
    [
        ({'threads': 0}, ("'threads'", '1 .. 256')),
        ({'threads': 'many'}, ("'threads'", 'int')),
        ({'backend': 'magic'}, ('backend', "'magic'", 'onnxruntime')),
    ],
)
def test_wrong_initial_parameters_end_with_a_message(parameters, causes):
    process = NodeProcess('perception_node', parameters)
    assert process.process.wait(60) == 1
    process.stop()
    assert all(c in process.output for c in causes)
    assert 'Traceback' not in process.output


def test_resolution_change_starts_a_new_pair(models):
    parameters = {'model': models['pose'], 'refinement': 'none'}
    with NodeProcess('odometry_node', parameters) as process, Peer() as peer:
        peer.listen(Odometry, '/odom')
        peer.listen_diagnostics()
        peer.wait_state('odometry_node', 'active')
        camera = Camera(peer)
        camera.wait_matched()
        small = np.ascontiguousarray(bands()[::2, ::2])
        frames = [(bands(), FOCAL), (small, FOCAL / 2), (small, FOCAL / 2)]
        for i, (image, focal) in enumerate(frames):
            camera.publish(
                image_message(image, 1 + 0.1 * i),
                info_message(image.shape[1], image.shape[0], focal),
            )
            peer.diagnostics_after(
                'odometry_node', lambda d, count=i: int(d['processed']) == count + 1
            )
        assert 'from 128x96 to 64x48' in process.wait_for('image size changed')
        peer.spin_until(lambda: peer.messages['/odom'], what='odom')
        assert len(peer.messages['/odom']) == 1
        assert peer.messages['/odom'][0].header.stamp.nanosec == 200_000_000


def test_no_output_is_silent_nonsense(tmp_path):
    """Depth outside of what the network can express is invalid, not a number."""
    model = save_perception(tmp_path / 'model.onnx', depth_range=(4.0, 10.0), outputs=('depth',))
    with NodeProcess('perception_node', {'model': model}) as process, Peer() as peer:
        peer.listen(Image, '/depth/image_rect')
        peer.wait_state('perception_node', 'active')
        scene = Scene(peer, process)
        scene.camera.wait_matched()
        depth = pixels(scene.answer(['/depth/image_rect'])['/depth/image_rect'])
        rows = row_depth()[:, 0]
        assert rows.min() < 4 and rows.max() > 10
        assert 4 <= np.nanmin(depth) < 4.25 and 9.75 < np.nanmax(depth) <= 10
        assert np.isnan(depth[0]).all() and np.isnan(depth[-1]).all()
