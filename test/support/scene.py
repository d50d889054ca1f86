"""A camera image whose outputs can be told beforehand, and the camera that shows it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

from support.onnx_models import row_depth
from support.ros_process import (
    Camera,
    NodeProcess,
    Peer,
    image_message,
    info_message,
    set_stamp,
    stamp,
)

WIDTH, HEIGHT, FOCAL = 128, 96, 64.0  # twice the network's size and focal length


def bands() -> np.ndarray:
    """An image whose quarters, from top to bottom, are the network's classes 3 (sky) to 0."""
    rows = np.repeat(np.array([250, 170, 100, 20], np.uint8), HEIGHT // 4)
    return np.repeat(np.repeat(rows[:, None, None], WIDTH, 1), 3, 2)


def expected_depth() -> np.ndarray:
    """What perception gives for :func:`bands`: the rows' depth, invalid in the sky."""
    depth = row_depth()
    depth[:12] = np.nan
    return cv2.resize(depth, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def pixels(message: Image) -> np.ndarray:
    """Pixels of an output image."""
    dtype, channels = {'32FC1': (np.float32, 1), 'mono8': (np.uint8, 1), 'rgb8': (np.uint8, 3)}[
        message.encoding
    ]
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(message.data, dtype).reshape(shape)


class Scene:
    """A running node that is shown :func:`bands`, each time with a later stamp."""

    def __init__(self, peer: Peer, process: NodeProcess) -> None:
        """Put a camera before the node."""
        self.peer, self.process = peer, process
        self.camera = Camera(peer)
        self.time = 100.0

    def send(self, image: Image | None = None, info: CameraInfo | None = None) -> float:
        """Publish a frame; returns its stamp."""
        self.time += 1.0
        image = image_message(bands(), 0) if image is None else image
        set_stamp(image, self.time)
        self.camera.publish(image, info or info_message(WIDTH, HEIGHT, FOCAL))
        return self.time

    def answer(self, topics: list[str], **frame: object) -> dict:
        """Publish a frame and return its outputs on ``topics``, {topic: message}."""
        sent = self.send(**frame)

        def of_frame(topic):
            return [m for m in self.peer.messages[topic] if stamp(m) == pytest.approx(sent)]

        try:
            self.peer.spin_until(lambda: all(of_frame(t) for t in topics), what=f'frame {sent}')
        except AssertionError as error:
            raise AssertionError(f'{error}\n{self.process.output}') from error
        return {t: of_frame(t)[0] for t in topics}
