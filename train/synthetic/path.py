"""The road's centreline and the drive along it: smooth curves, no graphics.

World frame: x east, y north, z up, metres. Along the road: ``s`` is arc length on the centreline,
``d`` the offset to its left, both metres. Angles are radians.
"""

import numpy as np

STEP = 0.5  # metres between stored centreline points
MAX_HEADING = 1.25  # the road never turns back, so it never meets itself
MIN_RADIUS = 17.0
OPTICAL_IN_BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


class SmoothNoise:
    """A sum of sinusoids with random phases: zero mean, bounded by ``amplitude``.

    Args:
        rng: decides the phases.
        amplitude: in the unit that the values are to have.
        frequencies: of the sinusoids, cycles a unit of the argument; each varies by a quarter.
    """

    def __init__(self, rng, amplitude, frequencies):
        n = len(frequencies)
        self.frequency = 2 * np.pi * np.asarray(frequencies) * rng.uniform(0.8, 1.25, n)
        self.phase = rng.uniform(0, 2 * np.pi, n)
        weight = rng.uniform(0.5, 1.0, n)
        self.weight = amplitude * weight / weight.sum()

    def __call__(self, t):
        """Value at ``t`` (any shape)."""
        return np.sin(np.multiply.outer(t, self.frequency) + self.phase) @ self.weight


class RoadPath:
    """An endless centreline of straights, bends and corners joined by clothoids.

    The seed decides everything; points are computed when they are first needed.
    """

    def __init__(self, seed):
        self._rng = np.random.default_rng([seed, 1])
        rng = np.random.default_rng([seed, 2])
        self._curviness = rng.uniform(0.4, 1.0)
        angle = rng.uniform(0, 2 * np.pi, 3)
        length = rng.uniform([110, 160, 260], [160, 260, 420])
        self._waves = 2 * np.pi / length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        self._wave_phase = rng.uniform(0, 2 * np.pi, 3)
        self._wave_height = rng.uniform(0, 1, 3) * [0.35, 0.6, 1.2]
        self._xy = np.zeros((1, 2))
        self._heading = np.zeros(1)
        self._curvature = np.zeros(1)
        self._extend(np.zeros(120))

    @property
    def length(self):
        """Metres of road computed so far."""
        return (len(self._xy) - 1) * STEP

    def _extend(self, curvature):
        curvature = np.asarray(curvature, float)
        heading = self._heading[-1] + np.cumsum(curvature) * STEP
        middle = heading - 0.5 * curvature * STEP
        step = STEP * np.stack([np.cos(middle), np.sin(middle)], 1)
        self._xy = np.vstack([self._xy, self._xy[-1] + np.cumsum(step, 0)])
        self._heading = np.append(self._heading, heading)
        self._curvature = np.append(self._curvature, curvature)

    def _next_section(self):
        rng, heading = self._rng, self._heading[-1]
        kind = rng.uniform()
        if kind > self._curviness:
            return np.zeros(int(rng.uniform(30, 100) / STEP))
        if kind < 0.3 * self._curviness:
            angle, radius = rng.uniform(0.8, 1.5), rng.uniform(MIN_RADIUS, 30)
        else:
            angle, radius = rng.uniform(0.15, 0.8), rng.uniform(40, 160)
        sign = 1.0 if rng.uniform() < 0.5 else -1.0
        if abs(heading + sign * angle) > MAX_HEADING:
            sign = -sign
        angle = min(angle, MAX_HEADING - sign * heading)
        ramp = min(10.0, angle * radius)
        length = angle * radius + ramp
        s = np.arange(0, length, STEP) + STEP / 2
        shape = np.clip(np.minimum(s, length - s) / ramp, 0, 1)
        return sign * shape * angle / (shape.sum() * STEP)

    def near(self, x, reach):
        """Centreline points (n, 2), 2 m apart, whose world x is within ``reach`` metres of ``x``.

        If there are none, as the road begins further on, all points.
        """
        # The road heads east and never turns back, so its x only grows.
        while self._xy[-1, 0] < x + reach:
            self._extend(self._next_section())
        points = self._xy[::4]
        close = np.abs(points[:, 0] - x) < reach
        return points[close] if close.any() else points

    def require(self, s):
        """Compute the road up to arc length ``s``."""
        while self.length < s:
            self._extend(self._next_section())

    def at(self, s):
        """Centreline at ``s`` (n,): xy (n, 2), heading (n,), curvature (n,)."""
        s = np.asarray(s, float)
        self.require(s.max() + STEP)
        i = np.clip(s / STEP, 0, None)
        low = i.astype(int)
        f = i - low
        xy = self._xy[low] * (1 - f)[..., None] + self._xy[low + 1] * f[..., None]
        # Before its start the road continues straight backwards.
        xy = xy + np.where(s < 0, s, 0.0)[..., None] * [1.0, 0.0]
        heading = self._heading[low] * (1 - f) + self._heading[low + 1] * f
        return xy, heading, self._curvature[low] * (1 - f) + self._curvature[low + 1] * f

    def offset(self, s, d):
        """World xy (n, 2) at ``d`` metres left of the centreline at ``s``."""
        xy, heading, _ = self.at(s)
        return xy + np.asarray(d)[..., None] * np.stack([-np.sin(heading), np.cos(heading)], -1)

    def elevation(self, xy):
        """Ground height (n,) in metres at world xy (n, 2); gentle everywhere (slopes to 5%)."""
        return np.sin(np.asarray(xy) @ self._waves.T + self._wave_phase) @ self._wave_height


class Drive:
    """A car's drive along a road: where its camera is at any time ``t`` (seconds).

    Args:
        seed: decides speed, wander within the lane and the body's motion on its springs.
        path: the road.
        lane_offset: metres left of the centreline at which the car keeps.
        camera_height: metres above the ground.
        pitch: of the camera on the car, radians, positive downwards.
        start: arc length at ``t`` = 0, metres.
    """

    DT = 0.02  # seconds between stored arc lengths

    def __init__(self, seed, path, lane_offset, camera_height=1.65, start=70.0, pitch=0.0):
        rng = np.random.default_rng([seed, 3])
        self.path = path
        self._lane_offset = lane_offset
        self._camera_height, self._mounted_pitch = camera_height, pitch
        self._cruise = rng.uniform(6.5, 10.5)
        self._speed_noise = SmoothNoise(rng, 2.5, [0.03, 0.07, 0.15])
        self._wander = SmoothNoise(rng, 0.25, [0.006, 0.013])
        self._bounce = SmoothNoise(rng, 0.015, [0.6, 1.1, 1.7])
        self._pitch = SmoothNoise(rng, np.radians(0.35), [0.4, 0.9, 1.5])
        self._roll = SmoothNoise(rng, np.radians(0.3), [0.3, 0.8, 1.3])
        self._yaw = SmoothNoise(rng, np.radians(0.3), [0.2, 0.5])
        self._s = [start]
        self._v = self._cruise

    def arc_length(self, t):
        """Arc length ``s`` (metres) reached at time ``t``."""
        while len(self._s) < t / self.DT + 2:
            s, now = self._s[-1], len(self._s) * self.DT
            _, _, curvature = self.path.at(s + np.arange(0, 20, 2.0))
            limit = np.sqrt(2.2 / max(np.abs(curvature).max(), 1e-3))
            target = np.clip(min(self._cruise + self._speed_noise(now), limit), 5.0, 12.0)
            self._v += np.clip(target - self._v, -2.5 * self.DT, 1.5 * self.DT)
            self._s.append(s + self._v * self.DT)
        i, f = int(t / self.DT), t / self.DT % 1
        return self._s[i] * (1 - f) + self._s[i + 1] * f

    def camera(self, t):
        """Camera-to-world pose (4, 4), optical axes (x right, y down, z forward), metres."""
        s = self.arc_length(t)
        ahead = s + np.array([-0.1, 0.1, -1.3, 1.3])
        d = self._lane_offset + self._wander(ahead)
        xy = self.path.offset(ahead, d)
        z = self.path.elevation(xy)
        forward = xy[1] - xy[0]
        yaw = np.arctan2(forward[1], forward[0]) + self._yaw(t)
        pitch = -np.arctan2(z[3] - z[2], 2.6) + self._pitch(t) + self._mounted_pitch
        roll = self._roll(t)
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        cr, sr = np.cos(roll), np.sin(roll)
        body = (
            np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
            @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
            @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
        )
        pose = np.eye(4)
        pose[:3, :3] = body @ OPTICAL_IN_BODY
        pose[:2, 3] = xy[:2].mean(0)
        pose[2, 3] = z[:2].mean() + self._camera_height + self._bounce(t)
        return pose
