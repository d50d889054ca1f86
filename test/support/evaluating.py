"""`evaluate_bag` on small recordings of noise."""

import json
from pathlib import Path

import numpy as np

from depth_ros.bags.messages import CAMERA_INFO, IMAGE
from depth_ros.bags.writer import BagWriter
from depth_ros.commands import evaluate_bag
from support.bag_messages import image
from support.drive_recording import HEIGHT, WIDTH, info

PERIOD = 10**8


def evaluate(*options) -> None:
    assert evaluate_bag.main([str(o) for o in options]) == 0


def read(out: Path) -> dict:
    return json.loads((out / 'metrics.json').read_text())


def street(path: Path, *, stamps=None, spoil=lambda index, message: message, storage='mcap'):
    """A recording of noise; `spoil` may change the message of an image or drop it (None)."""
    rng = np.random.default_rng(0)
    with BagWriter(path, storage) as writer:
        for index, stamp in enumerate(stamps or range(PERIOD, 11 * PERIOD, PERIOD)):
            log = (index + 1) * PERIOD
            picture = image(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), 'rgb8', stamp)
            picture = spoil(index, picture)
            writer.write('/cam/camera_info', CAMERA_INFO, log, info(stamp))
            if picture is not None:
                writer.write('/cam/image', IMAGE, log, picture)
    return path
