"""What a node says about itself: warnings that do not repeat, times of stages, /diagnostics."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from std_msgs.msg import String

from depth_ros.core.camera import CameraError
from depth_ros.core.images import ImageError
from depth_ros.inference.engine import EngineError
from depth_ros.ros.transport import EVENT_QOS


class ConfigurationError(ValueError):
    """The node cannot be configured as its parameters ask; the message says why."""


REPORT_PERIOD = 5.0
"""Seconds between two reports of the same cause, and of silence before an input is missed."""

STAGES = ('decode', 'preprocess', 'inference', 'postprocess', 'publish')
"""What the time of a frame is spent on."""

FAILING = 1.0
"""Seconds of images without an output after which a node is in error."""

SLOW_PUBLISH = 30.0
"""Milliseconds of publishing from which a subscriber is taken to hold it up."""

WORDINGS = 5
"""How many different messages of one cause are said within REPORT_PERIOD."""


class Reporter:
    """Says each cause once, and again after REPORT_PERIOD if it lasts.

    Causes are few and fixed, since they are keys of the diagnostics. Messages of one cause that
    differ in more than their numbers are said side by side, at most WORDINGS a period.

    Attributes:
        counts: how often each cause was reported or held back.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        """Report to a ROS logger."""
        self.counts: Counter[str] = Counter()
        self._logger = logger
        # By cause and wording: when it was said, and how often it has been held back since.
        self._said: dict[str, dict[str, tuple[float, int]]] = {}
        self._once: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, cause: str, message: str, error: bool = False) -> None:
        """Report ``message``, at most every REPORT_PERIOD seconds for the same ``cause``."""
        now = time.monotonic()
        wording = re.sub(r'\d+', '#', message)[:60]
        with self._lock:
            self.counts[cause] += 1
            said = self._said.setdefault(cause, {})
            recent = [w for w, (last, _) in said.items() if now - last < REPORT_PERIOD]
            if wording in recent:
                last, held_back = said[wording]
                said[wording] = last, held_back + 1
                return
            if len(recent) >= WORDINGS:
                return
            _, held_back = said.get(wording, (now, 0))
            self._said[cause] = {w: said[w] for w in recent} | {wording: (now, 0)}
        if held_back:
            message += f' ({held_back} more like this)'
        if error:  # one call of rclpy's logger must always have the same severity
            self._logger.error(message)
        else:
            self._logger.warning(message)

    def once(self, cause: str, message: str) -> None:
        """Warn of ``message`` the first time only."""
        with self._lock:
            if cause in self._once:
                return
            self._once.add(cause)
        self._logger.warning(message)


CAUSES: dict[type[Exception], str] = {
    ImageError: 'image',
    CameraError: 'camera_info',
    EngineError: 'network',
    ConfigurationError: 'configuration',
}
"""Key of the diagnostics for each kind of error that a frame may meet; others are internal."""


class RosHandler(logging.Handler):
    """Passes warnings of Python's logging on to a ROS logger."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Pass on to a ROS logger."""
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        self._logger.warning(record.getMessage())


class StageTimes:
    """How long each stage took in the last hundred frames."""

    def __init__(self) -> None:
        """Start without a frame."""
        self._frame: defaultdict[str, float] = defaultdict(float)
        self._history: deque[dict[str, float]] = deque(maxlen=100)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the body to stage ``name`` of the present frame."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._frame[name] += time.perf_counter() - start

    def finish(self, work: float, latency: float) -> None:
        """Close the present frame.

        Args:
            work: seconds since the worker took it.
            latency: seconds since its message came.
        """
        frame = {name: self._frame[name] for name in STAGES}
        frame['overhead'] = work - frame['inference']
        frame['latency'] = latency
        self._history.append(frame)
        self._frame.clear()

    def discard(self) -> None:
        """Forget the present frame, which failed."""
        self._frame.clear()

    def medians(self) -> dict[str, float]:
        """Medians over the frames, in milliseconds; empty without a frame.

        Returns:
            The time of each stage, of the worker outside inference (``overhead``), and from the
            message's arrival to the last publication (``latency``).
        """
        frames = list(self._history)
        if not frames:
            return {}
        return {name: 1e3 * median(f[name] for f in frames) for name in frames[0]}

    def latency(self, share: float) -> float | None:
        """What ``share`` of the last frames stayed below, milliseconds; ``None`` without one."""
        latencies = sorted(frame['latency'] for frame in list(self._history))
        if not latencies:
            return None
        return 1e3 * latencies[min(int(share * len(latencies)), len(latencies) - 1)]


class Health:
    """Whether anything comes of the images that come."""

    def __init__(self) -> None:
        """Start without an image."""
        self._begun: float | None = None
        self._fruitless: float | None = None
        self._why = ''

    def begin(self) -> None:
        """A frame is in work from now on."""
        self._begun = time.monotonic()

    def good(self) -> None:
        """The frame gave an output, or nobody asked for one."""
        self._begun = self._fruitless = None

    def bad(self, why: str) -> None:
        """Nothing came of the frame."""
        self._begun = None
        if self._fruitless is None:
            self._fruitless = time.monotonic()
        self._why = why

    @property
    def busy(self) -> float:
        """Seconds for which the present frame has been in work; 0 without one."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def problem(self) -> str:
        """Why no output has come for a while although images have; empty if all is well."""
        now = time.monotonic()
        if (busy := self.busy) > REPORT_PERIOD:
            return f'one image has been in work for {busy:.0f} s'
        if self._fruitless is not None and now - self._fruitless >= FAILING:
            return f'no output for {now - self._fruitless:.0f} s: {self._why}'
        return ''


def slow_readers(medians: Mapping[str, float]) -> str:
    """Return a warning where publishing takes so long that a subscriber must hold it up.

    Args:
        medians: Of :meth:`StageTimes.medians`, milliseconds.
    """
    publish = medians.get('publish', 0.0)
    if publish <= max(SLOW_PUBLISH, medians['inference'] if medians else 0.0):
        return ''
    return (
        f'publishing takes {publish:.0f} ms: a subscriber that is stopped or too slow holds up the '
        'others; close it, or let it subscribe best effort'
    )


class Monitor:
    """Counts a node's frames and publishes what it knows about itself on /diagnostics.

    Attributes:
        report: warns of causes.
        times: how long the stages of a frame take.
        health: whether anything comes of the frames.
        processed, unwanted, failed: numbers of frames since the node was activated: those
            processed, those that nobody wanted and those that could not be processed. A callback
            that raised counts as a frame that failed.
    """

    def __init__(self, node: Node) -> None:
        """Create the publisher of /diagnostics."""
        self.report = Reporter(node.get_logger())
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._events = node.create_publisher(String, 'events', EVENT_QOS)
        self.restart()

    def restart(self) -> None:
        """Count from zero."""
        self.times = StageTimes()
        self.health = Health()
        self.processed = self.unwanted = self.failed = 0
        # Time, received, processed and dropped at the last message.
        self._before = (time.monotonic(), 0, 0, 0)

    def skip(self) -> None:
        """Count a frame that nobody wanted."""
        self.unwanted += 1
        self.health.good()

    def fail(self, error: Exception) -> None:
        """Count a frame that could not be processed, or a callback that raised; say why."""
        self.failed += 1
        self.times.discard()
        cause = next((c for kind, c in CAUSES.items() if isinstance(error, kind)), '')
        if cause:
            self.health.bad(str(error))
            self.report(cause, f'frame dropped: {error}', error=True)
            return
        text = ' '.join(f'{type(error).__name__}: {error}'.split())
        self.health.bad(f'internal error: {text}')
        trace = ''.join(traceback.format_exception(error))
        self.report('internal error', f'frame dropped: internal error: {text}\n{trace}', error=True)

    def finish(self, work: float, latency: float, why_nothing: str = '') -> None:
        """Count a frame that was processed.

        Args:
            work, latency: as for :meth:`StageTimes.finish`.
            why_nothing: why it gave no output; empty if it gave one.
        """
        self.processed += 1
        self.times.finish(work, latency)
        if why_nothing:
            self.health.bad(why_nothing)
        else:
            self.health.good()

    def event(self, name: str, reason: str) -> None:
        """Publish on ``events`` what happened once, and log it.

        Args:
            name: what happened, one of a few fixed texts.
            reason: why, with numbers.
        """
        self._node.get_logger().warning(f'{name}: {reason}')
        event = {
            'node': self._node.get_fully_qualified_name(),
            'event': name,
            'reason': reason,
            'time': self._node.get_clock().now().nanoseconds / 1e9,
        }
        self._events.publish(String(data=json.dumps(event)))

    def values(self, received: int, dropped: int) -> dict[str, str]:
        """Counts, rates since the last message, times and problems.

        Args:
            received: frames that came since the node was activated.
            dropped: those of them that newer ones replaced.
        """
        since, received_before, processed_before, dropped_before = self._before
        span = max(time.monotonic() - since, 1e-3)
        came, lost = max(received - received_before, 0), max(dropped - dropped_before, 0)
        values = {
            'received': str(received),
            'processed': str(self.processed),
            'dropped': str(dropped),
            'not_wanted': str(self.unwanted),
            'failed': str(self.failed),
            'input_hz': f'{came / span:.2f}',
            'rate_hz': f'{(self.processed - processed_before) / span:.2f}',
            'drops_hz': f'{lost / span:.2f}',
            'drops_percent': f'{100 * lost / max(came, lost, 1):.0f}',
        }
        for percent in (95, 99):
            latency = self.times.latency(percent / 100)
            if latency is not None:
                values[f'latency_p{percent}_ms'] = f'{latency:.1f}'
        values.update(
            {f'time_{name}_ms': f'{value:.3f}' for name, value in self.times.medians().items()}
        )
        values.update(
            {f'problem: {cause}': str(count) for cause, count in sorted(self.report.counts.items())}
        )
        return values

    def publish(
        self,
        level: bytes,
        text: str,
        hardware: str,
        values: Mapping[str, str],
        received: int,
        dropped: int,
    ) -> None:
        """Publish a message; the next rates are since now.

        Args:
            level: of diagnostic_msgs/DiagnosticStatus.
            text: the state in words.
            hardware: the hardware_id.
            values: what to list.
            received, dropped: as of :meth:`values`.
        """
        self._before = time.monotonic(), received, self.processed, dropped
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=level,
                name=f'{self._node.get_fully_qualified_name()[1:]}: inference',
                message=text,
                hardware_id=hardware,
                values=[KeyValue(key=key, value=value) for key, value in values.items()],
            )
        ]
        self._publisher.publish(message)
