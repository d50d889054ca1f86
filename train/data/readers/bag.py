"""Recorded bags of a camera, raw or rectified, with odometry, GPS and depth where recorded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from depth_ros.bags.messages import ODOMETRY, BagError, Message, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams, find_streams
from depth_ros.core.camera import CameraError, intrinsics_from_info, scale_intrinsics
from depth_ros.core.images import ImageError, decode_depth, decode_rgb
from train.data.readers import Read, Recording
from train.data.sequences import DataError

SUFFIXES = ('.bag', '.mcap', '.db3')
MAX_GAP = 0.5  # seconds between odometry messages over which poses are interpolated
MAX_FIX_GAP = 2.5  # seconds between GPS messages, which often come once a second
BASELINE = 0.5  # seconds before and after a frame over which GPS positions give its speed
MAX_LAG = 0.02  # seconds between a picture and its depth
MAX_JUMP = 1.0  # seconds by which stamps may be out of order
MAX_PAUSE = 0.5  # seconds without a picture after which the next is no neighbour
EARTH_RADIUS = 6371008.8  # metres, mean

FIX = 'sensor_msgs/msg/NavSatFix'
VELOCITIES = ('geometry_msgs/msg/TwistStamped', 'geometry_msgs/msg/TwistWithCovarianceStamped')
FISHEYE = ('equidistant', 'fisheye')
PINHOLE = ('', 'plumb_bob', 'rational_polynomial', 'thin_prism')


@dataclass(frozen=True)
class Topics:
    """Names of the topics to read; ``None``: found by type and name.

    Attributes:
        image: Image or CompressedImage.
        camera_info: its CameraInfo.
        odom: nav_msgs/Odometry as measured; if not given, the only one that does not call itself
            ground truth.
        depth: depth from the camera's view, Image 32FC1 (m) or 16UC1 (mm) or compressedDepth; if
            not given, one that calls itself ground truth.
        gps: NavSatFix, TwistStamped or TwistWithCovarianceStamped; if not given, the only one of
            GPS, velocities before positions.
    """

    image: str | None = None
    camera_info: str | None = None
    odom: str | None = None
    depth: str | None = None
    gps: str | None = None


def find_bags(path: Path) -> list[Path]:
    """The recordings at ``path``: itself, or those in a folder of several."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    if (path / 'metadata.yaml').is_file() or any(
        p for s in ('.mcap', '.db3') for p in path.glob(f'*{s}')
    ):
        return [path]
    return sorted([*path.glob('*.bag'), *(p.parent for p in path.glob('*/metadata.yaml'))])


def bag_name(path: Path) -> str:
    """What a recording is called."""
    path = path.resolve()
    return path.stem if path.is_file() else path.name


def bag_recording(
    path: Path, topics: Topics, name: str | None = None, with_depth: bool = True
) -> Recording:
    """One camera of a recording.

    Pictures, and depth, are rectified by the camera_info's K, D, R and P unless all of D is zero
    or the topic's name says that they are already ("rect").

    Args:
        path: the recording.
        topics: which to read.
        name: of the sequence; if not given, the recording's.
        with_depth: whether depth is wanted.

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
            info = bag.first(streams.camera_info)
            size, encoding = _first_picture(bag, streams.image)
            recorded = np.array([header_stamp(m.data) for m in bag.messages([streams.image])])
            stamps, warnings = _in_order_of_time(recorded)
            if len(stamps) < 2:
                raise DataError(
                    f"the {len(recorded)} images on {streams.image} of '{path}' have the same "
                    'stamp, or there is but one: set header.stamp in the camera driver'
                )
            odom, odometry = _odometry(bag, topics.odom, stamps)
            gps, speeds = _speeds(bag, topics.gps, stamps)
            depths = _depth_stamps(bag, streams.depth, stamps)
            if streams.depth is not None:
                _check_depth(bag, streams.depth)
            camera = intrinsics_from_info(info, *size)
            lens = _Lens(info, size)
            damage = bag.damage
    except (BagError, CameraError) as error:
        raise DataError(
            f"'{path}': {error}" if isinstance(error, CameraError) else str(error)
        ) from error
    if damage:
        warnings.append(f'the recording is damaged: {damage}')
    if odom is None and gps is None:
        warnings.append(
            'no wheel odometry and no GPS: metric scale needs the height of the camera '
            '(--camera-height of fit or export)'
        )
    if streams.depth is not None and not depths:
        warnings.append(f'no depth on {streams.depth} within {MAX_LAG * 1e3:g} ms of an image')
    seconds = (stamps - stamps[0]) * 1e-9
    steps = np.diff(seconds)
    pauses = steps > max(MAX_PAUSE, 3 * np.median(steps))
    if pauses.any():
        warnings.append(f'{pauses.sum()} pauses without images, the longest {steps.max():.1f} s')

    facts = {
        'images': f'{streams.image} ({encoding}, {size[0]}x{size[1]})',
        'calibration': streams.camera_info,
        'rectification': lens.describe(streams.image),
        'duration': f'{seconds[-1]:.1f} s',
        'rate': f'{1 / np.median(steps):.1f} Hz',
        'odometry': 'none'
        if odom is None
        else f'{odom}, of {100 * np.isfinite(odometry[:, 0, 0]).mean():.0f} % of the images',
        'GPS': 'none'
        if gps is None
        else f'{gps}, of {100 * np.isfinite(speeds).mean():.0f} % of the images',
        'depth': 'none'
        if streams.depth is None
        else f'{streams.depth}, of {100 * len(depths) / len(stamps):.0f} % of the images',
    }
    frames = _Frames(path, streams, size, lens, {int(s): i for i, s in enumerate(stamps)}, depths)
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    return Recording(
        name or bag_name(path),
        [f'{i:06d}' for i in range(len(stamps))],
        size,
        matrix,
        frames.pictures,
        stamps * 1e-9,
        odometry=odometry,
        speeds=speeds,
        numbers=np.arange(len(stamps)) + np.concatenate([[0], np.cumsum(pauses)]),
        depth=frames.depth if depths else lambda _: None,
        facts=facts,
        warnings=tuple(warnings),
    )


class _Frames:
    """Reads the pictures of a recording in order, and each one's depth beside it."""

    def __init__(
        self,
        path: Path,
        streams: Streams,
        size: tuple[int, int],
        lens: _Lens,
        order: dict[int, int],
        depths: dict[int, int],
    ) -> None:
        """Take the index of each image's stamp, and the stamp of the depth of each index."""
        self._path, self._streams, self._size, self._lens = path, streams, size, lens
        self._order, self._depths = order, depths
        self._found: dict[int, Any] = {}  # depth messages by their frame, until asked for

    def pictures(self, wanted: Collection[int]) -> Iterator[tuple[int, Read]]:
        """As :class:`Recording`'s."""
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
        return self._lens.rectify(image, self._streams.image, cv2.INTER_LINEAR)

    def depth(self, index: int) -> np.ndarray | None:
        """As :class:`Recording`'s."""
        message = self._found.pop(index, None)
        if message is None:
            return None
        try:
            depth = decode_depth(message)
        except ValueError as error:
            raise DataError(f'depth of image {index} on {self._streams.depth}: {error}') from error
        depth = np.nan_to_num(depth, nan=0.0)
        return self._lens.rectify(depth, self._streams.depth, cv2.INTER_NEAREST)


def _decoded(bag: Bag, message: Message) -> Any:
    """The message's fields, or ``None`` if it is damaged."""
    try:
        return bag.decode(message)
    except BagError:
        return None


def _first_picture(bag: Bag, topic: str) -> tuple[tuple[int, int], str]:
    """Width and height of the first picture that can be decoded, and its encoding."""
    problem = 'there is none'
    for message in bag.messages([topic]):
        try:
            message = bag.decode(message)
            return (
                decode_rgb(message).shape[1::-1],
                getattr(message, 'encoding', None) or message.format,
            )
        except (BagError, ImageError) as error:
            problem = str(error)
    raise DataError(f"not one image on {topic} of '{bag.path}' can be read; the last: {problem}")


def _in_order_of_time(recorded: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Each stamp (ns) once, growing, and remarks.

    What a recording has twice is the same picture. Stamps that are a little out of order are
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


class _Lens:
    """Makes the picture that the camera_info's P describes.

    Raises:
        DataError: if camera_info has distortion of an unknown kind, or no K.
    """

    def __init__(self, info: Any, size: tuple[int, int]) -> None:
        self._info, self._size = info, size
        self.model = info.distortion_model
        # An equidistant lens bends without any coefficient, too.
        self.bends = bool(np.any(info.d)) or self.model in FISHEYE
        if self.bends and self.model not in FISHEYE + PINHOLE:
            raise DataError(
                f"camera_info has the distortion model '{self.model}', which is not "
                f'supported: calibrate as one of {", ".join(PINHOLE[1:] + FISHEYE)}, '
                'or record rectified images'
            )
        if self.bends and info.k[0] <= 0:
            raise DataError('camera_info has distortion but no K: calibrate the camera')
        self.maps = cache(self.maps)  # a recording has one size, or two with depth

    def applies(self, topic: str) -> bool:
        """Whether the pictures on ``topic`` are to be rectified."""
        return self.bends and not re.search(r'(^|[/_])rect', topic)

    def describe(self, topic: str) -> str:
        """What is done with the pictures on ``topic``."""
        if self.applies(topic):
            return f'rectified here ({self.model or "plumb_bob"})'
        return 'recorded rectified' if self.bends else 'none needed: no distortion'

    def rectify(self, image: np.ndarray, topic: str, interpolation: int) -> np.ndarray:
        """A picture on ``topic`` rectified, if it is not yet; (h, w, ...), of any resolution."""
        if not self.applies(topic):
            return image
        return cv2.remap(image, *self.maps(*image.shape[1::-1]), interpolation)

    def maps(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """What cv2.remap needs for pictures of this size."""
        info = self._info
        turn = np.reshape(info.r, (3, 3)) if np.any(info.r) else np.eye(3)
        matrix = self._at(np.reshape(info.k, (3, 3)), width, height)
        target = np.reshape(info.p, (3, 4))[:, :3]
        target = self._at(target, width, height) if target[0, 0] > 0 else matrix
        lens = cv2.fisheye if self.model in FISHEYE else cv2
        distortion = np.array(info.d if len(info.d) else [0.0] * 4, float)
        return lens.initUndistortRectifyMap(
            matrix, distortion, turn, target, (width, height), cv2.CV_32FC1
        )

    def _at(self, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
        """A matrix of camera_info for the region of interest at another resolution."""
        matrix, roi = np.array(matrix, float), self._info.roi
        cut = roi.width > 0 and roi.height > 0
        if cut:
            matrix[:2, 2] -= roi.x_offset, roi.y_offset
        whole = (roi.width, roi.height) if cut else (self._info.width, self._info.height)
        return scale_intrinsics(matrix, width / whole[0], height / whole[1])


# What was measured beside the pictures


def _choose(
    bag: Bag, given: str | None, found: list[str], types: Collection[str], option: str
) -> str | None:
    """The topic that was given, or else the only one that was found."""
    if given is not None:
        if given not in bag.topics or bag.topics[given].msgtype not in types:
            raise DataError(f"recording '{bag.path}' has no {' or '.join(types)} on {given}")
        return given
    if len(found) > 1:
        raise DataError(
            f"recording '{bag.path}' has several topics for --{option}: choose one of "
            f'{", ".join(sorted(found))}'
        )
    return found[0] if found else None


def _odometry(
    bag: Bag, topic: str | None, stamps: np.ndarray
) -> tuple[str | None, np.ndarray | None]:
    """Topic, and body poses (N, 4, 4) at ``stamps`` (ns), NaN where the odometry has gaps."""
    found = [
        name
        for name, t in bag.topics.items()
        if t.msgtype == ODOMETRY
        and t.count
        and not re.search(r'ground_?truth|(^|[/_])gt([/_]|$)', name)
    ]
    topic = _choose(bag, topic, found, [ODOMETRY], 'odom')
    if topic is None:
        return None, None
    measured = {header_stamp(m.data): bag.decode(m).pose.pose for m in bag.messages([topic])}
    measured = {t: p for t, p in measured.items() if _is_pose(p)}
    if len(measured) < 2:
        return None, None
    times = np.array(sorted(measured))
    poses = [measured[t] for t in times]
    positions = np.array([(p.position.x, p.position.y, p.position.z) for p in poses])
    turns = Rotation.from_quat(
        [(p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w) for p in poses]
    )
    known = _covered(times, stamps, MAX_GAP)
    result = np.full((len(stamps), 4, 4), np.nan)
    at = stamps[known] - times[0]
    result[known] = np.eye(4)
    result[known, :3, :3] = Slerp(times - times[0], turns)(at).as_matrix()
    result[known, :3, 3] = np.stack([np.interp(at, times - times[0], p) for p in positions.T], 1)
    return topic, result


def _is_pose(pose: Any) -> bool:
    """Whether it was filled in: some publish zeros, or NaN, before they know."""
    place, turn = pose.position, pose.orientation
    length = np.linalg.norm([turn.x, turn.y, turn.z, turn.w])
    return bool(np.isfinite([place.x, place.y, place.z]).all() and 0.5 < length < 2)


def _speeds(
    bag: Bag, topic: str | None, stamps: np.ndarray
) -> tuple[str | None, np.ndarray | None]:
    """Topic, and speeds (N,) in m/s by GPS at ``stamps`` (ns), NaN where it has gaps."""
    fixes = [n for n, t in bag.topics.items() if t.msgtype == FIX and t.count]
    # Many a TwistStamped is a command, not a measurement.
    velocities = [
        n
        for n, t in bag.topics.items()
        if t.msgtype in VELOCITIES and t.count and re.search(r'gps|gnss|navsat|fix', n)
    ]
    topic = _choose(bag, topic, velocities or fixes, [FIX, *VELOCITIES], 'gps')
    if topic is None:
        return None, None
    messages = {header_stamp(m.data): bag.decode(m) for m in bag.messages([topic])}
    if bag.topics[topic].msgtype == FIX:
        messages = {
            t: m
            for t, m in messages.items()
            if m.status.status >= 0 and np.isfinite([m.latitude, m.longitude]).all()
        }
    if len(messages) < 2:
        return None, None
    times = np.array(sorted(messages))
    known = _covered(times, stamps, MAX_FIX_GAP)
    speeds = np.full(len(stamps), np.nan)
    seconds, at = (times - times[0]) * 1e-9, (stamps[known] - times[0]) * 1e-9
    if bag.topics[topic].msgtype == FIX:
        latitude, longitude = np.radians(
            [[messages[t].latitude, messages[t].longitude] for t in times]
        ).T
        north = EARTH_RADIUS * (latitude - latitude[0])
        east = EARTH_RADIUS * np.cos(latitude[0]) * (np.unwrap(longitude) - longitude[0])
        # Over a second: what a position is off by, divided by a frame's time, would be a lot.
        before, after = (at - BASELINE).clip(0), (at + BASELINE).clip(max=seconds[-1])
        moved = [
            np.interp(after, seconds, x) - np.interp(before, seconds, x) for x in (north, east)
        ]
        speeds[known] = np.hypot(*moved) / (after - before)
    else:
        linear = [getattr(messages[t].twist, 'twist', messages[t].twist).linear for t in times]
        speeds[known] = np.interp(at, seconds, [np.hypot(np.hypot(v.x, v.y), v.z) for v in linear])
    return topic, speeds


def _covered(times: np.ndarray, stamps: np.ndarray, gap: float) -> np.ndarray:
    """Which ``stamps`` lie between ``times`` that are at most ``gap`` seconds apart (all ns)."""
    after = np.searchsorted(times, stamps).clip(1, len(times) - 1)
    return (
        (stamps >= times[0]) & (stamps <= times[-1]) & (times[after] - times[after - 1] < gap * 1e9)
    )


def _depth_stamps(bag: Bag, topic: str | None, stamps: np.ndarray) -> dict[int, int]:
    """Stamp of the depth of each frame that has one, by the frame's index; each only once."""
    if topic is None:
        return {}
    found: dict[int, tuple[int, int]] = {}
    for stamp in sorted({header_stamp(m.data) for m in bag.messages([topic])}):
        index = int(np.abs(stamps - stamp).argmin())
        lag = abs(int(stamps[index]) - stamp)
        if lag <= MAX_LAG * 1e9 and (index not in found or lag < found[index][0]):
            found[index] = lag, stamp
    return {index: stamp for index, (_, stamp) in found.items()}


def _check_depth(bag: Bag, topic: str) -> None:
    """Tell a topic that is no depth at all, before each of its messages is one damaged frame."""
    try:
        decode_depth(bag.first(topic))
    except ValueError as error:
        raise DataError(f"{topic} of '{bag.path}' is no depth: {error}") from error
