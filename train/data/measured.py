"""Odometry and GPS speed of a recording at the stamps of its pictures."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from depth_ros.bags.messages import ODOMETRY, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import is_ground_truth
from train.data.sequences import DataError

MAX_GAP = 0.5
"""Seconds between odometry messages over which poses are interpolated."""

MAX_FIX_GAP = 2.5
"""Seconds between GPS messages, which often come once a second."""

BASELINE = 0.5
"""Seconds before and after a frame over which GPS positions give its speed."""

EARTH_RADIUS = 6371008.8  # metres, mean
FIX = 'sensor_msgs/msg/NavSatFix'
VELOCITIES = ('geometry_msgs/msg/TwistStamped', 'geometry_msgs/msg/TwistWithCovarianceStamped')


def _choose(
    bag: Bag, given: str | None, found: list[str], types: Collection[str], option: str
) -> str | None:
    """Return the topic that was given, or else the only one that was found."""
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


def odometry(
    bag: Bag, topic: str | None, stamps: np.ndarray
) -> tuple[str | None, np.ndarray | None]:
    """Return the poses of a robot's body as its odometry measured them.

    Args:
        bag: The recording.
        topic: Of nav_msgs/Odometry; None: the only one that does not call itself ground truth.
        stamps: (N,) when the poses are wanted, ns.

    Returns:
        The topic, and poses (N, 4, 4), NaN where the odometry has gaps; None for both where
        nothing was measured.

    Raises:
        DataError: There is no such topic, or more than one.
    """
    found = [
        name
        for name, t in bag.topics.items()
        if t.msgtype == ODOMETRY and t.count and not is_ground_truth(name)
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
    """Tell whether a pose is valid: some publishers send zeros or NaN until they know it."""
    place, turn = pose.position, pose.orientation
    length = np.linalg.norm([turn.x, turn.y, turn.z, turn.w])
    return bool(np.isfinite([place.x, place.y, place.z]).all() and 0.5 < length < 2)


def gps_speeds(
    bag: Bag, topic: str | None, stamps: np.ndarray
) -> tuple[str | None, np.ndarray | None]:
    """Return the speed of the camera as measured by GPS.

    Args:
        bag: The recording.
        topic: Of NavSatFix, TwistStamped or TwistWithCovarianceStamped; None: the only one of GPS,
            velocities before positions.
        stamps: (N,) when the speeds are wanted, ns.

    Returns:
        The topic, and speeds (N,) in m/s, NaN where GPS has gaps; None for both where nothing was
        measured.

    Raises:
        DataError: There is no such topic, or more than one.
    """
    fixes = [n for n, t in bag.topics.items() if t.msgtype == FIX and t.count]
    # Many TwistStamped topics are commands, not measurements.
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
        # Over a second: over the time of one frame, errors of position would dominate.
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
    """Tell which stamps (ns) lie between two times (ns) less than `gap` seconds apart."""
    after = np.searchsorted(times, stamps).clip(1, len(times) - 1)
    return (
        (stamps >= times[0]) & (stamps <= times[-1]) & (times[after] - times[after - 1] < gap * 1e9)
    )
