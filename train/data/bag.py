"""A rosbag2 recording of a sequence, with the topics that the nodes and the demo know."""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, ODOMETRY
from depth_ros.bags.writer import BagWriter
from depth_ros.core.labels import UNLABELED
from depth_ros.core.pictures import JPEG
from depth_ros.core.se3 import (
    OPTICAL_IN_BASE,
    inverse,
    pose_from_list,
    quaternion_from_rotation,
    vector_from_rotation,
)
from train.data.pictures import common_size
from train.data.sequences import (
    DataError,
    Sequence,
    check_camera,
    read_map,
    read_picture,
)

START = 1_000_000_000
"""Seconds. Times before that (September 2001) are not of the clock but of the recording, and are
counted from there: ROS takes stamp zero for "no time"."""

CAMERA_FRAME, ODOM_FRAME, BASE_FRAME = 'camera_optical_frame', 'odom', 'base_link'
BASE_CAMERA = pose_from_list(OPTICAL_IN_BASE)  # T_base_camera
VARIANCE = 1e-6  # of ground truth, m^2 and rad^2: small, but never zero, which means unknown
CLASSES = 19
GROUND_TRUTH = ('poses', 'depth', 'semantics')


def image_stamps(sequence: Sequence, rate: float | None = None) -> list[int]:
    """Stamp of each image in nanoseconds, from times.txt or ``rate`` images a second (or 10).

    Raises:
        DataError: if the times do not grow.
    """
    times = sequence.times
    if rate is not None or times is None:
        times = np.arange(len(sequence.images)) / (rate or 10.0)
    elif not (np.diff(times) > 0).all():
        row = int(np.argmin(np.diff(times) > 0)) + 2
        raise DataError(
            f"'{sequence.folder / 'times.txt'}', row {row}: times must grow; mend it or give --rate"
        )
    start = START if times[0] < START else 0
    # In whole nanoseconds before adding: a double of this size has steps of 0.1 microseconds.
    return [start * 10**9 + round(float(t) * 1e9) for t in times]


def write_bag(
    sequence: Sequence,
    stamps: list[int],
    out: Path,
    storage: str = 'mcap',
    raw: bool = False,
    jpeg_quality: int = 95,
    without: Collection[str] = (),
) -> dict[str, int]:
    """Write a recording, which appears at its path only when it is complete.

    Args:
        sequence: what to record.
        stamps: one for each image, nanoseconds, growing.
        out: folder of the recording; a recording that is there is replaced.
        storage: 'mcap' or 'sqlite3'.
        raw: record sensor_msgs/Image instead of CompressedImage with JPEG.
        jpeg_quality: of images that are not JPEG files already.
        without: which of the folder's GROUND_TRUTH to leave out.

    Returns:
        Number of messages by topic.

    Raises:
        DataError: if an image, depth map or label image is damaged or of another size.
    """
    counts: dict[str, int] = {}
    out = Path(out)
    with_depth = 'depth' not in without
    metres = with_depth and _needs_metres(sequence)
    with BagWriter(out, storage, compress=storage == 'mcap', overwrite=True) as bag:
        make = _Messages(bag.types.types, _size(sequence), sequence.intrinsics)

        def put(topic: str, msgtype: str, message: Any) -> None:
            bag.write(topic, msgtype, stamp, message)
            counts[topic] = counts.get(topic, 0) + 1

        motions = _motions(None if 'poses' in without else sequence.poses, stamps)
        for i, stamp in enumerate(tqdm(stamps, unit='image', desc=str(out), disable=None)):
            put('/camera/camera_info', CAMERA_INFO, make.camera_info(stamp))
            if raw:
                put('/camera/image_rect', IMAGE, make.image(stamp, sequence.images[i]))
            else:
                put(
                    '/camera/image_rect/compressed',
                    COMPRESSED_IMAGE,
                    make.jpeg(stamp, sequence.images[i], jpeg_quality),
                )
            if with_depth and (path := sequence.depth_path(i)).exists():
                put('/ground_truth/depth/camera_info', CAMERA_INFO, make.camera_info(stamp))
                topic, scale = '/ground_truth/depth/image_rect', sequence.depth_scale
                if metres:
                    put(topic, IMAGE, make.metres(stamp, path, scale))
                else:
                    millimetres = make.millimetres(stamp, path, scale)
                    put(f'{topic}/compressedDepth', COMPRESSED_IMAGE, millimetres)
            if 'semantics' not in without and sequence.semantics_path(i).exists():
                put(
                    '/ground_truth/semantics/labels/compressed',
                    COMPRESSED_IMAGE,
                    make.labels(stamp, sequence.semantics_path(i)),
                )
            if motions:
                put('/ground_truth/odom', ODOMETRY, make.odometry(stamp, *motions[i]))
    return counts


def _size(sequence: Sequence) -> tuple[int, int]:
    """Width and height of most images, which the intrinsics must fit."""
    size = common_size(sequence.images)
    check_camera(sequence.intrinsics, size, str(sequence.folder), square=False)
    return size


def _needs_metres(sequence: Sequence) -> bool:
    """Tell whether millimetres of 16 bits cannot hold some true depth.

    That is depth beyond 65.535 m, and depth that rounding to millimetres changes by over 0.1 %.
    """
    scale = sequence.depth_scale
    if scale == 1e-3:
        return False
    for index in range(len(sequence.images)):
        path = sequence.depth_path(index)
        if path.exists() and (known := (values := read_map(path)) > 0).any():
            farthest, nearest = values.max() * scale, values[known].min() * scale
            if round(farthest * 1e3) >= 2**16 or (nearest < 0.5 and scale < 1e-3):
                return True
    return False


def _motions(poses: np.ndarray | None, stamps: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The body's motion of camera-to-world poses (N, 4, 4) whose world may have any axes.

    Returns:
        For each image T_odom_base (4, 4), where odom is base_link at the first image, and the
        twist (6,) in base_link, m/s and rad/s: the mean since the image before.
    """
    if poses is None:
        return []
    first = inverse(poses[0])
    bodies = [BASE_CAMERA @ first @ pose @ inverse(BASE_CAMERA) for pose in poses]
    twists = []
    for i in range(1, len(bodies)):
        step = inverse(bodies[i - 1]) @ bodies[i]
        seconds = (stamps[i] - stamps[i - 1]) / 1e9
        moved = np.concatenate([step[:3, 3], vector_from_rotation(step[:3, :3])])
        twists.append(moved / seconds)
    twists.insert(0, twists[0] if twists else np.zeros(6))
    return list(zip(bodies, twists, strict=True))


class _Messages:
    """Makes the messages of one camera of ``size`` (width, height) pixels."""

    def __init__(
        self, types: dict[str, Any], size: tuple[int, int], intrinsics: np.ndarray
    ) -> None:
        self._types, self._size, self._intrinsics = types, size, intrinsics

    def _make(self, name: str, *fields: Any) -> Any:
        return self._types[name](*fields)

    def _header(self, stamp: int, frame: str) -> Any:
        time = self._make('builtin_interfaces/msg/Time', *divmod(stamp, 10**9))
        return self._make('std_msgs/msg/Header', time, frame)

    def _compressed(self, stamp: int, form: str, data: bytes) -> Any:
        return self._make(
            COMPRESSED_IMAGE, self._header(stamp, CAMERA_FRAME), form, np.frombuffer(data, np.uint8)
        )

    def _check_size(self, path: Path, size: tuple[int, int]) -> None:
        if size != self._size:
            raise DataError(
                f"'{path}' has {size[0]}x{size[1]} pixels, but the first image has "
                f'{self._size[0]}x{self._size[1]}: all must be of one size'
            )

    def camera_info(self, stamp: int) -> Any:
        """CameraInfo of a rectified camera."""
        (fx, _, cx), (_, fy, cy), _ = self._intrinsics
        roi = self._make('sensor_msgs/msg/RegionOfInterest', 0, 0, 0, 0, False)
        return self._make(
            CAMERA_INFO,
            self._header(stamp, CAMERA_FRAME),
            self._size[1],
            self._size[0],
            'plumb_bob',
            np.zeros(5),
            np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1.0]),
            np.eye(3).ravel(),
            np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1.0, 0]),
            0,
            0,
            roi,
        )

    def _pixels(self, path: Path) -> np.ndarray:
        """An image file as uint8 (H, W) or RGB (H, W, 3)."""
        pixels = read_picture(path, cv2.IMREAD_UNCHANGED)
        self._check_size(path, pixels.shape[1::-1])
        if pixels.dtype != np.uint8:
            raise DataError(f"image '{path}' has more than 8 bits a channel: convert it")
        if pixels.ndim == 2:
            return pixels
        return cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_BGR2RGB)

    def image(self, stamp: int, path: Path) -> Any:
        """Image, rgb8 or mono8."""
        pixels = self._pixels(path)
        height, width = pixels.shape[:2]
        return self._make(
            IMAGE,
            self._header(stamp, CAMERA_FRAME),
            height,
            width,
            'mono8' if pixels.ndim == 2 else 'rgb8',
            0,
            pixels[0].size,
            pixels.reshape(-1),
        )

    def jpeg(self, stamp: int, path: Path, quality: int) -> Any:
        """CompressedImage with the bytes of a JPEG file, or with the image as JPEG."""
        pixels, data = self._pixels(path), path.read_bytes()
        if not data.startswith(JPEG):
            bgr = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        encoding = 'mono8' if pixels.ndim == 2 else 'bgr8'
        return self._compressed(stamp, f'{encoding}; jpeg compressed {encoding}', data)

    def _map(self, path: Path, dtype: type[np.generic]) -> np.ndarray:
        """A one-channel png (H, W)."""
        values = read_picture(path, cv2.IMREAD_UNCHANGED)
        if values.ndim != 2 or values.dtype != dtype:
            raise DataError(
                f"'{path}' must be a png with one channel of {8 * np.dtype(dtype).itemsize} bits"
            )
        self._check_size(path, values.shape[::-1])
        return values

    @staticmethod
    def _png(values: np.ndarray) -> bytes:
        return cv2.imencode('.png', values, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()

    def millimetres(self, stamp: int, path: Path, scale: float) -> Any:
        """CompressedImage as compressed_depth_image_transport writes 16UC1, of values that are
        ``scale`` metres."""
        values = self._map(path, np.uint16)
        if scale != 1e-3:
            values = np.round(values * (1e3 * scale)).astype(np.uint16)
        # Its header: format (an enumeration) and two parameters of quantisation, for 32FC1 only.
        data = struct.pack('<iff', 0, 0.0, 0.0) + self._png(values)
        return self._compressed(stamp, '16UC1; compressedDepth png', data)

    def metres(self, stamp: int, path: Path, scale: float) -> Any:
        """Image 32FC1 of values that are ``scale`` metres; what is unknown becomes NaN."""
        values = self._map(path, np.uint16)
        depth = np.where(values > 0, values * np.float32(scale), np.float32(np.nan))
        depth = depth.astype('<f4')
        height, width = depth.shape
        return self._make(
            IMAGE,
            self._header(stamp, CAMERA_FRAME),
            height,
            width,
            '32FC1',
            0,
            depth[0].nbytes,
            depth.view(np.uint8).reshape(-1),
        )

    def labels(self, stamp: int, path: Path) -> Any:
        """CompressedImage with mono8 class ids."""
        labels = self._map(path, np.uint8)
        foreign = labels[(labels >= CLASSES) & (labels != UNLABELED)]
        if foreign.size:
            raise DataError(
                f"'{path}' has class id {foreign[0]}: expected Cityscapes trainIds, "
                f'0 to {CLASSES - 1} and {UNLABELED} = unlabelled'
            )
        return self._compressed(stamp, 'mono8; png compressed mono8', self._png(labels))

    def odometry(self, stamp: int, pose: np.ndarray, twist: np.ndarray) -> Any:
        """Odometry of base_link, which is at the camera with x forward, y left, z up."""
        vector = 'geometry_msgs/msg/Vector3'
        covariance = (VARIANCE * np.eye(6)).ravel()
        where = self._make(
            'geometry_msgs/msg/Pose',
            self._make('geometry_msgs/msg/Point', *pose[:3, 3]),
            self._make('geometry_msgs/msg/Quaternion', *quaternion_from_rotation(pose[:3, :3])),
        )
        speed = self._make(
            'geometry_msgs/msg/Twist',
            self._make(vector, *twist[:3]),
            self._make(vector, *twist[3:]),
        )
        return self._make(
            ODOMETRY,
            self._header(stamp, ODOM_FRAME),
            BASE_FRAME,
            self._make('geometry_msgs/msg/PoseWithCovariance', where, covariance),
            self._make('geometry_msgs/msg/TwistWithCovariance', speed, covariance),
        )
