"""The colours that an evaluation records are those that the perception node publishes."""

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from support.onnx_models import save_perception
from support.ros_process import NodeProcess, Peer, image_message, info_message, set_stamp
from support.scene import FOCAL, HEIGHT, WIDTH, Scene, bands, pixels

from depth_ros.bags.messages import CAMERA_INFO, IMAGE, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from depth_ros.evaluation.evaluate import evaluate_recording
from depth_ros.evaluation.session import Job

TOPICS = ['/depth/image_rect', '/depth/color', '/semantics/color']
FOCALS = (FOCAL, 2 * FOCAL, FOCAL / 4)
"""Focal lengths of successive images: each changes the depth, and the colours follow slowly."""


def published(model):
    """The node's outputs for each image, in order."""
    parameters = {'model': model, 'output_size': 'network'}
    with NodeProcess('perception_node', parameters) as process, Peer() as peer:
        scene = Scene(peer, process)
        peer.wait_state('perception_node', 'active')
        listeners = [peer.listen(Image, topic) for topic in TOPICS]
        scene.camera.wait_matched()
        peer.spin_until(lambda: all(s.get_publisher_count() for s in listeners), what='publishers')
        peer.spin_for(0.5)
        infos = [info_message(WIDTH, HEIGHT, focal) for focal in FOCALS]
        return [scene.answer(TOPICS, info=info) for info in infos]


def recorded(model, folder):
    """The evaluation's recording of the same images, by topic."""
    with BagWriter(folder / 'images') as writer:
        for index, focal in enumerate(FOCALS, 1):
            image, info = image_message(bands(), 0), info_message(WIDTH, HEIGHT, focal)
            for message in (image, info):
                set_stamp(message, float(index))
            writer.write('/cam/camera_info', CAMERA_INFO, index * 10**9, serialize_message(info))
            writer.write('/cam/image', IMAGE, index * 10**9, serialize_message(image))
    job = Job(bag=folder / 'images', out=folder / 'out', models={'perception_node': model})
    evaluate_recording(job, say=lambda text: None, bar=False)
    found = {}
    with Bag(folder / 'out' / 'recording') as bag:
        for message in bag.messages():
            found.setdefault(message.topic, {})[header_stamp(message.data)] = bag.decode(message)
    return {topic: list(messages.values()) for topic, messages in found.items()}


def test_recorded_colours_equal_the_published_ones_pixel_for_pixel(tmp_path):
    model = save_perception(tmp_path / 'perception.onnx')
    node, evaluation = published(model), recorded(model, tmp_path)
    for index, outputs in enumerate(node):
        depth = pixels(evaluation['/depth/image_rect'][index])
        np.testing.assert_array_equal(pixels(outputs['/depth/image_rect']), depth)
        for topic in ('/depth/color', '/semantics/color'):
            png = evaluation[f'{topic}/compressed'][index].data
            shown = cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1]
            np.testing.assert_array_equal(pixels(outputs[topic]), shown, err_msg=topic)
    colors = [pixels(outputs['/depth/color']) for outputs in node]
    assert not np.array_equal(colors[0], colors[1])
