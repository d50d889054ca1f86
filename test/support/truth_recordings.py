"""Recordings that hold ground truth."""

from test_bag import RGB, image

from depth_ros.bags.messages import IMAGE
from depth_ros.bags.writer import BagWriter


def record(path, rows):
    """Write (topic, message) in this order; bytes are written as an Image."""
    with BagWriter(path) as writer:
        for i, (topic, message) in enumerate(rows):
            writer.write(topic, getattr(message, '__msgtype__', IMAGE), i, message)
    return path


def images(stamps):
    return [('/cam/image', image(RGB, 'rgb8', s)) for s in stamps]
