"""A short recording of a drive, with or without ground truth."""

from pathlib import Path

import cv2
import numpy as np

from depth_ros.bags.writer import BagWriter
from support import onnx_models
from support.bag_messages import camera_info, compressed, header, image, odometry

WIDTH, HEIGHT = 128, 96  # twice the networks' size


FRAMES, PERIOD_NS, START_NS = 20, 100_000_000, 1_700_000_000 * 10**9


STEP = 0.5  # metres forward that the pose network says


def info(stamp_ns: int):
    """The networks' own camera, at twice the size: depth needs no correction."""
    message = camera_info(stamp_ns)
    fx, fy, cx, cy = onnx_models.INTRINSICS
    message.width, message.height = WIDTH, HEIGHT
    message.k = np.array([2 * fx, 0, 2 * cx + 0.5, 0, 2 * fy, 2 * cy + 0.5, 0, 0, 1])
    message.p = np.insert(message.k.reshape(3, 3), 3, 0, axis=1).ravel()
    return message


def pixels() -> np.ndarray:
    """Grey 50: the class road everywhere, no sky."""
    return np.full((HEIGHT, WIDTH, 3), 50, np.uint8)


def truth_depth() -> np.ndarray:
    """The depth that the network returns, at the image's size, but 10 % farther."""
    rows = onnx_models.row_depth()
    return 1.1 * cv2.resize(rows, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def write(path: Path, *, truth: bool, frames: int = FRAMES, storage: str = 'mcap') -> Path:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:, : WIDTH // 4] = 13  # a quarter is car, in Cityscapes' ids
    labels[0] = 255
    millimetres = np.round(truth_depth() * 1000).astype(np.uint16)
    with BagWriter(path, storage) as writer:
        for index in range(frames):
            stamp = START_NS + index * PERIOD_NS

            def add(topic, message, stamp=stamp):
                message.header.stamp = header(stamp).stamp
                writer.write(topic, message.__msgtype__, stamp, message)

            if truth:
                add(
                    '/camera/image_rect/compressed',
                    compressed(pixels(), '.png', 'bgr8; png compressed bgr8'),
                )
                add(
                    '/ground_truth/depth/image_rect/compressedDepth',
                    compressed(millimetres, '.png', '16UC1; compressedDepth png', bytes(12)),
                )
                add(
                    '/ground_truth/semantics/labels/compressed',
                    compressed(labels, '.png', 'mono8; png compressed mono8'),
                )
                pose = odometry()
                position = pose.pose.pose.position
                position.x, position.y, position.z = 2 * STEP * index, 0.0, 0.0
                add('/ground_truth/odom', pose)
                add('/camera/camera_info', info(stamp))
            else:
                add('/front/image', image(pixels(), 'rgb8', stamp))
                add('/front/camera_info', info(stamp))
    return path
