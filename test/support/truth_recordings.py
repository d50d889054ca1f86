"""Recordings that hold ground truth."""

from depth_ros.bags.messages import IMAGE
from depth_ros.bags.writer import BagWriter
from support.bag_messages import RGB, image


def record(path, rows):
    """Write (topic, message) in this order; bytes are written as an Image."""
    with BagWriter(path) as writer:
        for i, (topic, message) in enumerate(rows):
            writer.write(topic, getattr(message, '__msgtype__', IMAGE), i, message)
    return path


def images(stamps):
    return [('/cam/image', image(RGB, 'rgb8', s)) for s in stamps]
