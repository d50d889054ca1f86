"""What the perception node says of the same images, as the odometry takes it."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from depth_ros.core.camera import CameraError, Intrinsics, intrinsics_from_info
from depth_ros.core.ground import ground_weights
from depth_ros.core.tracked_motion import TrackedMotion
from depth_ros.inference.classes import CITYSCAPES, movable_ids
from depth_ros.nodes.camera_input import nanoseconds
from depth_ros.ros.transport import OUTPUT_QOS

_MOVABLE = movable_ids(CITYSCAPES)
_GROUND = ground_weights({c.name: c.id for c in CITYSCAPES})


class PerceivedInput:
    """Keeps the newest depth and labels until the worker passes them on.

    They may come later than the next images; the odometry knows what it saw by the stamps.
    """

    def __init__(self, node: Node, wanted: bool) -> None:
        """Subscribe ``depth/image_rect``, ``depth/camera_info`` and ``semantics/labels``."""
        self._node = node
        self._lock = threading.Lock()
        self._images: deque[Image] = deque(maxlen=8)
        self._info: CameraInfo | None = None
        self._subscriptions = []
        if not wanted:
            return
        for topic in ('depth/image_rect', 'semantics/labels'):
            self._subscriptions.append(
                node.create_subscription(Image, topic, self._take, OUTPUT_QOS)
            )
        self._subscriptions.append(
            node.create_subscription(CameraInfo, 'depth/camera_info', self._take_info, OUTPUT_QOS)
        )

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _take(self, message: Image) -> None:
        with self._lock:
            self._images.append(message)

    def _take_info(self, message: CameraInfo) -> None:
        self._info = message

    def tell(self, tracked: TrackedMotion | None) -> None:
        """Pass on what came since the last call."""
        with self._lock:
            images, info = list(self._images), self._info
            self._images.clear()
        if tracked is None or info is None:
            return
        for message in images:
            try:
                camera = intrinsics_from_info(info, message.width, message.height)
            except CameraError:  # of another size; the next camera_info fits
                continue
            depth, labels = _depth(message), _labels(message)
            if depth is not None or labels is not None:
                _tell(tracked, nanoseconds(message.header.stamp), depth, labels, camera)


def _tell(
    tracked: TrackedMotion,
    stamp: int,
    depth: np.ndarray | None,
    labels: np.ndarray | None,
    camera: Intrinsics,
) -> None:
    tracked.add_depth(stamp, depth, labels, camera, movable=_MOVABLE, ground=_GROUND)


def _depth(message: Image) -> np.ndarray | None:
    """Depth (H, W) in metres of an image message; ``None`` if it is none."""
    if message.encoding == '32FC1':
        rows = np.frombuffer(message.data, np.float32).reshape(message.height, -1)
        return rows[:, : message.width]
    if message.encoding == '16UC1':
        rows = np.frombuffer(message.data, np.uint16).reshape(message.height, -1)
        metres = rows[:, : message.width] * np.float32(1e-3)
        return np.where(metres > 0, metres, np.float32(np.nan))
    return None


def _labels(message: Image) -> np.ndarray | None:
    """Class ids (H, W) of an image message; ``None`` if it has none."""
    if message.encoding not in ('mono8', '8UC1'):
        return None
    return np.frombuffer(message.data, np.uint8).reshape(message.height, -1)[:, : message.width]
