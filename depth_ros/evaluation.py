"""Judges what the nodes published for a recording: latency, drops, and errors against ground truth.

Reads the played recording and the recorded outputs; needs no running ROS.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from depth_ros import metrics
from depth_ros.bag import COMPRESSED_IMAGE, Bag, Streams, decode_depth, decode_labels, header_stamp
from depth_ros.contract import UNLABELED, SemanticClass

CITYSCAPES = (
    'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign',
    'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle',
    'bicycle')
"""Names of the Cityscapes trainIds 0..18, in which ground truth labels are given."""


@dataclass
class Picture:
    """One frame to look at: what went in, what came out, what is true.

    Attributes:
        stamp_ns: Header stamp.
        rgb: The camera's image, uint8 (H, W, 3).
        depth, true_depth: float32 (H, W), metres or model units; None without.
        labels, true_labels: uint8 (H, W), ids of the model's classes; None without.
        abs_rel: Abs Rel of this frame's depth after median scaling; None without.
    """

    stamp_ns: int
    rgb: np.ndarray
    depth: np.ndarray | None = None
    labels: np.ndarray | None = None
    true_depth: np.ndarray | None = None
    true_labels: np.ndarray | None = None
    abs_rel: float | None = None


@dataclass
class Evaluation:
    """The result; None stands for what could not be judged, and `notes` say why.

    Attributes:
        depth: Averaged depth metrics as published; None for a model that is not metric.
        depth_scaled: The same after median scaling of each frame.
        depth_frames: Number of frames that they average.
        confusion: Label confusion, int64 (classes, classes + 1), see `metrics.confusion`.
        label_frames: Number of frames that it counts.
        estimate, truth: Positions of odometry and ground truth, (N, 3) and (M, 3), in their frames.
        trajectory: Their comparison where both have a position.
        pictures: Frames to look at.
        notes: What is missing and why.
    """

    depth: metrics.DepthMetrics | None = None
    depth_scaled: metrics.DepthMetrics | None = None
    depth_frames: int = 0
    confusion: np.ndarray | None = None
    label_frames: int = 0
    estimate: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    truth: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    trajectory: metrics.TrajectoryMetrics | None = None
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outputs:
    """Names of the recorded output topics; None where the model has no such output."""

    depth: str | None
    labels: str | None
    odom: str


def evaluate(
    source: Path,
    streams: Streams,
    recording: Path,
    outputs: Outputs,
    classes: Sequence[SemanticClass],
    metric: bool,
    pictures: int = 6,
) -> Evaluation:
    """Compare the recorded outputs with the ground truth of the played recording.

    Frames are paired by stamp, the nearest within half an image period. Predictions are resized to
    the ground truth's size, inverse depth bilinearly and labels by the nearest pixel.

    Args:
        source: The played recording.
        streams: Its topics.
        recording: The recorded outputs.
        outputs: Their topics.
        classes: The model's classes.
        metric: Whether the published depth is in metres.
        pictures: Number of frames to keep for looking at.
    """
    result = Evaluation()
    with Bag(source) as given, Bag(recording) as published:
        stamps = _stamps(published, outputs.depth or outputs.labels)
        tolerance = _half_period(_stamps(given, streams.image))
        # Ground truth may come with fewer frames: those with it are better to look at.
        true = np.array(_stamps(given, streams.depth or streams.labels), np.int64)
        judged = [s for s in stamps if true.size and np.abs(true - s).min() <= tolerance] or stamps
        chosen = [judged[i] for i in np.linspace(0, len(judged) - 1, pictures).round().astype(int)]
        looked_at = _pictures(given, streams.image, sorted(set(chosen)))
        if outputs.depth:
            _depth(result, given, streams, published, outputs.depth, looked_at, tolerance, metric)
        if outputs.labels:
            _labels(result, given, streams, published, outputs.labels, looked_at, tolerance,
                    classes)
        _trajectory(result, given, streams, published, outputs.odom, tolerance)
        result.pictures = list(looked_at.values())
    if not (streams.depth or streams.labels or streams.odom):
        result.notes = ['no ground truth in this recording']
    return result


def _depth(
    result: Evaluation, given: Bag, streams: Streams, published: Bag, topic: str,
    pictures: Mapping[int, Picture], tolerance: int, metric: bool,
) -> None:
    for stamp, data in _messages(published, topic, pictures):
        pictures[stamp].depth = decode_depth(data)
    if not streams.depth:
        result.notes.append('no ground truth of depth in this recording')
        return
    plain, scaled = [], []
    for stamp, ours, theirs in _pairs(published, topic, given, streams.depth, tolerance):
        truth = decode_depth(theirs)
        depth = _resize_depth(decode_depth(ours), truth.shape)
        try:
            scaled.append(metrics.depth_metrics(depth, truth, median_scaling=True))
            plain.append(metrics.depth_metrics(depth, truth))
        except ValueError:  # neither is counted: no pixel has both
            continue
        if stamp in pictures:
            pictures[stamp].true_depth = truth
            pictures[stamp].abs_rel = scaled[-1].abs_rel
    result.depth_frames = len(scaled)
    if not scaled:
        result.notes.append(
            f'{streams.depth} has no frame with valid pixels at the time of a depth image')
        return
    result.depth_scaled = metrics.mean_depth_metrics(scaled)
    if metric:
        result.depth = metrics.mean_depth_metrics(plain)
    else:
        result.notes.append('the model is not metric, so depth is judged after median scaling only')


def _resize_depth(depth: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if depth.shape == shape:
        return depth
    return 1 / cv2.resize(1 / depth, shape[::-1], interpolation=cv2.INTER_LINEAR)


def _labels(
    result: Evaluation, given: Bag, streams: Streams, published: Bag, topic: str,
    pictures: Mapping[int, Picture], tolerance: int, classes: Sequence[SemanticClass],
) -> None:
    for stamp, data in _messages(published, topic, pictures):
        pictures[stamp].labels = decode_labels(data)
    if not streams.labels:
        result.notes.append('no ground truth of semantics in this recording')
        return
    to_ours = np.full(256, UNLABELED, np.uint8)
    ids = {item.name: item.id for item in classes}
    for train_id, name in enumerate(CITYSCAPES):
        to_ours[train_id] = ids.get(name, UNLABELED)
    total = np.zeros((len(classes), len(classes) + 1), np.int64)
    for stamp, ours, theirs in _pairs(published, topic, given, streams.labels, tolerance):
        truth = to_ours[decode_labels(theirs)]
        labels = cv2.resize(
            decode_labels(ours), truth.shape[::-1], interpolation=cv2.INTER_NEAREST)
        total += metrics.confusion(labels, truth, len(classes))
        result.label_frames += 1
        if stamp in pictures:
            pictures[stamp].true_labels = truth
    if total.any():
        result.confusion = total
    else:
        result.notes.append(
            f'{streams.labels} has no frame with the classes of the model at the time of a mask')


def _trajectory(
    result: Evaluation, given: Bag, streams: Streams, published: Bag, topic: str, tolerance: int
) -> None:
    estimate = _positions(published, topic)
    result.estimate = np.array(list(estimate.values())).reshape(-1, 3)
    if len(estimate) < 2:
        result.notes.append(f'{topic} has {len(estimate)} poses, so there is no trajectory')
    if not streams.odom:
        result.notes.append('no ground truth of motion in this recording')
        return
    truth = _positions(given, streams.odom)
    result.truth = np.array(list(truth.values())).reshape(-1, 3)
    times = np.array(sorted(truth))
    ours, theirs = [], []
    for stamp, position in estimate.items():
        nearest = int(times[np.abs(times - stamp).argmin()])
        if abs(nearest - stamp) <= tolerance:
            ours.append(position)
            theirs.append(truth[nearest])
    try:
        result.trajectory = metrics.trajectory_metrics(
            np.array(ours).reshape(-1, 3), np.array(theirs).reshape(-1, 3))
    except ValueError as error:
        result.notes.append(f'the trajectory cannot be judged: {error}')


def _stamps(bag: Bag, topic: str | None) -> list[int]:
    return [header_stamp(m.data) for m in bag.messages([topic])] if topic else []


def _half_period(stamps: Sequence[int]) -> int:
    steps = np.diff(np.sort(np.asarray(stamps, np.int64)))
    steps = steps[steps > 0]
    return int(np.median(steps)) // 2 if len(steps) else 10**7


def _messages(bag: Bag, topic: str, stamps: Collection[int]) -> Iterator[tuple[int, object]]:
    """Yield stamp and message of those messages of a topic that have one of some stamps."""
    for message in bag.messages([topic]):
        stamp = header_stamp(message.data)
        if stamp in stamps:
            yield stamp, bag.decode(message)


def _pairs(
    ours: Bag, topic: str, theirs: Bag, truth: str, tolerance: int
) -> Iterator[tuple[int, object, object]]:
    """Yield stamp, our message and the true one nearest in time, if within the tolerance.

    Holds two true messages at a time: both topics are taken to be in the order of their stamps.
    """
    candidates = theirs.messages([truth])
    current = next(candidates, None)
    following = next(candidates, None)
    for message in ours.messages([topic]):
        stamp = header_stamp(message.data)

        def distance(candidate, stamp=stamp) -> int:
            return abs(header_stamp(candidate.data) - stamp)

        while following is not None and distance(following) <= distance(current):
            current, following = following, next(candidates, None)
        if current is not None and distance(current) <= tolerance:
            yield stamp, ours.decode(message), theirs.decode(current)


def _positions(bag: Bag, topic: str) -> dict[int, np.ndarray]:
    """Return the positions of a nav_msgs/Odometry topic by stamp, in the order of the stamps."""
    positions = {}
    for message in bag.messages([topic]):
        point = bag.decode(message).pose.pose.position
        positions[header_stamp(message.data)] = np.array([point.x, point.y, point.z])
    return dict(sorted(positions.items()))


def _pictures(bag: Bag, topic: str, stamps: Sequence[int]) -> dict[int, Picture]:
    """Return the camera's images of some stamps, decoded as the nodes do it."""
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CompressedImage, Image

    from depth_ros.conversions import compressed_to_rgb, image_to_rgb

    found = {}
    for message in bag.messages([topic]):
        stamp = header_stamp(message.data)
        if stamp in stamps and stamp not in found:
            if message.msgtype == COMPRESSED_IMAGE:
                rgb = compressed_to_rgb(deserialize_message(message.data, CompressedImage))
            else:
                rgb = image_to_rgb(deserialize_message(message.data, Image))
            found[stamp] = Picture(stamp, rgb.copy())
    return found
