"""Recordings that hold ground truth."""

from test_bag import RGB, image

from depth_ros.bags import bag as bags
from depth_ros.bags.bag import BagWriter


def record(path, rows):
    """Write (topic, message) in this order; bytes are written as an Image."""
    with BagWriter(path) as writer:
        for i, (topic, message) in enumerate(rows):
            writer.write(topic, getattr(message, '__msgtype__', bags.IMAGE), i, message)
    return path


def images(stamps):
    return [('/cam/image', image(RGB, 'rgb8', s)) for s in stamps]
