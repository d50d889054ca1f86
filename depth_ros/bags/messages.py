"""Messages of recordings: names of their types, stamps, poses.

Needs the `rosbags` library only where messages are serialised or deserialised.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from depth_ros.core.se3 import pose_from_list

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
ODOMETRY = 'nav_msgs/msg/Odometry'
POSE = 'geometry_msgs/msg/PoseStamped'
POSE_WITH_COVARIANCE = 'geometry_msgs/msg/PoseWithCovarianceStamped'
TWIST = 'geometry_msgs/msg/TwistStamped'
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
        BagError: if `rosbags` or `lz4` is not installed.
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


def deserialize(message: Message) -> Any:
    """Deserialise a message of a type that ROS 2 itself defines.

    Raises:
        BagError: if its bytes are no such message, or `rosbags` or `lz4` is not installed.
    """
    try:
        return _known_types().deserialize_cdr(message.data, message.msgtype)
    except BagError:
        raise
    except Exception as error:  # whatever the bytes made of it
        raise BagError(f'the message is no {message.msgtype}: {error}') from error


_known_types = cache(message_types)


def header_stamp(data: bytes) -> int:
    """Return the stamp, in nanoseconds, of a serialised message that begins with a header."""
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, 4)
    return seconds * 10**9 + nanoseconds


def header_frame(data: bytes) -> str:
    """Return the frame_id of a serialised message that begins with a header; '' if it has none."""
    order = '<' if data[1] & 1 else '>'
    (length,) = struct.unpack_from(f'{order}I', data, 12)
    return bytes(data[16 : 16 + max(length - 1, 0)]).decode(errors='replace')


def decode_pose(message: Any) -> np.ndarray:
    """Return the pose of an Odometry, PoseStamped or PoseWithCovarianceStamped as float64 (4, 4).

    T_parent_child in metres, the parent being the header's frame.

    Raises:
        ValueError: if a number is not finite or the quaternion has no direction.
    """
    pose = getattr(message.pose, 'pose', message.pose)  # some wrap it together with a covariance
    place, turn = pose.position, pose.orientation
    return pose_from_list((place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w))
