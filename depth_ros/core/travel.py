"""Distances that a camera travelled, beside what wheels, GPS or an inertial sensor tell of them."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

STEP = 0.3
"""Metres over which travelled distances are compared: on shorter ones noise is divided by noise."""

TURN = 0.1
"""Radians a metre: in a sharper turn the camera and the wheels do not travel as far."""

SLOWEST = 0.05
"""Metres a second; slower is standing still, where both distances are noise."""

STILL_RATE, STILL_FORCE = 0.02, 0.1
"""rad/s and m/s^2, up to which an inertial sensor's rates and the spread of its values are those of
a robot that stands."""

SILENCE = 0.5
"""Seconds; over a longer gap, distances are not interpolated."""


class Stillness:
    """Whether an inertial sensor says that the robot stands."""

    def __init__(self) -> None:
        """Know nothing."""
        self._samples: deque[np.ndarray] = deque(maxlen=2000)  # time, rates, accelerations

    def add(self, seconds: float, rates: np.ndarray, accelerations: np.ndarray) -> None:
        """Take a measurement of turn rates (3,), rad/s, and accelerations (3,), m/s^2."""
        if self._samples and seconds <= self._samples[-1][0]:
            self._samples.clear()  # the clock went back
        self._samples.append(np.concatenate([[seconds], rates, accelerations]))

    def during(self, start: float, end: float) -> bool:
        """Whether the robot stood all of the time; False where too little is known."""
        samples = np.array([s for s in self._samples if start - 0.25 <= s[0] <= end + 0.25])
        if len(samples) < 10 or not np.isfinite(samples).all():
            return False
        spread = samples[:, 1:].std(axis=0)
        turned = np.abs(samples[:, 1:4].mean(axis=0)).max()
        return bool(max(spread[:3].max(), turned) < STILL_RATE and spread[3:].max() < STILL_FORCE)


class Travel:
    """Compares distances in units of depth with those that something else measured in metres.

    Both come in any order, as messages do.
    """

    def __init__(self) -> None:
        """Know of no distance."""
        self._places: deque[tuple[float, np.ndarray]] = deque(maxlen=3000)
        self._waiting: deque[tuple[float, float, float, float]] = deque(maxlen=300)
        self._units = self._metres = 0.0
        self._stillness = Stillness()

    def feel(self, seconds: float, rates: np.ndarray, accelerations: np.ndarray) -> None:
        """What an inertial sensor says; while it stands still, no distances are compared."""
        self._stillness.add(seconds, rates, accelerations)

    def place(self, seconds: float, position: np.ndarray) -> None:
        """Where the robot is by what it measures.

        Args:
            seconds: when; what is older than the last one is left out.
            position: (3,), metres, in a frame that stands still.
        """
        if not np.isfinite(position).all():
            return
        if self._places and seconds <= self._places[-1][0]:
            if self._places[-1][0] - seconds < 1.0:  # late or doubled
                return
            self._places.clear()  # the clock went back
        self._places.append((seconds, np.asarray(position, float)))

    def speed(self, seconds: float, metres_per_second: float) -> None:
        """How fast the robot is, in place of where it is."""
        if not math.isfinite(metres_per_second):
            return
        if not self._places or not 0 < seconds - self._places[-1][0] <= 2.0:
            self.place(seconds, np.zeros(3))
            return
        before, position = self._places[-1]
        self.place(seconds, position + [(seconds - before) * abs(metres_per_second), 0, 0])

    def move(self, start: float, end: float, units: float, turn: float) -> None:
        """How far the camera moved by depth.

        Args:
            start, end: seconds.
            units: length of the way, units of depth.
            turn: how far it turned, radians.
        """
        if math.isfinite(units) and end > start:
            self._waiting.append((start, end, units, turn))

    def ratios(self) -> list[tuple[float, float]]:
        """Metres per unit, each with its time, of what was travelled since the last call."""
        found = []
        times = np.array([t for t, _ in self._places])
        while self._waiting and len(times) and self._waiting[0][1] <= times[-1]:
            start, end, units, turn = self._waiting.popleft()
            metres = self._distance(times, start, end)
            if self._stillness.during(start, end):
                continue
            if metres is None or metres < SLOWEST * (end - start) or turn > TURN * metres:
                continue
            self._units += units
            self._metres += metres
            if self._metres >= STEP:
                if self._units > 0:
                    found.append((end, self._metres / self._units))
                self._units = self._metres = 0.0
        return found

    def _distance(self, times: np.ndarray, start: float, end: float) -> float | None:
        places = []
        for when in (start, end):
            after = int(np.searchsorted(times, when))
            if after == len(times) or (after == 0 and times[0] > when):
                return None
            before = max(after - 1, 0)
            width = times[after] - times[before]
            if width > SILENCE:
                return None
            share = (when - times[before]) / width if width > 0 else 0.0
            a, b = self._places[before][1], self._places[after][1]
            places.append(a + share * (b - a))
        return float(np.linalg.norm(places[1] - places[0]))
