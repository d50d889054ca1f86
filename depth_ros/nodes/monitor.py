"""What a node says about itself: warnings that do not repeat, times of stages, /diagnostics."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node

REPORT_PERIOD = 5.0
"""Seconds between two reports of the same cause, and of silence before an input is missed."""

STAGES = ('decode', 'preprocess', 'inference', 'postprocess', 'publish')
"""What the time of a frame is spent on."""


class Reporter:
    """Says each cause once, and again after REPORT_PERIOD if it lasts.

    Attributes:
        counts: how often each cause was reported or held back.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        """Report to a ROS logger."""
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._said: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def __call__(self, cause: str, message: str, error: bool = False) -> None:
        """Report ``message``, at most every REPORT_PERIOD seconds for the same ``cause``."""
        now = time.monotonic()
        with self._lock:
            self.counts[cause] += 1
            last, at_count = self._said.get(cause, (-float('inf'), 0))
            if now - last < REPORT_PERIOD:
                return
            held_back = self.counts[cause] - at_count - 1
            self._said[cause] = now, self.counts[cause]
        if held_back:
            message += f' ({held_back} more like this)'
        if error:  # one call of rclpy's logger must always have the same severity
            self._logger.error(message)
        else:
            self._logger.warning(message)

    def once(self, cause: str, message: str) -> None:
        """Warn of ``message`` the first time only."""
        with self._lock:
            if cause in self._said:
                return
            self._said[cause] = float('inf'), 0
        self._logger.warning(message)


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


class Monitor:
    """Counts a node's frames and publishes what it knows about itself on /diagnostics.

    Attributes:
        report: warns of causes.
        times: how long the stages of a frame take.
        processed, unwanted, failed: numbers of frames since the node was activated: those
            processed, those that nobody wanted and those that could not be processed.
    """

    def __init__(self, node: Node) -> None:
        """Create the publisher of /diagnostics."""
        self.report = Reporter(node.get_logger())
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.restart()

    def restart(self) -> None:
        """Count from zero."""
        self.times = StageTimes()
        self.processed = self.unwanted = self.failed = 0
        self._before = (time.monotonic(), 0, 0)  # time, processed and dropped at the last message

    def fail(self, cause: str, message: str) -> None:
        """Count a frame that could not be processed and report why."""
        self.failed += 1
        self.times.discard()
        self.report(cause, f'frame dropped: {message}', error=True)

    def finish(self, work: float, latency: float) -> None:
        """Count a frame that was processed; the times are those of :meth:`StageTimes.finish`."""
        self.processed += 1
        self.times.finish(work, latency)

    def values(self, received: int, dropped: int) -> dict[str, str]:
        """Counts, rates since the last message, times and problems.

        Args:
            received: frames that came since the node was activated.
            dropped: those of them that newer ones replaced.
        """
        since, processed_before, dropped_before = self._before
        span = max(time.monotonic() - since, 1e-3)
        values = {
            'received': str(received),
            'processed': str(self.processed),
            'dropped': str(dropped),
            'not_wanted': str(self.unwanted),
            'failed': str(self.failed),
            'rate_hz': f'{(self.processed - processed_before) / span:.2f}',
            'drops_hz': f'{max(dropped - dropped_before, 0) / span:.2f}',
        }
        values.update(
            {f'time_{name}_ms': f'{value:.3f}' for name, value in self.times.medians().items()}
        )
        values.update(
            {f'problem: {cause}': str(count) for cause, count in sorted(self.report.counts.items())}
        )
        return values

    def publish(
        self, level: bytes, text: str, hardware: str, values: Mapping[str, str], dropped: int
    ) -> None:
        """Publish a message; the next rates are since now.

        Args:
            level: of diagnostic_msgs/DiagnosticStatus.
            text: the state in words.
            hardware: the hardware_id.
            values: what to list.
            dropped: as of :meth:`values`.
        """
        self._before = time.monotonic(), self.processed, dropped
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
