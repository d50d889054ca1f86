"""Writes the recording of an evaluation in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from depth_ros.bags.messages import Message
from depth_ros.bags.writer import BagWriter
from depth_ros.evaluation.frame_scores import FrameOutputs, FrameScores
from depth_ros.evaluation.output_recording import OutputRecording
from depth_ros.evaluation.session import OUTPUT_TOPICS, Session

_WRITES_AHEAD = 16
"""Number of writes that may be waiting; with more, the caller has to wait."""

_COPIES = 16
"""Number of messages that are copied with one write."""


class RecordingThread:
    """Writes recording/ in the order of the calls. Use as a context manager.

    Args:
        session: The evaluation.
        pool: Executor that makes the coloured pictures.
    """

    def __init__(self, session: Session, pool: Executor) -> None:
        self._pictures = pool
        taken = {f'/{topic}' for topic in OUTPUT_TOPICS} & set(session.kept)
        self._namespace = '/depth_ros' if taken else ''
        self._session = session
        self._log: dict[int, tuple[str, int]] = {}  # frame and log time of each stamp

    def __enter__(self) -> RecordingThread:
        session = self._session
        # Uncompressed: compression would save a fifth of the size, and double the time.
        self._writer = BagWriter(session.job.out / 'recording', overwrite=True)
        self._outputs = OutputRecording(
            self._writer,
            session.perception.classes if session.perception else (),
            self._namespace,
            None if session.tf else session.extrinsic,
            affine=session.affine,
        )
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()
        self._copies: list[tuple[Message, bool]] = []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._submit(self._write_copies, self._copies)
                while self._waiting:
                    self._waiting.popleft().result()
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            self._writer.abort()
            raise
        self._pool.shutdown(cancel_futures=True)
        self._writer.__exit__(kind, error, trace)

    def _submit(self, work: Callable, *arguments: Any) -> None:
        self._waiting.append(self._pool.submit(work, *arguments))
        while len(self._waiting) > _WRITES_AHEAD or self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()

    def copy(self, message: Message) -> None:
        """Copy a message unchanged."""
        topic = self._session.bag.topics.get(message.topic)
        self._copies.append((message, bool(topic and topic.latched)))
        if len(self._copies) >= _COPIES:
            self._submit(self._write_copies, self._copies)
            self._copies = []

    def _write_copies(self, copies: list[tuple[Message, bool]]) -> None:
        for message, latched in copies:
            self._writer.write(
                message.topic, message.msgtype, message.log_ns, message.data, latched=latched
            )

    def place(self, frame: FrameOutputs, log_ns: int) -> None:
        """Write the transforms of a frame whose outputs are copied with `copy`."""
        self._log[frame.stamp] = frame.frame_id, log_ns
        self._submit(self._outputs.write_transforms, frame, log_ns)

    def write(self, frame: FrameOutputs, log_ns: int) -> None:
        """Write the outputs for a frame."""
        self._log[frame.stamp] = frame.frame_id, log_ns
        pictures = self._pictures.submit(self._outputs.pictures(frame))
        copies, self._copies = self._copies, []

        def work() -> None:
            self._write_copies(copies)
            self._outputs.write(frame, log_ns, pictures.result())

        self._submit(work)

    def write_errors(self, scores: Sequence[FrameScores]) -> None:
        """Write the error images of frames whose scores are known."""
        for item in scores:
            stamp, error = item.example.stamp_ns, item.example.error
            frame_id, log_ns = self._log.pop(stamp, ('', 0))
            if error is not None and log_ns:
                self._submit(self._outputs.write_error, stamp, frame_id, log_ns, error)
