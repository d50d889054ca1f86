"""Metres for a depth that has another unit, or is not sure of its metres.

A source says a scale now and then: metres per unit of depth. Each source has a filter of its own,
of the logarithm of the scale, which wanders slowly:

    x' = x + w,  w ~ N(0, DRIFT^2 dt);    z = x + v,  v ~ N(0, R)

This is a Kalman filter with one state. A measurement far from what is believed is refused, and
believed after all once several in a row agree with each other. Nothing is said before the first few
agree. Without measurements the scale is held, and its standard deviation grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.depth_motion import DepthMotion, Moved
from depth_ros.core.ground import DOWN, MAX_TILT, Ground, NoGround, ground_from_depth
from depth_ros.core.travel import Travel

SOURCES = ('model', 'height', 'odometry', 'fused')
"""Where metres come from: what the model says; the height of the camera over the ground; distances
that wheels or GPS measured; all of these that there are."""

HEIGHTS = (0.1, 5.0)
"""Least and greatest height of a camera over the ground, metres by the scale believed so far."""

DRIFT = 0.01
"""Standard deviation of the logarithm of the scale's change in a second."""

CORRELATED = 1.0
"""Seconds over which errors of measurements are alike: more in that time do not add certainty."""

GATE = 3.0
"""Standard deviations from what is believed up to which a measurement counts."""

START, JUMP = 5, 12
"""How many measurements must agree before the first scale is said, and before one that was said is
given up."""

AGREEMENT = 0.15
"""Difference of logarithms up to which two measurements agree."""

MEMORY = 10.0
"""Seconds after which a measurement that was refused is forgotten."""

NOISE = {'height': 0.1, 'odometry': 0.05}
"""Standard deviation of the logarithm of one measurement, besides what it says of itself. Where the
last ones spread more than that, their spread counts."""

RECENT = 60
"""How many measurements the spread is taken of."""

LASTING = 0.5
"""Share of the spread that no filtering takes away: a network that errs from image to image errs
from street to street, too."""

SYSTEMATIC = {'height': 0.07, 'odometry': 0.07, 'model': 0.15}
"""Standard deviation of the logarithm of what no filtering takes away: what is right for the ground
or for the corners is not quite right for the depth of everything else (docs/evaluation.md)."""

MOUNTED_TILT = math.radians(8.0)
"""How far the camera may be tilted from how it is mounted, on bumps and slopes."""


@dataclass(frozen=True)
class Scale:
    """What is known of the scale at one time.

    Attributes:
        value: metres per unit of depth.
        sigma: its standard deviation, the same.
        age: seconds since the last measurement that counted; 0 for what the model says.
    """

    value: float
    sigma: float
    age: float


class ScaleFilter:
    """Scales of one source, filtered over time.

    Attributes:
        accepted, refused: how many measurements counted and did not.
        jumps: how often a scale was given up for another one.
    """

    def __init__(
        self,
        noise: float,
        systematic: float,
        *,
        drift: float = DRIFT,
        correlated: float = CORRELATED,
    ) -> None:
        """Know nothing.

        Args:
            noise, systematic: as of ``NOISE`` and ``SYSTEMATIC``.
            drift, correlated: as of ``DRIFT`` and ``CORRELATED``.
        """
        self._drift, self._correlated = drift, correlated
        self.accepted = self.refused = self.jumps = 0
        self._noise, self._systematic = noise, systematic
        self._log = self._variance = 0.0
        self._time: float | None = None  # of the state
        self._measured = -math.inf
        self._recent: deque[float] = deque(maxlen=RECENT)  # logarithms, whether they counted or not
        self._spread = 0.0
        self._doubted: deque[tuple[float, float]] = deque(maxlen=2 * JUMP)  # times, logarithms

    @property
    def known(self) -> bool:
        """Whether there is a scale."""
        return self._time is not None

    def measure(self, seconds: float, value: float, sigma: float) -> bool:
        """Take a measurement.

        Args:
            seconds: when; may stand still or go back.
            value: metres per unit, > 0.
            sigma: its standard deviation as far as it knows, relative to it.

        Returns:
            Whether it counted.
        """
        if not (math.isfinite(value) and value > 0 and math.isfinite(sigma)):
            self.refused += 1
            return False
        found = math.log(value)
        self._recent.append(found)
        self._spread = _spread(np.array(self._recent))
        noise = max(self._noise, self._spread) ** 2 + sigma**2
        if self._time is not None:
            since = max(seconds - self._measured, 0.0)
            self._predict(seconds)
            if abs(found - self._log) <= GATE * math.sqrt(self._variance + noise):
                noise *= max(1.0, self._correlated / max(since, 1e-3))
                gain = self._variance / (self._variance + noise)
                self._log += gain * (found - self._log)
                self._variance *= 1 - gain
                self._measured = seconds
                self._doubted.clear()
                self.accepted += 1
                return True
        return self._doubt(seconds, found)

    def at(self, seconds: float) -> Scale | None:
        """The scale at a time not before the last one; ``None``: not yet known."""
        if self._time is None:
            return None
        variance = self._variance + self._drift**2 * max(seconds - self._time, 0.0)
        value = math.exp(self._log)
        sigma = math.sqrt(variance + self._systematic**2 + (LASTING * self._spread) ** 2)
        return Scale(value, value * sigma, max(seconds - self._measured, 0.0))

    def _predict(self, seconds: float) -> None:
        assert self._time is not None
        if seconds > self._time:
            self._variance += self._drift**2 * (seconds - self._time)
        else:  # the clock stood still, or was set back
            self._measured = min(self._measured, seconds)
        self._time = seconds

    def _doubt(self, seconds: float, found: float) -> bool:
        """Keep a measurement that is not believed; believe those kept once enough agree."""
        while self._doubted and not 0 <= seconds - self._doubted[0][0] <= MEMORY:
            self._doubted.popleft()
        self._doubted.append((seconds, found))
        logs = np.array([log for _, log in self._doubted])
        agree = np.abs(logs - np.median(logs)) < AGREEMENT
        needed = JUMP if self.known else START
        if agree.sum() < needed or agree.mean() < 0.7:
            self.refused += 1
            return False
        self.jumps += self.known
        self.accepted += 1
        self._log = float(np.median(logs[agree]))
        # Errors that are alike count once: a few measurements in a row are as sure as one.
        self._variance = max(self._noise, self._spread) ** 2
        self._time = self._measured = seconds
        self._doubted.clear()
        return True


def _spread(values: np.ndarray) -> float:
    """Standard deviation of values (N,) of which some may be wrong: from the absolute deviations
    from the median."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


class MetricScale:
    """The scale of a network's depth by the source that was chosen.

        scale = MetricScale('height', metric=False, camera_height=1.65)
        scale.see(rgb, depth, camera, labels, weights, seconds)
        known = scale.at(seconds)  # None: not yet known, and scale.problem says why

    Attributes:
        unit: metres per unit of a model that is not metric, as far as the user knows; 0: not.
        travel: distances, for the sources 'odometry' and 'fused'.
        ground: what the last image showed of the ground; ``None`` before the first.
        filters: of each source that is measured.
    """

    def __init__(
        self,
        source: str,
        *,
        metric: bool,
        unit: float = 0.0,
        camera_height: float = 0.0,
        moving: tuple[int, ...] = (),
        also: Collection[str] = (),
    ) -> None:
        """Know nothing yet, unless the model or the user says it.

        Args:
            source: one of ``SOURCES``.
            metric: whether the model's depth is in metres.
            unit: see the attributes.
            camera_height: of the camera over the ground, metres; 0: not known.
            moving: ids of the classes whose pixels say nothing of the camera's motion.
            also: sources to measure besides the chosen one, to be compared.

        Raises:
            ValueError: if the source is unknown.
        """
        if source not in SOURCES:
            raise ValueError(f"scale_source '{source}' is unknown; choose {', '.join(SOURCES)}")
        self.source = source
        self.unit = unit
        self._metric = metric
        self._height = camera_height
        self._down, self._max_tilt = DOWN, MAX_TILT
        self._moving = np.isin(np.arange(256), moving)
        self._motion = DepthMotion()
        self.travel = Travel()
        self.ground: Ground | NoGround | None = None
        self.filters = {
            name: ScaleFilter(NOISE[name], SYSTEMATIC[name])
            for name in NOISE
            if source in (name, 'fused') or name in also
        }

    def hold_camera(self, height: float, down: np.ndarray) -> None:
        """Say how the camera is mounted, where that is known better than by its height alone.

        Args:
            height: of the camera over the ground, metres.
            down: unit vector (3,) of its optical frame that points to the ground.
        """
        self._height, self._down, self._max_tilt = height, down, MOUNTED_TILT

    def see(
        self,
        rgb: np.ndarray,
        depth: np.ndarray,
        camera: Intrinsics,
        labels: np.ndarray | None,
        weights: np.ndarray | None,
        seconds: float,
        factor: float = 1.0,
    ) -> Moved | None:
        """Look at an image, for the sources that are measured.

        Args:
            rgb: uint8 (h, w, 3), of any size.
            depth, camera, labels, weights: as of :func:`ground_from_depth`.
            seconds: when the image was taken.
            factor: what depth is to be multiplied by before the scale: the focal length's.

        Returns:
            How far the camera moved since an earlier image, in units of depth after ``factor``,
            where that is measured and known.
        """
        if 'height' in self.filters and self._height > 0:
            self._see_ground(depth, camera, labels, weights, seconds, factor)
        if 'odometry' not in self.filters:
            return None
        if rgb.shape[:2] != depth.shape:  # the network resizes by itself
            rgb = cv2.resize(rgb, depth.shape[::-1], interpolation=cv2.INTER_AREA)
        still = None if labels is None else ~self._moving[labels]
        moved = self._motion.step(rgb, depth, camera, still, seconds)
        if moved is not None:
            moved = moved._replace(units=factor * moved.units)
            self.travel.move(*moved)
        return moved

    def _see_ground(
        self,
        depth: np.ndarray,
        camera: Intrinsics,
        labels: np.ndarray | None,
        weights: np.ndarray | None,
        seconds: float,
        factor: float,
    ) -> None:
        heights = self.filters['height']
        known = heights.at(seconds)
        bounds = (0.0, math.inf)
        if known is not None:
            bounds = HEIGHTS[0] / known.value, HEIGHTS[1] / known.value
        self.ground = ground_from_depth(
            depth,
            camera,
            labels,
            weights,
            down=self._down,
            max_tilt=self._max_tilt,
            heights=bounds,
            factor=factor,
        )
        if isinstance(self.ground, Ground):
            relative = self.ground.sigma / self.ground.height
            heights.measure(seconds, self._height / self.ground.height, relative)

    def sources(self, seconds: float) -> dict[str, Scale]:
        """What each source says at a time not before the last one; those that know nothing lack."""
        if (travelled := self.filters.get('odometry')) is not None:
            for when, ratio in self.travel.ratios():
                travelled.measure(when, ratio, 0.0)
        known = {name: f.at(seconds) for name, f in self.filters.items()}
        said = 1.0 if self._metric else self.unit
        if said:
            known['model'] = Scale(said, said * SYSTEMATIC['model'], 0.0)
        return {name: found for name, found in known.items() if found is not None}

    def at(self, seconds: float) -> Scale | None:
        """The scale at a time not before the last one; ``None``: not yet known."""
        known = self.sources(seconds)
        if self.source == 'fused':
            return fused(list(known.values())) if known else None
        return known.get(self.source)

    @property
    def problem(self) -> str:
        """Why the scale is not known, as far as that is known; for a person."""
        if self.source == 'model':
            return 'the model is not metric'
        reasons = []
        if 'height' in self.filters:
            reason = 'no image yet'
            if not self._height > 0:
                reason = 'it is not given'
            elif isinstance(self.ground, NoGround):
                reason = self.ground.reason
            elif self.ground is not None:
                reason = 'the heights measured do not agree yet'
            reasons.append(f'height of the camera: {reason}')
        if 'odometry' in self.filters:
            reasons.append('measured distances: too few yet')
        return '; '.join(reasons)


def fused(scales: list[Scale]) -> Scale:
    """The mean of scales, weighted by their inverse variances.

    All sources share the errors of the one depth that they are about, so that the mean is no surer
    than the surest of them; where they disagree more than they should, it is less sure by as much.
    """
    if len(scales) == 1:
        return scales[0]
    logs = np.log([s.value for s in scales])
    variances = np.square([s.sigma / s.value for s in scales])
    weights = 1 / variances
    middle = float(weights @ logs / weights.sum())
    disagreement = float(weights @ np.square(logs - middle)) / (len(scales) - 1)
    variance = max(1.0, disagreement) * float(variances.min())
    value = math.exp(middle)
    return Scale(value, value * math.sqrt(variance), min(s.age for s in scales))
