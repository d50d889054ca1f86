"""Recorded bags of a camera, raw or rectified, with odometry, GPS and depth where recorded."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depth_ros.bags.files import is_recording, recording_name
from depth_ros.bags.messages import BagError, Message, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.recorded_camera import RecordedCamera
from depth_ros.bags.topics import Streams, find_streams
from depth_ros.core.camera import (
    CameraError,
    calibration,
    check_intrinsics,
    intrinsics_from_info,
)
from depth_ros.core.images import ImageError, decode_depth, decode_rgb, size_of
from depth_ros.core.rectification import SAID
from train.data.calibrations import calibrated
from train.data.kitti import DEPTH_SCALE
from train.data.measured import gps_speeds, odometry
from train.data.reader import Found, Option, Reader
from train.data.sequences import DataError
from train.data.source import Read, Source

LOOKED_AT = 100
"""Pictures of a recording, about, whose sizes decide about its size."""

MAX_LAG = 0.02
"""Seconds between a picture and its depth."""

MAX_JUMP = 1.0
"""Seconds by which stamps may be out of order."""

MAX_PAUSE = 0.5
"""Seconds without a picture after which the next is no neighbour."""


class BagReader(Reader):
    """Recordings of ROS 2 and ROS 1."""

    name = 'bag'
    summary = """ROS 2 or ROS 1 recording (a rosbag2 folder, .mcap, .db3, .bag), or a folder of
them, with an image and a camera_info topic; images are rectified"""
    note = 'topics, found by type and name where none is given'
    options = (
        Option('--image', '--image-topic', metavar='TOPIC', help='Image or CompressedImage'),
        Option('--camera-info', '--camera-info-topic', metavar='TOPIC', help='CameraInfo'),
        Option(
            '--odom',
            '--odom-topic',
            metavar='TOPIC',
            help='nav_msgs/Odometry as measured, for metric training',
        ),
        Option(
            '--gps',
            metavar='TOPIC',
            help='NavSatFix, TwistStamped or TwistWithCovarianceStamped, for metric training',
        ),
        Option(
            '--depth',
            metavar='TOPIC',
            help="depth from the camera's view, for evaluation: Image 32FC1 (m) or 16UC1 (mm), or "
            'compressedDepth',
        ),
        Option(
            '--rectified',
            choices=SAID,
            help='whether the images are rectified already: auto, which is to find out by the '
            "topic's name, D and the pictures (default); yes; no",
        ),
    )
    in_time = True

    def recognises(self, path: Path) -> bool:
        """Tell whether a path is a recording, or a folder of some."""
        return bool(find_bags(path))

    def find(self, paths: list[Path], args: argparse.Namespace) -> tuple[list[Found], list[str]]:
        """Return the recordings, unopened; the folder's name tells apart those of one name."""
        topics = Topics(args.image, args.camera_info, args.odom, args.depth, args.gps)
        bags = list(dict.fromkeys(bag for path in paths for bag in find_bags(path) or [path]))
        names = Counter(map(recording_name, bags))
        result = []
        for bag in bags:
            name = recording_name(bag)
            if names[name] > 1:
                name = f'{bag.resolve().parent.name}_{name}'
            read = partial(
                bag_source, bag, topics, name, 'depth' not in args.without, args.rectified or 'auto'
            )
            result.append(Found(name, bag, read))
        return result, []


@dataclass(frozen=True)
class Topics:
    """Names of the topics to read; None: found by type and name.

    Attributes:
        image: Image or CompressedImage.
        camera_info: Its CameraInfo.
        odom: nav_msgs/Odometry as measured; None: the only one that does not call itself ground
            truth.
        depth: Depth from the camera's view, Image 32FC1 (m) or 16UC1 (mm) or compressedDepth;
            None: one that calls itself ground truth.
        gps: NavSatFix, TwistStamped or TwistWithCovarianceStamped; None: the only one of GPS,
            velocities before positions.
    """

    image: str | None = None
    camera_info: str | None = None
    odom: str | None = None
    depth: str | None = None
    gps: str | None = None


def find_bags(path: Path) -> list[Path]:
    """Return the recordings at a path: itself, or those in a folder of several."""
    if is_recording(path):
        return [path]
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if not p.name.startswith('.') and is_recording(p))


def bag_source(
    path: Path,
    topics: Topics,
    name: str | None = None,
    with_depth: bool = True,
    rectified: str = 'auto',
) -> Source:
    """Read one camera of a recording.

    Pictures, and depth, are rectified by the camera_info's K, D, R and P unless they are already.
    A sequence has one calibration: pictures of another than most have are left out.

    Args:
        path: The recording.
        topics: Which to read.
        name: Of the sequence; None: the recording's.
        with_depth: Whether depth is wanted.
        rectified: Whether they are; see `RecordedCamera`.

    Raises:
        DataError: if the recording or a topic cannot be used.
    """
    try:
        with Bag(path) as bag:
            streams = find_streams(
                bag, image=topics.image, camera_info=topics.camera_info, depth=topics.depth
            )
            if not with_depth:
                streams = replace(streams, depth=None)
            recorded_camera = RecordedCamera(bag, streams, rectified)
            size, encoding = _picture_kind(bag, streams.image)
            found = calibrated(recorded_camera, size)
            recorded, info, lag = found.recorded, found.info, found.lag
            stamps, warnings = _in_order_of_time(recorded)
            warnings += [*recorded_camera.notes, *found.warnings]
            if len(stamps) < 2:
                raise DataError(
                    f"the {len(recorded)} images on {streams.image} of '{path}' have the same "
                    'stamp, or there is but one: set header.stamp in the camera driver'
                )
            moved = odometry(bag, topics.odom, stamps, lag)
            driven = gps_speeds(bag, topics.gps, stamps, lag)
            depths = _depth_stamps(bag, streams.depth, stamps)
            scale = 1e-3 if streams.depth is None else _depth_scale(bag, streams.depth)
            camera = intrinsics_from_info(info, *size)
            warnings += (*check_intrinsics(calibration(info)), *moved.remarks, *driven.remarks)
            damage, remarks = bag.damage, bag.remarks
    except CameraError as error:
        raise DataError(f"'{path}': {error}") from error
    except BagError as error:
        raise DataError(str(error)) from error
    warnings += remarks
    if damage:
        warnings.append(f'the recording is damaged: {damage}')
    if moved.topic is None and driven.topic is None:
        warnings.append(
            'no wheel odometry and no GPS: metric scale needs the height of the camera '
            '(--camera-height of fit or export)'
        )
    if streams.depth is not None and not depths:
        warnings.append(f'no depth on {streams.depth} within {MAX_LAG * 1e3:g} ms of an image')
    seconds = (stamps - stamps[0]) * 1e-9
    steps = np.diff(seconds)
    pauses = steps > max(MAX_PAUSE, 3 * np.median(steps))
    # Nor is it behind a picture that is left out.
    left_out = np.searchsorted(found.left_out, stamps)
    apart = pauses | (np.diff(left_out) > 0)
    if pauses.any():
        warnings.append(f'{pauses.sum()} pauses without images, the longest {steps.max():.1f} s')

    facts = {
        'images': f'{streams.image} ({encoding}, {size[0]}x{size[1]})',
        'calibration': streams.camera_info,
        'rectification': recorded_camera.describe(),
        'duration': f'{seconds[-1]:.1f} s',
        'rate': f'{1 / np.median(steps):.1f} Hz',
        'odometry': _coverage(moved.topic, moved.share),
        'GPS': _coverage(driven.topic, driven.share),
        'depth': _coverage(streams.depth, len(depths) / len(stamps)),
    }
    order = {int(stamp): index for index, stamp in enumerate(stamps)}

    def rectify(image: np.ndarray, topic: str, interpolation: int) -> np.ndarray:
        return recorded_camera.rectify(image, info, topic, interpolation)

    frames = _Frames(path, streams, size, rectify, order, depths)
    return Source(
        name or recording_name(path),
        [f'{i:06d}' for i in range(len(stamps))],
        size,
        camera.matrix,
        frames.pictures,
        stamps * 1e-9,
        odometry=moved.values,
        speeds=driven.values,
        numbers=np.arange(len(stamps)) + np.concatenate([[0], np.cumsum(apart)]),
        depth=frames.depth if depths else lambda _: None,
        depth_scale=scale,
        facts=facts,
        warnings=tuple(warnings),
    )


def _coverage(topic: str | None, share: float) -> str:
    """Say of which share of the images a topic knows something."""
    return 'none' if topic is None else f'{topic}, of {100 * share:.0f} % of the images'


class _Frames:
    """Reads the pictures of a recording in order, and each one's depth beside it.

    Args:
        path: The recording.
        streams: Its topics.
        size: Width and height of the pictures.
        rectify: Rectifies an image of a topic, with OpenCV's interpolation.
        order: Index of each image by its stamp.
        depths: Stamp of the depth of each index that has one.
    """

    def __init__(
        self,
        path: Path,
        streams: Streams,
        size: tuple[int, int],
        rectify: Callable[[np.ndarray, str, int], np.ndarray],
        order: dict[int, int],
        depths: dict[int, int],
    ) -> None:
        self._path, self._streams, self._size = path, streams, size
        self._rectify = rectify
        self._order, self._depths = order, depths
        self._found: dict[int, Any] = {}  # depth messages by their frame, until asked for

    def pictures(self, wanted: Collection[int]) -> Iterator[tuple[int, Read]]:
        """As `Source.pictures`."""
        topics = [
            t for t in (self._streams.image, self._streams.depth if self._depths else None) if t
        ]
        frame_of_depth = {self._depths[i]: i for i in wanted if i in self._depths}
        left, missing = set(wanted), set(frame_of_depth.values())
        waiting: dict[int, Any] = {}
        remaining = iter(wanted)
        following = next(remaining, None)
        with Bag(self._path) as bag:
            for message in bag.messages(topics):
                stamp = header_stamp(message.data)
                if message.topic == self._streams.image:
                    index = self._order.get(stamp)
                    if index not in left:  # of a stamp that is there twice, the first
                        continue
                    left.remove(index)
                    waiting[index] = _decoded(bag, message)
                elif (index := frame_of_depth.pop(stamp, None)) is not None:
                    self._found[index] = _decoded(bag, message)
                    missing.discard(index)
                while following in waiting and following not in missing:
                    yield following, partial(self._read, waiting.pop(following), following)
                    following = next(remaining, None)
                if following is None:
                    return
        while following is not None:  # what a damaged end took is said when it is read
            yield following, partial(self._read, waiting.pop(following, None), following)
            following = next(remaining, None)

    def _read(self, message: Any, index: int) -> np.ndarray:
        where = f'image {index} of {self._streams.image}'
        if message is None:
            raise DataError(f'{where} cannot be read: the recording is damaged there')
        try:
            image = cv2.cvtColor(decode_rgb(message), cv2.COLOR_RGB2BGR)
        except ImageError as error:
            self._found.pop(index, None)
            raise DataError(f'{where}: {error}') from error
        if image.shape[1::-1] != self._size:  # no frame of this sequence, which is said later
            return image
        return self._rectify(image, self._streams.image, cv2.INTER_LINEAR)

    def depth(self, index: int) -> np.ndarray | None:
        """As `Source.depth`."""
        message, topic = self._found.pop(index, None), self._streams.depth
        if message is None or topic is None:
            return None
        try:
            depth = decode_depth(message)
        except ImageError as error:
            raise DataError(f'depth of image {index} on {topic}: {error}') from error
        return self._rectify(np.nan_to_num(depth, nan=0.0), topic, cv2.INTER_NEAREST)


def _decoded(bag: Bag, message: Message) -> Any:
    """Return the message deserialised, or None if it is damaged."""
    try:
        return bag.decode(message)
    except BagError:
        return None


def _picture_kind(bag: Bag, topic: str) -> tuple[tuple[int, int], str]:
    """Return width and height that most pictures of a sample have, and the first one's encoding.

    Raises:
        DataError: if not one can be decoded.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    encoding, problem = '', 'there is none'
    every = max(1, bag.topics[topic].count // LOOKED_AT)
    for number, message in enumerate(bag.messages([topic])):
        if encoding and number % every:
            continue
        try:
            picture = bag.decode(message)
            if not encoding:
                decode_rgb(picture)
                encoding = getattr(picture, 'encoding', None) or picture.format
            sizes[size_of(picture)] += 1
        except (BagError, ImageError) as error:
            problem = str(error)
    if not encoding:
        raise DataError(
            f"not one image on {topic} of '{bag.path}' can be read; the last: {problem}"
        )
    return sizes.most_common(1)[0][0], encoding


def _in_order_of_time(recorded: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return each stamp (ns) once, growing, and remarks.

    Two pictures with one stamp are the same picture. Stamps that are a little out of order are
    sorted; those of a clock that was set back would mix two drives, and are left out.
    """
    latest = np.maximum.accumulate(recorded)
    usable = recorded >= latest - MAX_JUMP * 1e9
    stamps = np.unique(recorded[usable])
    warnings = []
    if not usable.all():
        back = (latest - recorded).max() * 1e-9
        warnings.append(
            f'{(~usable).sum()} images left out whose stamps go back by up to '
            f'{back:.1f} s: was the clock set, or the recording played twice?'
        )
    twice = usable.sum() - len(stamps)
    if twice:
        warnings.append(f'{twice} images have the stamp of another: left out')
    disordered = (np.diff(recorded[usable]) < 0).sum()
    if disordered:
        warnings.append(f'{disordered} images were recorded out of order: sorted by stamp')
    return stamps, warnings


def _depth_stamps(bag: Bag, topic: str | None, stamps: np.ndarray) -> dict[int, int]:
    """Return, by frame index, the stamp (ns) of the depth of each frame that has one."""
    if topic is None:
        return {}
    found: dict[int, tuple[int, int]] = {}
    for stamp in sorted({header_stamp(m.data) for m in bag.messages([topic])}):
        index = int(np.abs(stamps - stamp).argmin())
        lag = abs(int(stamps[index]) - stamp)
        if lag <= MAX_LAG * 1e9 and (index not in found or lag < found[index][0]):
            found[index] = lag, stamp
    return {index: stamp for index, (_, stamp) in found.items()}


def _depth_scale(bag: Bag, topic: str) -> float:
    """Return the unit of depth files, metres, that holds the farthest depth of a topic in 16 bits.

    A millimetre, which ends at 65 m; else KITTI's 1/256 m; else more.

    Raises:
        DataError: if the topic has no depth, which is said before each message is a damaged frame.
    """
    every = max(1, bag.topics[topic].count // LOOKED_AT)
    farthest = 0.0
    for number, message in enumerate(bag.messages([topic])):
        if number and number % every:
            continue
        try:
            depth = decode_depth(bag.decode(message))
        except BagError:
            continue
        except ImageError as error:
            if not number:
                raise DataError(f"{topic} of '{bag.path}' is no depth: {error}") from error
            continue
        farthest = max(farthest, float(np.nanmax(depth, initial=0.0)))
    for scale in (1e-3, DEPTH_SCALE):
        if farthest < 0.95 * scale * np.iinfo(np.uint16).max:  # others may be a little farther
            return scale
    return 1.5 * farthest / np.iinfo(np.uint16).max
