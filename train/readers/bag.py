"""rosbag2 recordings of a camera, raw or rectified, with odometry where it was recorded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.image import ImageError, message_to_cvimage
from scipy.spatial.transform import Rotation, Slerp

from depth_ros.bag import ODOMETRY, Bag, BagError, find_streams, header_stamp
from depth_ros.camera import intrinsics_from_info
from train.readers import Read, Recording
from train.sequences import DataError

MAX_GAP = 0.5  # seconds between odometry messages over which poses are interpolated


def bag_recording(path: Path, image_topic: str | None = None, info_topic: str | None = None,
                  odom_topic: str | None = None) -> Recording:
    """One camera of a rosbag2 recording.

    Pictures are rectified by the camera_info's K, D, R and P unless all of D is zero or the
    topic's name says that they are already ("rect").

    Args:
        path: the recording.
        image_topic, info_topic: found by type and name if not given.
        odom_topic: nav_msgs/Odometry as measured; if not given, the only one that does not call
            itself ground truth.

    Raises:
        DataError: if the recording or a topic cannot be used.
    """
    try:
        with Bag(path) as bag:
            streams = find_streams(bag, image=image_topic, camera_info=info_topic)
            info, first = bag.first(streams.camera_info), bag.first(streams.image)
            stamps = [header_stamp(m.data) for m in bag.messages([streams.image])]
            odometry = _odometry(bag, odom_topic, np.array(sorted(set(stamps))))
    except BagError as error:
        raise DataError(str(error)) from error
    if len(set(stamps)) < 2:
        raise DataError(f"the {len(stamps)} images on {streams.image} of '{path}' have the same "
                        'stamp, or there is but one: set header.stamp in the camera driver')
    height, width = _decode(first, streams.image, 0).shape[:2]
    camera = intrinsics_from_info(info, width, height)
    maps = None
    if np.any(info.d) and 'rect' not in streams.image:
        maps = _rectification(info, width, height)
    # Each stamp once, in the order of time; what a recording has twice is the same picture.
    order = {stamp: i for i, stamp in enumerate(sorted(set(stamps)))}

    def pictures(wanted: Collection[int]) -> Iterator[tuple[int, Read]]:
        left = set(wanted)
        waiting: dict[int, Read] = {}
        remaining = iter(wanted)
        following = next(remaining, None)
        with Bag(path) as bag:
            for message in bag.messages([streams.image]):
                index = order[header_stamp(message.data)]
                if index not in left:
                    continue
                left.remove(index)
                waiting[index] = partial(read, bag.decode(message), index)
                while following in waiting:
                    yield following, waiting.pop(following)
                    following = next(remaining, None)

    def read(message: Any, index: int) -> np.ndarray:
        image = _decode(message, streams.image, index)
        if maps is not None and image.shape[:2] == (height, width):
            image = cv2.remap(image, *maps, cv2.INTER_LINEAR)
        return image

    times = np.array(list(order)) * 1e-9
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    return Recording(path.stem, [f'{i:06d}' for i in range(len(order))], (width, height), matrix,
                     pictures, times, odometry=odometry)


def _decode(message: Any, topic: str, index: int) -> np.ndarray:
    """A message's picture, BGR (H, W, 3)."""
    try:
        image = message_to_cvimage(message, 'bgr8')
    except (ImageError, cv2.error, ValueError) as error:
        raise DataError(f'image {index} of {topic} cannot be decoded ({error})') from error
    if image is None or image.size == 0:
        raise DataError(f'image {index} of {topic} is damaged')
    return image


def _rectification(info: Any, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """What cv2.remap needs to make the image that the camera_info's P describes."""
    matrix, turn = np.reshape(info.k, (3, 3)), np.reshape(info.r, (3, 3))
    target = np.reshape(info.p, (3, 4))[:, :3]
    if (info.width, info.height) != (width, height):
        raise DataError(f'camera_info is for {info.width}x{info.height} pixels but the images have '
                        f'{width}x{height}: rectify them before recording')
    if matrix[0, 0] <= 0:
        raise DataError('camera_info has distortion but no K: calibrate the camera')
    if target[0, 0] <= 0:
        target = matrix
    if not np.any(turn):
        turn = np.eye(3)
    lens = cv2.fisheye if info.distortion_model in ('equidistant', 'fisheye') else cv2
    distortion = np.array(info.d, float)
    return lens.initUndistortRectifyMap(
        matrix, distortion, turn, target, (width, height), cv2.CV_16SC2)


def _odometry(bag: Bag, topic: str | None, stamps: np.ndarray) -> np.ndarray | None:
    """Body poses (N, 4, 4) at ``stamps`` (ns), NaN where the odometry has gaps."""
    if topic is None:
        found = [name for name, t in bag.topics.items() if t.msgtype == ODOMETRY and t.count
                 and not re.search(r'ground_?truth|(^|[/_])gt([/_]|$)', name)]
        if len(found) > 1:
            raise DataError(f"recording '{bag.path}' has several odometry topics: choose one of "
                            f'{", ".join(sorted(found))} with --odom-topic')
        if not found:
            return None
        topic = found[0]
    elif topic not in bag.topics or bag.topics[topic].msgtype != ODOMETRY:
        raise DataError(f"recording '{bag.path}' has no {ODOMETRY} on {topic}")
    measured = {header_stamp(m.data): bag.decode(m).pose.pose for m in bag.messages([topic])}
    if len(measured) < 2:
        return None
    times = np.array(sorted(measured))
    poses = [measured[t] for t in times]
    positions = np.array([(p.position.x, p.position.y, p.position.z) for p in poses])
    turns = Rotation.from_quat([(p.orientation.x, p.orientation.y, p.orientation.z,
                                 p.orientation.w) for p in poses])
    after = np.searchsorted(times, stamps).clip(1, len(times) - 1)
    known = ((stamps >= times[0]) & (stamps <= times[-1])
             & (times[after] - times[after - 1] < MAX_GAP * 1e9))
    result = np.full((len(stamps), 4, 4), np.nan)
    at = stamps[known] - times[0]
    result[known] = np.eye(4)
    result[known, :3, :3] = Slerp(times - times[0], turns)(at).as_matrix()
    result[known, :3, 3] = np.stack([np.interp(at, times - times[0], p) for p in positions.T], 1)
    return result
