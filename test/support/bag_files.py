"""Recordings that tests write, and what is left of them when they are cut short."""

from pathlib import Path

import numpy as np

from depth_ros.bags.messages import (
    CAMERA_INFO,
    IMAGE,
    header_stamp,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.writer import BagWriter
from support.bag_messages import (
    camera_info,
    image,
)

COUNT = 40
NOISE = np.random.default_rng(1).integers(0, 256, (180, 240, 3), np.uint8)  # does not compress


def write(path: Path, topics: dict, storage: str = 'mcap', **options) -> Path:
    """Write one message of each topic; the type follows from the message."""
    with BagWriter(path, storage, **options) as writer:
        for index, (topic, message) in enumerate(topics.items()):
            writer.write(topic, message.__msgtype__, 10**9 + index, message)
    return path


def record(path: Path, storage: str = 'mcap', count: int = COUNT, **options) -> Path:
    """Write pictures /i and their infos /c by turns, 2 ns apart; return the storage file."""
    with BagWriter(path, storage, **options) as writer:
        for i in range(count):
            writer.write('/i', IMAGE, 4 * i, image(NOISE, 'rgb8', i))
            writer.write('/c', CAMERA_INFO, 4 * i + 2, camera_info(i))
    return next(p for p in path.iterdir() if p.suffix in ('.mcap', '.db3'))


def cut(file: Path, size: int) -> None:
    with file.open('r+b') as stream:
        stream.truncate(size)


def check_beginning(bag: Bag) -> int:
    """Check that a bag of `record` has its first messages, whole and in order; return how many."""
    messages = list(bag.messages())
    for i, message in enumerate(messages):
        assert (message.topic, message.log_ns) == (('/i', '/c')[i % 2], 2 * i)
        assert header_stamp(message.data) == i // 2
        decoded = bag.decode(message)
        assert message.topic == '/c' or decoded.data.tobytes() == NOISE.tobytes()
    assert sum(topic.count for topic in bag.topics.values()) == len(messages)
    assert (bag.start_ns, bag.end_ns) == (0, 2 * len(messages) - 2)
    return len(messages)
