"""The ground truth of a recording at the times of its images."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from depth_ros.bags.messages import POINT_CLOUD, TF, BagError, Message, decode_pose, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams
from depth_ros.core.camera import Intrinsics
from depth_ros.core.images import decode_depth, decode_labels
from depth_ros.core.labels import UNLABELED
from depth_ros.core.pointcloud import points_from_cloud, project_points
from depth_ros.core.se3 import interpolate
from depth_ros.core.transform_tree import TransformTree

MAX_GAP_NS = 500_000_000
"""True poses further apart than this are not interpolated."""

DISORDER_NS = 10**9
"""Stamps that go back by more: the clock was set back. By less: messages arrived out of order."""

LOOK_AHEAD = 16
"""Messages of a topic that may still follow from before a jump of the clock that the images have
passed already."""

TF_PREFIX = 'tf:'
"""Prefix of a pair of TF frames given in place of a topic of poses, as in tf:odom>base_link."""


class Nearest:
    """The message of a topic that is nearest in time to each of a series of stamps.

    The stamps must be asked for in about the order of the messages. The clock of both may jump
    back once in a while. Holds two messages at a time, and a few more while it looks for a jump.

    Args:
        path: The recording.
        topic: A topic whose messages have headers.
        problems: Messages that cannot be read are counted here, by reason.

    Attributes:
        bag: The recording, which decodes what `at` returns.
    """

    def __init__(self, path: Path, topic: str, problems: dict[str, int] | None = None) -> None:
        self.bag = Bag(path)
        self._problems = {} if problems is None else problems
        self._messages = _readable(self.bag, [topic], self._problems)
        self._ahead: deque[tuple[int, Message]] = deque()  # with their stamps
        self._asked = 0

    def at(self, stamp: int, tolerance: int) -> Message | None:
        """Return the message nearest to a stamp (ns); None if none is within the tolerance (ns)."""
        if stamp < self._asked:
            self._jump_back(stamp)
        self._asked = stamp
        while self._read(2) and self._distance(1, stamp) <= self._distance(0, stamp):
            self._ahead.popleft()
        if not self._ahead or self._distance(0, stamp) > tolerance:
            return None
        return self._ahead[0][1]

    def _jump_back(self, stamp: int) -> None:
        """Skip the messages before the topic's clock jumps back if those after it are nearer."""
        self._read(LOOK_AHEAD)
        stamps = [s for s, _ in self._ahead]
        for i, (before, after) in enumerate(pairwise(stamps), 1):
            if after < before and self._distance(i, stamp) < self._distance(0, stamp):
                for _ in range(i):
                    self._ahead.popleft()
                return

    def _distance(self, index: int, stamp: int) -> int:
        return abs(self._ahead[index][0] - stamp)

    def _read(self, count: int) -> bool:
        """Read ahead until `count` messages are held; tell whether there are as many."""
        while len(self._ahead) < count:
            if (message := next(self._messages, None)) is None:
                return False
            try:
                stamp = header_stamp(message.data)
            except (struct.error, IndexError):
                count_problem(self._problems, f'a message of {message.topic} has no header')
                continue
            place = len(self._ahead)
            while place and stamp < self._ahead[place - 1][0] <= stamp + DISORDER_NS:
                place -= 1
            self._ahead.insert(place, (stamp, message))
        return True

    def close(self) -> None:
        """Close the recording."""
        self.bag.close()


def _readable(bag: Bag, topics: Sequence[str], problems: dict[str, int]) -> Iterator[Message]:
    """Yield the messages of some topics, as far as the recording can be read."""
    try:
        yield from bag.messages(topics)
    except BagError as error:
        count_problem(problems, str(error))


def count_problem(problems: dict[str, int], problem: str) -> None:
    """Count a problem; those that differ in numbers only, such as times, are one."""
    known = (p for p in problems if re.sub(r'\d+', '', p) == re.sub(r'\d+', '', problem))
    problem = next(known, problem)
    problems[problem] = problems.get(problem, 0) + 1


def half_period(stamps: Iterable[int], default: int) -> int:
    """Return half the median time between images, the usual tolerance for their truth.

    Args:
        stamps: Stamps of the images in any order, ns.
        default: Result for fewer than two different stamps, ns.
    """
    steps = np.diff(np.unique(np.fromiter(stamps, np.int64)))
    return int(np.median(steps)) // 2 if len(steps) else default


class PoseTrack:
    """Poses by time.

    Args:
        poses: T_parent_child 4x4 by stamp in ns.
    """

    def __init__(self, poses: dict[int, np.ndarray]) -> None:
        self.stamps = np.array(sorted(poses), np.int64)
        self.poses = np.array([poses[s] for s in self.stamps.tolist()]).reshape(-1, 4, 4)

    def __len__(self) -> int:
        return len(self.stamps)

    def at(self, stamps: Sequence[int], tolerance: int) -> np.ndarray:
        """Return the poses at some stamps, (N, 4, 4).

        Interpolated between neighbours that are not further apart than `MAX_GAP_NS`; else the
        nearest one within the tolerance, in ns; else NaN.
        """
        wanted = np.asarray(stamps, np.int64)
        result = np.full((len(wanted), 4, 4), np.nan)
        if not len(self):
            return result
        after = np.searchsorted(self.stamps, wanted).clip(0, len(self) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(
            np.abs(self.stamps[before] - wanted) <= np.abs(self.stamps[after] - wanted),
            before,
            after,
        )
        close = np.abs(self.stamps[nearest] - wanted) <= tolerance
        result[close] = self.poses[nearest[close]]
        exact = self.stamps[nearest] == wanted
        width = self.stamps[after] - self.stamps[before]
        between = (
            ~exact
            & (self.stamps[before] < wanted)
            & (wanted < self.stamps[after])
            & (width <= MAX_GAP_NS)
        )
        for i in np.flatnonzero(between):
            a, b = before[i], after[i]
            share = (wanted[i] - self.stamps[a]) / width[i]
            result[i] = interpolate(self.poses[a], self.poses[b], share)
        return result


class GroundTruth:
    """What is known to be true about the images of a recording. Use as a context manager.

    Args:
        path: The recording.
        streams: Its topics; `odom` may name a pair of TF frames, `tf:PARENT>CHILD`.
        tolerance: How far in time truth may be from an image, ns.
        lidar_pose: T_camera_lidar 4x4 for a PointCloud2 as depth, from the lidar's frame to the
            camera's optical frame; None to look it up in TF.
        points: In place of recorded depth: returns the true depth, float32 (H, W), of the image
            with a stamp, seen by a camera, or None where there is none.
        rectify: Rectifies a map (H, W) of a topic where the images are, filling in what the lens
            does not see; None: maps are as the images are.

    Attributes:
        track: The true poses.
        has_depth: Whether there is true depth of any frame.
        problems: How often truth could not be used, by reason.

    Raises:
        BagError: if a topic cannot be used.
    """

    def __init__(
        self,
        path: Path,
        streams: Streams,
        tolerance: int,
        lidar_pose: np.ndarray | None = None,
        points: Callable[[int, Intrinsics], np.ndarray | None] | None = None,
        rectify: Callable[[np.ndarray, str, float], np.ndarray] | None = None,
    ) -> None:
        self.tolerance = tolerance
        self.problems: dict[str, int] = {}
        self.has_depth = bool(streams.depth) or points is not None
        self._points = points
        self._rectify = rectify or (lambda values, topic, unseen: values)
        self._lidar_pose = lidar_pose
        self._tree: TransformTree | None = None
        self.track = PoseTrack({})
        odom = streams.odom or ''
        with Bag(path) as bag:
            cloud = streams.depth and bag.topics[streams.depth].msgtype == POINT_CLOUD
            if odom.startswith(TF_PREFIX):
                self._tree = _transforms(bag, self.problems)
                frames = odom.removeprefix(TF_PREFIX)
                self.track = _frame_track(bag, self._tree, streams.image, frames, self.problems)
            elif odom:
                self.track = _topic_track(bag, odom, self.problems)
            if cloud and lidar_pose is None and self._tree is None:
                self._tree = _transforms(bag, self.problems)
        depth, labels = streams.depth, streams.labels
        self._depth = Nearest(path, depth, self.problems) if depth else None
        self._labels = Nearest(path, labels, self.problems) if labels else None

    def depth(self, stamp: int, camera: Intrinsics, frame_id: str) -> np.ndarray | None:
        """Return the true depth nearest to a stamp, float32 (H, W), metres, NaN = unknown.

        A depth image keeps its size; a point cloud is projected into the camera.
        """
        if self._points is not None:
            return self._points(stamp, camera)
        if self._depth is None or (message := self._depth.at(stamp, self.tolerance)) is None:
            return None
        try:
            decoded = self._depth.bag.decode(message)
            if message.msgtype != POINT_CLOUD:
                return self._rectify(decode_depth(decoded), message.topic, np.nan)
            transform = self._lidar_pose
            if self._tree is not None and transform is None:
                transform = self._tree.lookup(frame_id, decoded.header.frame_id, stamp)
            assert transform is not None  # one of the two is there for a point cloud
            return project_points(points_from_cloud(decoded), transform, camera)
        except (ValueError, LookupError, BagError) as error:
            count_problem(self.problems, f'true depth: {error}')
            return None

    def labels(self, stamp: int) -> np.ndarray | None:
        """Return the true class ids nearest to a stamp, uint8 (H, W)."""
        if self._labels is None or (message := self._labels.at(stamp, self.tolerance)) is None:
            return None
        try:
            labels = decode_labels(self._labels.bag.decode(message))
            return self._rectify(labels, message.topic, UNLABELED)
        except (ValueError, BagError) as error:
            count_problem(self.problems, f'true labels: {error}')
            return None

    def close(self) -> None:
        """Close the recording."""
        for stream in (self._depth, self._labels):
            if stream:
                stream.close()

    def __enter__(self) -> GroundTruth:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _transforms(bag: Bag, problems: dict[str, int]) -> TransformTree:
    """Read the transforms of a recording.

    Raises:
        BagError: if there are none.
    """
    tree = TransformTree()
    topics = [name for name, topic in bag.topics.items() if topic.msgtype == TF]
    if not topics:
        raise BagError(
            f'recording {bag.path} has no transforms (/tf, /tf_static), which its '
            'ground truth needs: give --lidar-pose, or record them too'
        )
    for message in _readable(bag, topics, problems):
        try:
            tree.add(bag.decode(message), static=message.topic.endswith('static'))
        except BagError as error:
            count_problem(problems, str(error))
    return tree


def _frame_track(
    bag: Bag, tree: TransformTree, image: str, frames: str, problems: dict[str, int]
) -> PoseTrack:
    """Look up the transform between two frames, 'PARENT>CHILD', at the stamps of the images.

    Raises:
        BagError: if it is never known.
    """
    parent, _, child = frames.partition('>')
    poses = {}
    problem: LookupError | None = None
    for message in _readable(bag, [image], problems):
        stamp = header_stamp(message.data)
        try:
            poses[stamp] = tree.lookup(parent, child, stamp)
        except LookupError as error:
            problem = error
    if not poses:
        raise BagError(
            f'recording {bag.path} never has a transform {parent}>{child} at the time '
            f'of an image: {problem}'
        )
    return PoseTrack(poses)


def _topic_track(bag: Bag, topic: str, problems: dict[str, int]) -> PoseTrack:
    """Read the poses of a topic."""
    poses = {}
    for message in _readable(bag, [topic], problems):
        try:
            poses[header_stamp(message.data)] = decode_pose(bag.decode(message))
        except (ValueError, BagError) as error:
            count_problem(problems, f'true pose: {error}')
    return PoseTrack(poses)
