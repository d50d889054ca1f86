"""How well a node does: what it measures against the limits that its parameters set."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from diagnostic_msgs.msg import DiagnosticStatus

PERIOD = 2.0
"""Seconds between two looks at the machine."""

LEVELS = {
    DiagnosticStatus.OK: 'OK',
    DiagnosticStatus.WARN: 'WARN',
    DiagnosticStatus.ERROR: 'ERROR',
    DiagnosticStatus.STALE: 'STALE',
}


class Machine:
    """What Linux says of this process and of the heat, read now and then.

    Args:
        root: Where /proc and /sys are; another for tests.
    """

    def __init__(self, root: Path = Path('/')) -> None:
        self._root = root
        self._read = -PERIOD
        self._values: dict[str, str] = {}

    def values(self) -> dict[str, str]:
        """Memory in MB, highest temperature in degrees Celsius, and what is throttled.

        What cannot be read is missing.
        """
        now = time.monotonic()
        if now - self._read >= PERIOD:
            self._read = now
            self._values = self._look()
        return self._values

    def _look(self) -> dict[str, str]:
        found = {}
        pages = _text(self._root / 'proc/self/statm').split()
        if len(pages) > 1:
            found['memory_mb'] = f'{int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6:.0f}'
        thermal = self._root / 'sys/class/thermal'
        heat = [_number(path) for path in thermal.glob('thermal_zone*/temp')]
        # Sensors that are switched off give nonsense.
        heat = [value / 1000 for value in heat if value is not None and -40e3 < value < 200e3]
        if heat:
            found['temperature_c'] = f'{max(heat):.1f}'
        limited = sorted(
            _text(device / 'type')
            for device in thermal.glob('cooling_device*')
            if 'fan' not in _text(device / 'type').lower() and (_number(device / 'cur_state') or 0)
        )
        # Jetson: how often the board's current was too high.
        events = [
            _number(path) for path in (self._root / 'sys/class/hwmon').glob('*/oc*_event_cnt')
        ]
        if any(events):
            limited.append(f'{sum(filter(None, events)):.0f} over-current events')
        if heat or limited:
            found['throttled'] = ', '.join(limited)
        return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ''


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


LIMITS = (
    # Parameter, value of the diagnostics, whether it is the least, and what to say.
    ('min_rate', 'rate_hz', True, 'only {} Hz come out'),
    ('max_input_age', 'input_age_ms', False, 'images are {} ms old when they come'),
    ('max_latency', 'latency_p95_ms', False, 'one frame in twenty takes over {} ms'),
    ('max_drops', 'drops_percent', False, '{} % of the images are dropped'),
    ('max_memory', 'memory_mb', False, 'the process has {} MB'),
    ('max_temperature', 'temperature_c', False, 'the processor has {} degrees Celsius'),
)


def exceeded(values: Mapping[str, str], settings: SimpleNamespace) -> str:
    """Say which limits the values of the diagnostics exceed; '' for none.

    Args:
        values: Of the diagnostics.
        settings: The node's parameters; a limit of 0 is none.
    """
    found = []
    for parameter, key, least, words in LIMITS:
        limit, text = getattr(settings, parameter), values.get(key, '')
        if limit and text and (float(text) < limit if least else float(text) > limit):
            found.append(f'{words.format(text)} ({parameter} {limit:g})')
    return '; '.join(found)
