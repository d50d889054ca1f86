"""Frames and their truth for the tests of frame scores and of the frame evaluator."""

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from depth_ros.bags.ground_truth import GroundTruth
from depth_ros.bags.topics import Streams
from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import pose
from depth_ros.evaluation.frame_evaluator import (
    FrameEvaluator,
)
from depth_ros.evaluation.frame_scores import FrameOutputs
from depth_ros.inference.classes import ClassMap
from depth_ros.inference.contract import SemanticClass
from support.bag_messages import RGB, image, odometry
from support.truth_recordings import images, record

SECOND = 10**9
PERIOD = SECOND // 10
# Neither the order nor the ids of Cityscapes, where road is 0 and car 13.
MODEL = (SemanticClass(0, 'car', (0, 0, 142)), SemanticClass(1, 'road', (128, 64, 128)))
CLASSES = ClassMap.read('cityscapes', MODEL)
ROAD, SKY, CAR = 0, 10, 13


def shifted(x=0.0, y=0.0, z=0.0):
    return pose(np.eye(3), [x, y, z])


def flat(value, height=6, width=8):
    return np.full((height, width), value, np.float32)


def frame(index, depth=None, rgb=None, **outputs):
    """The frame of one image of a tenth of a second; its size is that of the depth or image."""
    if rgb is None:
        rgb = RGB if depth is None else np.zeros((*depth.shape, 3), np.uint8)
    height, width = rgb.shape[:2]
    camera = Intrinsics(32.0, 32.0, (width - 1) / 2, (height - 1) / 2, width, height)
    return FrameOutputs(index * PERIOD, camera, 'camera', rgb, camera, depth, **outputs)


def depth_rows(depths):
    return [('/gt/depth', image(d, '32FC1', i * PERIOD)) for i, d in enumerate(depths, 1)]


def label_rows(labels):
    return [('/gt/labels', image(a, 'mono8', i * PERIOD)) for i, a in enumerate(labels, 1)]


def pose_rows(positions):
    rows = []
    for i, position in enumerate(positions, 1):
        message = odometry(i * PERIOD)
        place = message.pose.pose.position
        place.x, place.y, place.z = map(float, position)
        rows.append(('/gt/odom', message))
    return rows


def ground_truth(folder, rows, tolerance=PERIOD // 2):
    """The truth of a recording with one image and these messages."""
    path = record(folder / 'recording', [*images([PERIOD]), *rows])
    topics = {topic for topic, _ in rows}
    named = {name: f'/gt/{name}' for name in ('depth', 'labels', 'odom') if f'/gt/{name}' in topics}
    return GroundTruth(path, Streams('/cam/image', '/cam/camera_info', **named), tolerance)


def evaluate(folder, frames, rows=(), classes=None, metric=True, affine=False):
    """The evaluation of frames, and what was found about each, in the order it was told."""
    with ThreadPoolExecutor(2) as pool, ground_truth(folder, list(rows)) as truth:
        evaluator = FrameEvaluator(truth, classes, metric, len(frames), pool, affine)
        scores = [j for j in map(evaluator.add, frames) if j is not None]
        evaluation, last = evaluator.finish()
    json.dumps(evaluation.numbers, allow_nan=False)  # what metrics.json can hold
    return evaluation, scores + last


WALL_DISTANCE, WALL_STEP = 8.0, 3
"""Metres to a wall, and pixels by which the camera passes it from frame to frame."""


def wall_frames(count, depth=lambda index: WALL_DISTANCE, spacing=1):
    """Frames of a camera that moves to the right before a patterned wall."""
    size = 48, 64 + WALL_STEP * count
    noise = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (*size, 3)), (0, 0), 2)
    wall = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for i in range(count):
        rgb = wall[:, WALL_STEP * i : WALL_STEP * i + 64]
        step = shifted(x=WALL_STEP * WALL_DISTANCE / 32) if i else None
        yield frame(spacing * (i + 1), flat(depth(i), 48, 64), rgb, step=step)
