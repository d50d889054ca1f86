"""Every output of a network, described once.

A row says what the tensor is, which topics show it and how two engines' values are compared. The
contract, the nodes, live and offline evaluation, recordings, parity and export follow the table: a
new output is a row here and what trains it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from depth_ros.core.labels import UNLABELED

IMAGE = 'sensor_msgs/msg/Image'


@dataclass(frozen=True)
class Topic:
    """A topic that shows an output.

    Attributes:
        name: relative name.
        msgtype: ROS type.
        encoding: of an image; empty for other messages.
        outside: value of an image's pixels that the network does not see.
        colors: how :mod:`depth_ros.core.colors` draws the values, ``depth`` or ``classes``; empty
            where the image holds the values themselves.
        absolute: whether it needs depth in metres or in units of one constant size, which
            affine-invariant depth is not.
        recorded: whether an evaluation records it unless asked for more.
        every_frame: whether one message follows from each image, so that latency can be told.
    """

    name: str
    msgtype: str
    encoding: str = ''
    outside: float = 0
    colors: str = ''
    absolute: bool = False
    recorded: bool = True
    every_frame: bool = False


@dataclass(frozen=True)
class Output:
    """An output tensor.

    Attributes:
        name: of the tensor.
        task: which networks may have it: ``perception`` or ``pose``.
        dtype: element type.
        length: of a vector; 0 for an image (H, W) at network size.
        compared: how parity compares two engines' values: ``ratio`` (relative errors of positive
            values), ``classes`` (share of equal ids), ``motion`` (translation and angle) or
            ``difference`` (absolute errors).
        topics: which show it, the values themselves first.
    """

    name: str
    task: str
    dtype: str
    length: int = 0
    compared: str = 'difference'
    topics: tuple[Topic, ...] = ()

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the tensor of a network with images of height x width pixels."""
        return (self.length,) if self.length else (height, width)


OUTPUTS = {
    output.name: output
    for output in (
        Output(
            'depth',
            'perception',
            'float32',
            compared='ratio',
            topics=(
                Topic(
                    'depth/image_rect', IMAGE, '32FC1', math.nan, absolute=True, every_frame=True
                ),
                Topic(
                    'depth/image_rect/compressedDepth',
                    'sensor_msgs/msg/CompressedImage',
                    absolute=True,
                    recorded=False,
                ),
                Topic('depth/camera_info', 'sensor_msgs/msg/CameraInfo', absolute=True),
                Topic('depth/color', IMAGE, 'rgb8', colors='depth'),
                Topic('points', 'sensor_msgs/msg/PointCloud2', absolute=True, recorded=False),
                Topic('obstacles', 'sensor_msgs/msg/PointCloud2', absolute=True, recorded=False),
                Topic('scan', 'sensor_msgs/msg/LaserScan', absolute=True, recorded=False),
            ),
        ),
        Output(
            'labels',
            'perception',
            'uint8',
            compared='classes',
            topics=(
                Topic('semantics/labels', IMAGE, 'mono8', UNLABELED, every_frame=True),
                Topic('semantics/color', IMAGE, 'rgb8', colors='classes'),
            ),
        ),
        Output(
            'pose',
            'pose',
            'float32',
            length=6,
            compared='motion',
            topics=(
                Topic('odom', 'nav_msgs/msg/Odometry', every_frame=True),
                Topic('path', 'nav_msgs/msg/Path'),
            ),
        ),
    )
}
"""All outputs, by the names of their tensors."""

TOPICS = {topic.name: topic for output in OUTPUTS.values() for topic in output.topics}
"""All topics, by name."""


def topics(outputs: Iterable[str], affine_invariant: bool = False) -> dict[str, tuple[str, Topic]]:
    """The topics of a network, by name, each with the output that it shows.

    Args:
        outputs: names of the network's outputs.
        affine_invariant: whether scale and shift of its depth are unknown.
    """
    return {
        topic.name: (name, topic)
        for name in OUTPUTS
        if name in outputs
        for topic in OUTPUTS[name].topics
        if not (topic.absolute and affine_invariant)
    }
