"""Messages of recordings: names of types, stamps, and depth, labels and poses decoded.

Needs the `rosbags` library only where messages are serialised or deserialised.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from depth_ros.core.se3 import pose_from_list

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
ODOMETRY = 'nav_msgs/msg/Odometry'
POSE = 'geometry_msgs/msg/PoseStamped'
POSE_WITH_COVARIANCE = 'geometry_msgs/msg/PoseWithCovarianceStamped'
TF = 'tf2_msgs/msg/TFMessage'


ROS1_SUFFIXES = ('.bag', '.active')
"""Of ROS 1 bags; the second as long as one is recorded, and after a crash."""


class BagError(RuntimeError):
    """A recording cannot be used; the message names it, the cause and the remedy."""


def damaged(path: Path, error: object) -> str:
    """Say that a recording is damaged and how to mend it; `error` says what is wrong."""
    if path.suffix in ROS1_SUFFIXES:
        remedy = f'mend it with `rosbag reindex {path}`'
    else:
        remedy = (
            'mend an .mcap file with `mcap recover FILE -o NEW`, a .db3 file with '
            '`sqlite3 FILE .recover | sqlite3 NEW`, then `ros2 bag reindex` its folder'
        )
    return f'recording {path} is damaged or was cut short ({error}): {remedy}'


def message_types() -> Any:
    """Return a fresh `rosbags` typestore with the message types of ROS 2 Jazzy.

    Kilted has the same definitions of every type that this package reads or writes.

    Raises:
        BagError: `rosbags` or `lz4` is not installed.
    """
    try:
        import lz4.frame  # noqa: F401
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:  # folders of images need neither, and ROS 2 has neither
        raise BagError(
            f'recordings need Python packages that are not installed ({error}): pip '
            'install rosbags lz4'
        ) from error
    return get_typestore(Stores.ROS2_JAZZY)


class Message(NamedTuple):
    """One recorded message: topic, type name, log time in nanoseconds, serialised CDR bytes."""

    topic: str
    msgtype: str
    log_ns: int
    data: bytes


def header_stamp(data: bytes) -> int:
    """Return the stamp, in nanoseconds, of a serialised message that begins with a header."""
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, 4)
    return seconds * 10**9 + nanoseconds


def encoding_of(message: Any) -> str:
    """Return an Image's encoding; for a CompressedImage that of its depth, or jpeg or png."""
    if hasattr(message, 'encoding'):
        return str(message.encoding)
    if 'compressedDepth' in message.format:
        return str(message.format.partition(';')[0].strip())
    return 'png' if bytes(message.data[:4]) == b'\x89PNG' else 'jpeg'


def decode_depth(message: Any) -> np.ndarray:
    """Return a depth Image or compressedDepth CompressedImage as float32 (H, W).

    Metres along the optical axis, NaN = invalid (REP 118).

    Raises:
        ValueError: The encoding is not supported or the data is damaged.
    """
    encoding = encoding_of(message)
    if encoding not in ('32FC1', '16UC1'):
        raise ValueError(f'depth encoding {encoding!r} is not supported: use 32FC1 or 16UC1')
    if not hasattr(message, 'format'):
        depth = _pixels(message, np.float32 if encoding == '32FC1' else np.uint16)
    else:
        # 12 bytes: format enumeration, then the two quantisation parameters; then the png.
        depth = _imdecode(message.data[12:])
        if depth.dtype != np.uint16 or depth.ndim != 2:
            raise ValueError(
                f'compressed depth is {depth.dtype} {depth.shape} pixels, not uint16 '
                '(H, W): publish compressedDepth'
            )
        scale, offset = struct.unpack_from('<ff', message.data, 4)
        if encoding == '32FC1':
            coded = depth.astype(np.float32)
            with np.errstate(divide='ignore'):
                return np.where(coded > 0, scale / (coded - offset), np.nan).astype(np.float32)
    if encoding == '16UC1':
        return np.where(depth > 0, depth * np.float32(1e-3), np.float32(np.nan))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)


def decode_labels(message: Any) -> np.ndarray:
    """Return a mono8 Image or png CompressedImage of class ids as uint8 (H, W).

    Raises:
        ValueError: The encoding is not supported or the data is damaged.
    """
    if hasattr(message, 'format'):
        labels = _imdecode(message.data)
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise ValueError(f'labels are {labels.dtype} {labels.shape} pixels: publish mono8')
        return labels
    if message.encoding not in ('mono8', '8UC1'):
        raise ValueError(f'labels encoding {message.encoding!r} is not supported: publish mono8')
    return _pixels(message, np.uint8)


def decode_pose(message: Any) -> np.ndarray:
    """Return the pose of an Odometry, PoseStamped or PoseWithCovarianceStamped as float64 (4, 4).

    T_parent_child in metres, the parent being the header's frame.

    Raises:
        ValueError: A number is not finite or the quaternion has no direction.
    """
    pose = getattr(message.pose, 'pose', message.pose)  # some wrap it together with a covariance
    place, turn = pose.position, pose.orientation
    return pose_from_list((place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w))


def _imdecode(data: np.ndarray) -> np.ndarray:
    data = np.asarray(data, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise ValueError(f'compressed image of {data.size} bytes cannot be decoded as png')
    return image


def _pixels(message: Any, dtype: type[np.generic]) -> np.ndarray:
    """Return the pixels (H, W) of a one-channel Image, whatever its step and byte order."""
    kind = np.dtype(dtype).newbyteorder('>' if message.is_bigendian else '<')
    height, width, step = message.height, message.width, message.step
    if not height or not width or step < width * kind.itemsize or len(message.data) < step * height:
        raise ValueError(
            f'image of {width}x{height} {message.encoding} with step {step} has '
            f'{len(message.data)} bytes: check what publishes it'
        )
    return np.ndarray((height, width), kind, message.data, strides=(step, kind.itemsize))
