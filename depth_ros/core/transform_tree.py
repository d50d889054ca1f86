"""The transforms between a robot's frames over time, as tf2 keeps them. Needs no ROS.

A transform ``T_a_b`` is a 4x4 matrix that takes points from frame b to frame a, in metres.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from depth_ros.core.se3 import interpolate, inverse, pose_from_list


class TransformError(LookupError):
    """A transform is not known; the message says which frames are there and what to do."""


@dataclass
class _Edge:
    """The transform from a frame to its parent, over time.

    Attributes:
        fixed: x y z qx qy qz qw of a static transform; None without.
        samples: (stamp in nanoseconds, the seven numbers) of a moving one, by stamp.
    """

    fixed: tuple[float, ...] | None = None
    samples: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)


class TransformTree:
    """The transforms between the frames of a recording, from its /tf and /tf_static.

        tree = TransformTree()
        for message in bag.messages(['/tf', '/tf_static']):
            tree.add(bag.decode(message), static=message.topic == '/tf_static')
        t_camera_lidar = tree.lookup('camera_optical', 'lidar', stamp_ns)

    A mistake in the tree, such as a frame with two parents, is an error only where a transform
    through that frame is looked up.

    Args:
        tolerance: Seconds before the first and after the last sample of a moving transform in
            which that sample is still used.
    """

    def __init__(self, tolerance: float = 0.2) -> None:
        self.tolerance = tolerance
        self._edges: dict[str, dict[str, _Edge]] = {}  # by frame and parent

    def add(self, message: Any, static: bool) -> None:
        """Add the transforms of a tf2_msgs/TFMessage.

        Args:
            message: The message.
            static: Whether it comes from /tf_static and so holds at all times.
        """
        for transform in message.transforms:
            parents = self._edges.setdefault(_name(transform.child_frame_id), {})
            edge = parents.setdefault(_name(transform.header.frame_id), _Edge())
            t, q = transform.transform.translation, transform.transform.rotation
            values = (t.x, t.y, t.z, q.x, q.y, q.z, q.w)
            if static:
                edge.fixed = values
            else:
                insort(edge.samples, (_nanoseconds(transform.header.stamp), values))

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return T_target_source 4x4, which takes points from `source` to `target`, at an instant.

        Moving transforms are interpolated between the samples before and after.

        Raises:
            TransformError: if a frame is unknown, the frames are not connected (perhaps by a frame
                with two parents or a loop), or a transform between them is not valid or was not
                recorded at this instant.
        """
        target, source = _name(target), _name(source)
        up, top = self._ancestors(source)
        down, other_top = self._ancestors(target)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise TransformError(
                f"frames '{source}' and '{target}' are not connected: above the first, {top}; "
                f'above the second, {other_top}. Record /tf and /tf_static of the whole robot, and '
                'let every frame have one parent'
            )
        return inverse(self._to_ancestor(down[: down.index(common)], stamp_ns)) @ self._to_ancestor(
            up[: up.index(common)], stamp_ns
        )

    def _ancestors(self, frame: str) -> tuple[list[str], str]:
        """A frame, its parent and so on up to the root, and why it ends there.

        Raises:
            TransformError: if the frame is unknown.
        """
        known = set(self._edges).union(*self._edges.values())
        if frame not in known:
            raise TransformError(
                f"there is no frame '{frame}'; there are "
                f'{", ".join(sorted(known)) or "none"}: choose one of them, or '
                'record /tf and /tf_static of the whole robot'
            )
        chain = [frame]
        while parents := self._edges.get(chain[-1]):
            if len(parents) > 1:
                return chain, f"'{chain[-1]}' has several parents, {', '.join(sorted(parents))}"
            (parent,) = parents
            if parent in chain:
                return chain, f"'{chain[-1]}' has the parent '{parent}', which is a loop"
            chain.append(parent)
        return chain, f"'{chain[-1]}' has no parent"

    def _to_ancestor(self, frames: list[str], stamp_ns: int) -> np.ndarray:
        """The transform from the first frame to the parent of the last.

        Args:
            frames: each is the child of the next one.
            stamp_ns: when.
        """
        result = np.eye(4)
        for frame in frames:
            ((parent, edge),) = self._edges[frame].items()
            try:
                result = self._at(edge, stamp_ns) @ result
            except ValueError as error:
                raise TransformError(f"transform from '{frame}' to '{parent}': {error}") from error
        return result

    def _at(self, edge: _Edge, stamp_ns: int) -> np.ndarray:
        """The transform of an edge at an instant.

        Raises:
            ValueError: if it is not valid, or nothing was recorded near the instant.
        """
        if edge.fixed is not None:
            return pose_from_list(edge.fixed)
        samples = edge.samples
        first, last = samples[0][0], samples[-1][0]
        slack = self.tolerance * 1e9
        if stamp_ns < first - slack or stamp_ns > last + slack:
            raise ValueError(
                f'{stamp_ns / 1e9:.3f} s is outside of the recorded {first / 1e9:.3f}'
                f' to {last / 1e9:.3f} s: leave this message out, or check the '
                'clocks'
            )
        after = bisect_right(samples, stamp_ns, key=itemgetter(0))
        if after in (0, len(samples)):
            return pose_from_list(samples[min(after, len(samples) - 1)][1])
        (start, a), (end, b) = samples[after - 1 : after + 1]
        return interpolate(pose_from_list(a), pose_from_list(b), (stamp_ns - start) / (end - start))


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def _name(frame: str) -> str:
    """A frame's name without the leading slash that ROS 1 drivers use."""
    return frame.removeprefix('/')
