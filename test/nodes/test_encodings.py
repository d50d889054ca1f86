"""A running node takes every encoding of images that evaluation and training take."""

import numpy as np
import pytest
from sensor_msgs.msg import Image
from support.encodings import TABLE, fields
from support.onnx_models import save_perception
from support.ros_process import NodeProcess, Peer, image_message
from support.scene import Scene, bands, pixels


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    model = save_perception(tmp_path_factory.mktemp('models') / 'perception.onnx')
    with NodeProcess('perception_node', {'model': model}) as process, Peer() as peer:
        peer.listen(Image, '/semantics/labels')
        peer.wait_state('perception_node', 'active')
        scene = Scene(peer, process)
        scene.camera.wait_matched()
        yield scene
        assert process.stop() == 0
        assert 'frame dropped' not in process.output


@pytest.mark.parametrize('encoding', TABLE)
def test_every_encoding(running, encoding):
    message = image_message(bands(), 0)
    for name, value in fields(bands(), encoding, padding=4).items():
        setattr(message, name, value)
    labels = pixels(running.answer(['/semantics/labels'], image=message)['/semantics/labels'])
    np.testing.assert_array_equal(labels[12::24, 5], [3, 2, 1, 0])
