"""Odometry and GPS speed of a recording at the stamps of its pictures."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from depth_ros.bags.messages import ODOMETRY, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import is_ground_truth
from depth_ros.core.se3 import inverse
from train.data.sequences import DataError

MAX_GAP = 0.5
"""Seconds between odometry messages over which poses are interpolated."""

MAX_FASTER = 3.0
ODOMETRY_ERROR, GPS_ERROR = (1.0, 0.05), (10.0, 5.0)
"""A step is a jump when it is longer than that of a body `MAX_FASTER` times as fast as around it,
and so many m/s faster, and so many metres."""

AROUND = 5
"""Steps before and after one that tell how fast the body was."""

OTHER_CLOCK = 1.0
"""Seconds by which stamps and log times differ at least where they are of two clocks."""

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


class Measured(NamedTuple):
    """What a recording's odometry or GPS says at the stamps of its pictures.

    Attributes:
        topic: Its name; None where nothing was measured.
        values: Poses (N, 4, 4) or speeds (N,), NaN where there are gaps; None likewise.
        remarks: What was wrong with it.
    """

    topic: str | None = None
    values: np.ndarray | None = None
    remarks: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the pictures at which something is known."""
        if self.values is None:
            return 0.0
        return float(np.isfinite(self.values.reshape(len(self.values), -1)).all(1).mean())


def odometry(bag: Bag, topic: str | None, stamps: np.ndarray, lag: int = 0) -> Measured:
    """Return the poses of a robot's body as its odometry measured them.

    Args:
        bag: The recording.
        topic: Of nav_msgs/Odometry; None: the only one that does not call itself ground truth.
        stamps: (N,) when the poses are wanted, ns.
        lag: By how much pictures are logged after their stamp, ns.

    Raises:
        DataError: if there is no such topic, or more than one.
    """
    found = [
        name
        for name, t in bag.topics.items()
        if t.msgtype == ODOMETRY and t.count and not is_ground_truth(name)
    ]
    topic = _choose(bag, topic, found, [ODOMETRY], 'odom')
    if topic is None:
        return Measured()
    messages, remarks = _messages(bag, topic, lag)
    measured = {t: m.pose.pose for t, m in messages.items() if _is_pose(m.pose.pose)}
    if len(measured) < 2:
        return Measured(remarks=(*remarks, f'{topic} has {len(measured)} poses: not used'))
    times = np.array(sorted(measured))
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, :3, 3] = [
        (p.position.x, p.position.y, p.position.z) for p in (measured[t] for t in times)
    ]
    poses[:, :3, :3] = Rotation.from_quat(
        [
            (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w)
            for p in (measured[t] for t in times)
        ]
    ).as_matrix()
    seconds = (times - times[0]) * 1e-9
    jumps = _jumps(seconds, poses[:, :3, 3])
    poses = _joined(poses, jumps)
    known = _covered(times, stamps, MAX_GAP) & ~_beside(times, stamps, jumps)
    result = np.full((len(stamps), 4, 4), np.nan)
    at = stamps[known] - times[0]
    result[known] = np.eye(4)
    turns = Rotation.from_matrix(poses[:, :3, :3])
    result[known, :3, :3] = Slerp(times - times[0], turns)(at).as_matrix()
    result[known, :3, 3] = np.stack(
        [np.interp(at, times - times[0], p) for p in poses[:, :3, 3].T], 1
    )
    if not known.any():
        remarks.append(_outside(topic, times, stamps))
    return Measured(topic, result, (*remarks, *_say_jumps(topic, jumps)))


def cut_jumps(times: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Join odometry where it jumps, as after a reset, and forget the poses on both sides.

    Args:
        times: (N,) seconds.
        poses: (N, 4, 4), NaN where unknown.

    Returns:
        The poses, and remarks.
    """
    known = np.flatnonzero(np.isfinite(poses[:, 0, 0]))
    if len(known) < 3:
        return poses, []
    jumps = _jumps(times[known], poses[known, :3, 3])
    result = poses.copy()
    result[known] = _joined(poses[known], jumps)
    result[known[np.union1d(jumps, jumps + 1)]] = np.nan
    return result, _say_jumps('odometry', jumps)


def _jumps(
    seconds: np.ndarray, positions: np.ndarray, error: tuple[float, float] = ODOMETRY_ERROR
) -> np.ndarray:
    """Return the indices of positions (N, 3) from which to the next no body moves."""
    steps, spans = np.linalg.norm(np.diff(positions, axis=0), axis=1), np.diff(seconds)
    # Stamps jitter: in no less time than usual.
    spans = np.maximum(spans, np.median(spans)) if len(spans) else spans
    speeds = steps / spans
    usual = np.array(
        [
            np.median(np.delete(speeds[max(0, i - AROUND) : i + AROUND + 1], min(i, AROUND)))
            if len(speeds) > 1
            else np.inf
            for i in range(len(speeds))
        ]
    )
    return np.flatnonzero(steps > (MAX_FASTER * usual + error[0]) * spans + error[1])


def _joined(poses: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Return poses (N, 4, 4) that go on after each jump where they were before it."""
    poses = poses.copy()
    for i in jumps:
        poses[i + 1 :] = poses[i] @ inverse(poses[i + 1]) @ poses[i + 1 :]
    return poses


def _beside(times: np.ndarray, stamps: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Tell which stamps are the last before a jump, the first after it, or between the two."""
    found = np.zeros(len(stamps), bool)
    for i in jumps:
        before = np.searchsorted(stamps, times[i], 'right') - 1
        found[max(0, before) : np.searchsorted(stamps, times[i + 1], 'left') + 1] = True
    return found


def _say_jumps(what: str, jumps: np.ndarray) -> list[str]:
    if not len(jumps):
        return []
    return [f'{what} jumps {len(jumps)} times, as after a reset: no distances are taken from there']


def _outside(topic: str, times: np.ndarray, stamps: np.ndarray) -> str:
    return (
        f'{topic} says nothing at the times of the pictures: it goes from '
        f'{times[0] * 1e-9:.1f} to {times[-1] * 1e-9:.1f} s, the pictures from '
        f'{stamps[0] * 1e-9:.1f} to {stamps[-1] * 1e-9:.1f} s'
    )


def _messages(bag: Bag, topic: str, lag: int) -> tuple[dict[int, Any], list[str]]:
    """Return the messages of a topic by their stamp (ns), and remarks.

    Where most stamps are zero, the log time serves, which is the recorder's clock: `lag` brings it
    to that of the pictures' stamps where that is another.
    """
    found = [(header_stamp(m.data), m.log_ns, bag.decode(m)) for m in bag.messages([topic])]
    if 2 * sum(stamp == 0 for stamp, *_ in found) <= len(found):
        return {stamp: message for stamp, _, message in found if stamp}, []
    lag = lag if abs(lag) > OTHER_CLOCK * 1e9 else 0
    remark = f'the stamps of {topic} are zero: the times at which it was recorded are used'
    return {log - lag: message for _, log, message in found}, [remark]


def _is_pose(pose: Any) -> bool:
    """Tell whether a pose is valid: some publishers send zeros or NaN until they know it."""
    place, turn = pose.position, pose.orientation
    length = np.linalg.norm([turn.x, turn.y, turn.z, turn.w])
    return bool(np.isfinite([place.x, place.y, place.z]).all() and 0.5 < length < 2)


def gps_speeds(bag: Bag, topic: str | None, stamps: np.ndarray, lag: int = 0) -> Measured:
    """Return the speed of the camera as measured by GPS.

    Args:
        bag: The recording.
        topic: Of NavSatFix, TwistStamped or TwistWithCovarianceStamped; None: the only one of GPS,
            velocities before positions.
        stamps: (N,) when the speeds are wanted, ns.
        lag: By how much pictures are logged after their stamp, ns.

    Raises:
        DataError: if there is no such topic, or more than one.
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
        return Measured()
    messages, remarks = _messages(bag, topic, lag)
    if bag.topics[topic].msgtype == FIX:
        messages = {
            t: m
            for t, m in messages.items()
            if m.status.status >= 0 and np.isfinite([m.latitude, m.longitude]).all()
        }
    if len(messages) < 2:
        return Measured(remarks=(*remarks, f'{topic} has {len(messages)} values: not used'))
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
        positions = np.stack([east, north], 1)
        jumps = _jumps(seconds, positions, GPS_ERROR)
        known &= ~_near(times, stamps, jumps)
        remarks += _say_jumps(topic, jumps)
        at = (stamps[known] - times[0]) * 1e-9
        speeds = np.full(len(stamps), np.nan)
        # Over a second: over the time of one frame, errors of position would dominate.
        before, after = (at - BASELINE).clip(0), (at + BASELINE).clip(max=seconds[-1])
        moved = [
            np.interp(after, seconds, x) - np.interp(before, seconds, x) for x in (north, east)
        ]
        speeds[known] = np.hypot(*moved) / (after - before)
    else:
        linear = [getattr(messages[t].twist, 'twist', messages[t].twist).linear for t in times]
        speeds[known] = np.interp(at, seconds, [np.hypot(np.hypot(v.x, v.y), v.z) for v in linear])
    if not known.any():
        remarks.append(_outside(topic, times, stamps))
    return Measured(topic, speeds, tuple(remarks))


def _near(times: np.ndarray, stamps: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Tell at which stamps (ns) a speed over `BASELINE` takes in a jump."""
    found = np.zeros(len(stamps), bool)
    for i in jumps:
        found |= (stamps > times[i] - BASELINE * 1e9) & (stamps < times[i + 1] + BASELINE * 1e9)
    return found


def _covered(times: np.ndarray, stamps: np.ndarray, gap: float) -> np.ndarray:
    """Tell which stamps (ns) lie between two times (ns) less than `gap` seconds apart."""
    after = np.searchsorted(times, stamps).clip(1, len(times) - 1)
    return (
        (stamps >= times[0]) & (stamps <= times[-1]) & (times[after] - times[after - 1] < gap * 1e9)
    )
