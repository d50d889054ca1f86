"""Messages of recordings, as rosbags makes them, and what they hold."""

import cv2
import numpy as np

from depth_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    ODOMETRY,
    POSE,
    message_types,
)

TYPES = message_types().types


HEIGHT, WIDTH = 6, 8


def header(stamp_ns: int, frame: str = 'camera_optical_frame'):
    time = TYPES['builtin_interfaces/msg/Time'](stamp_ns // 10**9, stamp_ns % 10**9)
    return TYPES['std_msgs/msg/Header'](time, frame)


def image(pixels: np.ndarray, encoding: str, stamp_ns: int = 10**9, padding: int = 0):
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return TYPES[IMAGE](
        header(stamp_ns), *pixels.shape[:2], encoding, 0, padded.shape[1], padded.reshape(-1)
    )


def compressed(pixels: np.ndarray, suffix: str, form: str, lead: bytes = b''):
    data = lead + cv2.imencode(suffix, pixels)[1].tobytes()
    return TYPES[COMPRESSED_IMAGE](header(10**9), form, np.frombuffer(data, np.uint8))


def camera_info(stamp_ns: int = 10**9):
    k = np.array([5.0, 0, 4, 0, 5, 3, 0, 0, 1])
    p = np.array([5.0, 0, 4, 0, 0, 5, 3, 0, 0, 0, 1, 0])
    roi = TYPES['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return TYPES[CAMERA_INFO](
        header(stamp_ns),
        HEIGHT,
        WIDTH,
        'plumb_bob',
        np.zeros(5),
        k,
        np.eye(3).ravel(),
        p,
        0,
        0,
        roi,
    )


def stamped(msgtype: str, quaternion: tuple = (0.0, 0.0, 0.6, 0.8), x: float = 1.0):
    """A message of one of the types that have a pose, 1 2 3 m from its parent's origin."""
    geometry = 'geometry_msgs/msg/'
    pose = TYPES[geometry + 'Pose'](
        TYPES[geometry + 'Point'](x, 2.0, 3.0), TYPES[geometry + 'Quaternion'](*quaternion)
    )
    if msgtype == POSE:
        return TYPES[msgtype](header(1), pose)
    message = odometry()
    message.pose.pose = pose
    return message if msgtype == ODOMETRY else TYPES[msgtype](header(1), message.pose)


def odometry(stamp_ns: int = 10**9):
    geometry = 'geometry_msgs/msg/'
    pose = TYPES[geometry + 'Pose'](
        TYPES[geometry + 'Point'](1.0, 2.0, 3.0), TYPES[geometry + 'Quaternion'](0.0, 0.0, 0.0, 1.0)
    )
    still = TYPES[geometry + 'Vector3'](0.0, 0.0, 0.0)
    return TYPES[ODOMETRY](
        header(stamp_ns, 'odom'),
        'base_link',
        TYPES[geometry + 'PoseWithCovariance'](pose, np.eye(6).ravel()),
        TYPES[geometry + 'TwistWithCovariance'](
            TYPES[geometry + 'Twist'](still, still), np.eye(6).ravel()
        ),
    )


RGB = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)


DEPTH = np.linspace(1, 60, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


LABELS = (np.arange(HEIGHT * WIDTH, dtype=np.uint8) % 19).reshape(HEIGHT, WIDTH)
