"""Metres for a map that cameras made of corners alone.

The unit of such a map is open, and wanders as it moves on. It is compared with whatever knows a
length: the height of the camera over the ground of the map, depth of a network where the map has
points, or the pose network's steps, in this order of trust. Each has a filter of its own.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.corner_map import CornerMap
from depth_ros.core.ground import (
    BOTTOM,
    DOWN,
    LEAST_SHARE,
    Ground,
    NoGround,
    fit_ground,
)
from depth_ros.core.scale import ScaleFilter

DRIFT = 0.02
"""Standard deviation of the logarithm of the map's unit's change in a second."""

CORRELATED = 0.5
"""Seconds over which errors of measurements are alike."""

NOISE = {'height': 0.05, 'depth': 0.1, 'network': 0.3}
"""Standard deviation of the logarithm of one measurement of each source."""

SYSTEMATIC = {'height': 0.02, 'depth': 0.15, 'network': 0.25}
"""Standard deviation of the logarithm of what no filtering takes away."""

SURE = 0.1
"""Standard deviation of an inverse depth, as a share of it, of points that are compared."""

UNSURE = 0.3
"""Relative standard deviation of a scale by the first few heights."""

FEW = 15
"""Fewer points are not compared with depth."""

SLANT = 1.035
"""By how much the ground of corners seems too low: it is seen at a slant, and a patch of it changes
its shape from image to image. Measured on two cameras, 1.02 to 1.05 a drive."""

FIRST_TILT = math.radians(25.0)
"""Greatest angle between the ground's normal and where down is said to be, at first."""

TILT = math.radians(4.0)
"""The same once several planes were found, from their median: a car nods no more than that."""

PLANES = 40
"""How many planes the median is taken of."""


class MapScale(NamedTuple):
    """Metres per unit of the map.

    Attributes:
        value: metres per unit.
        sigma: its standard deviation, relative to it.
        source: 'height', 'depth' or 'network'.
    """

    value: float
    sigma: float
    source: str


class MapScaler:
    """Finds out the metres of a map's unit.

    Attributes:
        ground: what the last keyframe showed of the ground; ``None`` before the first.
    """

    def __init__(self, camera_height: float = 0.0, down: np.ndarray | None = None) -> None:
        """Know nothing.

        Args:
            camera_height: of the camera over the ground, metres; 0: not known.
            down: unit vector (3,) of the optical frame that points down.
        """
        self.ground: Ground | NoGround | None = None
        self._height = camera_height
        self._down = np.array(DOWN) if down is None else down
        self._heights: deque[float] = deque(maxlen=PLANES)  # metres per unit
        self._normals: deque[np.ndarray] = deque(maxlen=PLANES)
        self._filters = {
            name: ScaleFilter(NOISE[name], SYSTEMATIC[name], drift=DRIFT, correlated=CORRELATED)
            for name in NOISE
        }

    def at(self, seconds: float) -> MapScale | None:
        """The scale by the source that is trusted most; ``None``: not yet known.

        The first few heights count as they are, unsure, until enough of them agree: the way
        travelled until then would be in no unit at all.
        """
        for name, source in self._filters.items():
            if name == 'height' and not source.known and self._heights:
                return MapScale(float(np.median(self._heights)), UNSURE, name)
            if (found := source.at(seconds)) is not None:
                return MapScale(found.value, found.sigma / found.value, name)
        return None

    def keyframe(self, points: CornerMap, camera: Intrinsics, seconds: float) -> None:
        """Look at the ground of a map with a new keyframe."""
        if self._height <= 0:
            return
        places, rows = points.points(SURE)
        weight = points.ground[rows]
        labelled = np.isfinite(weight)
        known = labelled.sum() >= FEW and np.nansum(weight) > 0
        if known:
            weight = np.where(labelled, weight, 0.0)
        else:  # where the ground is without labels
            bearing = places[:, :2] / np.maximum(places[:, 2:], 1e-9)
            u = bearing[:, 0] * camera.fx + camera.cx
            v = bearing[:, 1] * camera.fy + camera.cy
            side = BOTTOM[1] * camera.width
            weight = (v > BOTTOM[0] * camera.height) & (u > side) & (u < camera.width - side)
            weight = weight.astype(float)
        down, tilt = self._down, FIRST_TILT
        if len(self._normals) >= PLANES // 4:
            down = np.median(self._normals, axis=0)
            down, tilt = down / np.linalg.norm(down), TILT
        self.ground = fit_ground(
            places,
            weight,
            down=down,
            max_tilt=tilt,
            least_share=LEAST_SHARE,
            independent=FEW,
        )
        if isinstance(self.ground, Ground):
            self._normals.append(self.ground.normal)
            self._heights.append(SLANT * self._height / self.ground.height)
            self._filters['height'].measure(
                seconds,
                self._heights[-1],
                self.ground.sigma / self.ground.height,
            )

    def depth(self, own: np.ndarray, other: np.ndarray, seconds: float) -> None:
        """Compare depths (N,) of the map's points with metres (N,); NaN where not known."""
        with np.errstate(divide='ignore', invalid='ignore'):
            ratio = other / own
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        if len(ratio) < FEW:
            return
        logs = np.log(ratio)
        middle = float(np.median(logs))
        spread = 1.4826 * float(np.median(np.abs(logs - middle)))
        self._filters['depth'].measure(seconds, math.exp(middle), spread / math.sqrt(FEW))

    def network(self, own: float, other: float, seconds: float) -> None:
        """Compare a step's length in the map with metres of the pose network."""
        if own > 0 and other > 0:
            self._filters['network'].measure(seconds, other / own, 0.0)
