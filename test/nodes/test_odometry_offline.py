"""The odometry node and the offline evaluation on the same images: the same trajectory."""

import numpy as np
from nav_msgs.msg import Odometry
from support.onnx_models import save_pose
from support.ros_process import Camera, NodeProcess, Peer, image_message, info_message, stamp
from support.scene import FOCAL, HEIGHT, WIDTH

from depth_ros.evaluation.runner import RecordedImage, Runner, Settings
from depth_ros.inference.loader import load_engine

BLACK = 0  # the network returns NaN
FRAMES = (
    (10.0, 100),
    (10.1, 120),
    (10.1, 120),  # doubled
    (10.3, 150),
    (10.2, 130),  # late
    (10.4, BLACK),
    (10.5, 140),  # compared with the one before the black one
    (12.5, 140),  # after a gap
    (12.6, 150),
    (3.0, 20),  # the clock went back
    (3.1, 60),
)
"""Stamps in seconds and brightness."""


def test_node_and_offline_agree(tmp_path):
    model = save_pose(tmp_path / 'pose.onnx', motion=(0, -0.1, 0, 0, 0, 0.5), fails_on_black=True)
    info = info_message(WIDTH, HEIGHT, FOCAL)
    images = [np.full((HEIGHT, WIDTH, 3), level, np.uint8) for _, level in FRAMES]
    runner = Runner(None, load_engine(model, 'onnxruntime', 1), Settings(refinement='none'))
    expected = {}
    for (seconds, _), image in zip(FRAMES, images, strict=True):
        output = runner(RecordedImage(round(seconds * 1e9), 'camera', image), info)
        if output.pose is not None:
            expected[round(seconds, 1)] = output.pose.copy()
    assert list(expected) == [10.0, 10.1, 10.3, 10.5, 12.6, 3.1]
    assert sum(runner.missed.values()) == 5

    with (
        NodeProcess(
            'odometry_node', {'model': model, 'backend': 'onnxruntime', 'refinement': 'none'}
        ) as process,
        Peer() as peer,
    ):
        peer.listen(Odometry, '/odom')
        peer.listen_diagnostics()
        peer.wait_state('odometry_node', 'active')
        camera = Camera(peer)
        camera.wait_matched()
        for count, ((seconds, _), image) in enumerate(zip(FRAMES, images, strict=True), 1):
            camera.publish(image_message(image, seconds), info)
            peer.diagnostics_after(
                'odometry_node',
                lambda d, count=count: int(d['processed']) + int(d['failed']) == count,
            )
        found = peer.messages['/odom']
        assert [round(stamp(m), 1) for m in found] == list(expected)[1:]
        for message, pose in zip(found, list(expected.values())[1:], strict=True):
            place = message.pose.pose.position
            np.testing.assert_allclose([place.x, place.y, place.z], pose[:3, 3], atol=1e-9)
        # The motion over the black image took two periods: 0.5 - 0.1 m in 0.2 s.
        np.testing.assert_allclose(found[2].twist.twist.linear.x, 0.4 / 0.2, rtol=1e-6)
        for text in ('same stamp', 'behind a newer one', 'is damaged', 'max_gap', 'went back'):
            process.wait_for(text)
        assert process.stop() == 0 and 'Traceback' not in process.output
