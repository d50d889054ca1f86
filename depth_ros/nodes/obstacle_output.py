"""Topics ``obstacles`` and ``scan``: what stands on the ground, for Nav2's costmaps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from sensor_msgs.msg import LaserScan, PointCloud2

from depth_ros.core.ground import Ground, ground_from_depth, ground_weights
from depth_ros.core.labels import UNLABELED
from depth_ros.core.obstacles import (
    ObstacleLimits,
    Seen,
    beams_of,
    find_obstacles,
    level_ground,
    make_scan,
)
from depth_ros.inference.contract import ModelContract
from depth_ros.nodes.camera_input import Frame
from depth_ros.nodes.monitor import Reporter
from depth_ros.ros.messages import cloud_message

OBSTACLES, SCAN = 'obstacles', 'scan'

PATIENCE = 2.0
"""Seconds for which a plane that was found stands for the ground."""

HEIGHTS = (0.05, 10.0)
"""Heights of a camera over the ground that are believed, metres."""


class ObstacleOutput:
    """Keeps the plane of the ground, and makes the messages of frames."""

    def __init__(self, contract: ModelContract, report: Reporter) -> None:
        self._classes = {item.name: item.id for item in contract.classes}
        self._weights = ground_weights(self._classes)
        self._report = report
        self._ground: Ground | None = None
        self._stamp = 0

    def look(
        self,
        depth: np.ndarray,
        labels: np.ndarray | None,
        frame: Frame,
        settings: SimpleNamespace,
    ) -> Seen | None:
        """Find the obstacles of a frame; None, and a report why, where the ground is not known.

        Args:
            depth, labels: at network size; metres.
            frame: the frame.
            settings: the node's parameters.
        """
        ground = self._look_for_ground(depth, labels, frame, settings.camera_height)
        if ground is None:
            return None
        wanted = [name.strip() for name in settings.obstacle_ignore.split(',') if name.strip()]
        limits = ObstacleLimits(
            settings.obstacle_min_height,
            settings.obstacle_max_height,
            settings.obstacle_min_range,
            settings.obstacle_max_range,
            tuple(self._classes[name] for name in wanted if name in self._classes),
            settings.robot_rows,
        )
        return find_obstacles(depth, frame.fit.network, labels, ground, limits, UNLABELED)

    def _look_for_ground(
        self, depth: np.ndarray, labels: np.ndarray | None, frame: Frame, height: float
    ) -> Ground | None:
        heights = (height / 2, 2 * height) if height else HEIGHTS
        found = ground_from_depth(depth, frame.fit.network, labels, self._weights, heights=heights)
        if isinstance(found, Ground):
            self._ground, self._stamp = found, frame.stamp
            return found
        if self._ground is not None and abs(frame.stamp - self._stamp) <= PATIENCE * 1e9:
            return self._ground
        if height:
            return level_ground(height)
        self._report(
            'ground',
            f'no obstacles are published: {found.reason}. Set camera_height, for a level ground '
            'to be taken meanwhile',
        )
        return None

    def cloud(self, seen: Seen, frame: Frame) -> PointCloud2:
        """The obstacles as points in the camera's optical frame."""
        message = cloud_message(frame.header, seen.points[None])
        message.is_dense = True
        return message

    def scan(self, seen: Seen, frame: Frame, settings: SimpleNamespace) -> LaserScan | None:
        """The obstacles as a scan; None, and a report, where its frame is not known."""
        name = settings.scan_frame or body_frame(frame.header.frame_id)
        if not name:
            self._report(
                'scan_frame',
                f"no scan is published: the frame '{frame.header.frame_id}' is not called "
                '..._optical_frame; set scan_frame to the frame of the camera with x ahead and z '
                'up',
            )
            return None
        beams = beams_of(frame.fit.network)
        scan = LaserScan(
            angle_min=beams.start,
            angle_max=beams.start + beams.increment * (len(beams.columns) - 1),
            angle_increment=beams.increment,
            range_min=settings.obstacle_min_range,
            range_max=settings.obstacle_max_range,
        )
        scan.header.stamp, scan.header.frame_id = frame.header.stamp, name
        scan.ranges.frombytes(make_scan(seen, beams).tobytes())
        return scan


def body_frame(optical: str) -> str:
    """The frame with x ahead that goes with an optical frame by REP 103's names; '' if none."""
    for end, instead in (('_optical_frame', '_frame'), ('_optical', '')):
        if optical.endswith(end):
            return optical.removesuffix(end) + instead
    return ''


def knows_metres(contract: ModelContract, depth_scale: float, measured: bool) -> bool:
    """Whether depth is in metres, without which heights mean nothing."""
    return contract.metric or depth_scale > 0 or measured
