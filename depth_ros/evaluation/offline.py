"""Offline evaluation: every image of a recording through the networks, as fast as it goes.

No node, no DDS, no dropped frame: the same recording and the same models give the same numbers.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import cv2

from depth_ros.bags.ground_truth import count_problem
from depth_ros.bags.messages import BagError, Message, header_stamp
from depth_ros.core.camera import CameraError
from depth_ros.core.confidence import mean_confidence
from depth_ros.evaluation.frame_evaluator import Evaluation
from depth_ros.evaluation.recording_thread import RecordingThread
from depth_ros.evaluation.results import percentiles
from depth_ros.evaluation.runner import Runner, decode_ahead
from depth_ros.evaluation.session import EvaluationError, Session
from depth_ros.inference.loader import load_engine


def evaluate_offline(session: Session) -> tuple[Evaluation, dict]:
    """Evaluate a recording offline; returns the result and what metrics.json holds.

    Raises:
        EngineError: if a network cannot be loaded or fails.
        EvaluationError: if no image can be used.
    """
    from tqdm import tqdm  # evaluate_recording has checked that it is installed

    job = session.job
    engines = {
        node: load_engine(path, job.backend, job.threads) for node, path in job.models.items()
    }
    runner = Runner(
        engines.get('perception_node'),
        engines.get('odometry_node'),
        job.settings,
        bool(session.streams.wheels or session.streams.odom and not session.streams.depth),
    )
    inference, evaluated = 0.0, 0
    cv2.setNumThreads(1)  # the processors are busy with other frames
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        truth = stack.enter_context(session.truth())
        evaluator = session.evaluator(truth, pool)
        recording = stack.enter_context(RecordingThread(session, pool)) if job.record else None
        images = _Images(session, recording, runner)
        total = session.bag.topics[session.streams.image].count
        progress = stack.enter_context(
            tqdm(
                total=total, unit='frame', desc=job.bag.name, disable=None if session.bar else True
            )
        )
        start = time.perf_counter()
        try:
            for message, image in decode_ahead(images, pool):
                progress.update()
                if isinstance(image, Exception):
                    images.forget(message)
                    count_problem(session.skipped, str(image))
                    continue
                session.info = info = images.info(message, image.rgb.shape[1::-1])
                try:
                    rgb = session.camera.rectify(image.rgb, info, session.streams.image)
                    frame = runner(replace(image, rgb=rgb), info)
                except CameraError as error:
                    count_problem(session.skipped, str(error))
                    continue
                inference += sum(v for n, v in frame.numbers.items() if n.endswith('_ms')) / 1e3
                evaluated += 1
                scores = evaluator.add(frame)
                if recording:
                    recording.write(frame, message.log_ns)
                    recording.write_errors([scores] if scores else [])
        except KeyboardInterrupt:
            session.interrupted = True
            session.notes.append(f'interrupted: only {evaluated} of {total} images were judged')
        evaluation, last = evaluator.finish()
        if recording:
            recording.write_errors(last)
        seconds = time.perf_counter() - start
        if not evaluated:
            raise EvaluationError(_nothing_usable(session))
    for engine in engines.values():
        engine.close()
    found = session.summary(evaluation, evaluated)
    found['odometry']['missed'] = runner.missed
    if runner.confidences and job.settings.refinement != 'none':
        trust = mean_confidence(runner.confidences)
        found['odometry']['trust'] = trust.trust
        reasons = f': {"; ".join(trust.reasons)}' if trust.reasons else ''
        found['notes'].append(f'trust of the odometry {trust.trust:.2f}{reasons}')
    for node, engine in engines.items():
        found['models'][node] |= {'backend': engine.backend, 'threads': engine.threads}
    found |= {
        'rate': None,
        'dropped_percent': None,
        'age_ms': None,
        'player_latest_ms': None,
        'latency_ms': {
            name: percentiles(evaluation.frames.get(f'{name}_ms'))
            for name in ('perception', 'odometry')
        },
        'stages_ms': {},
        'node_messages': [],
        'speed': {
            'frames_per_s': evaluated / seconds,
            'frames_per_s_without_inference': evaluated / max(seconds - inference, 1e-9),
            # Linux counts it in KiB.
            'memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
    }
    return evaluation, found


def _nothing_usable(session: Session) -> str:
    reasons = '; '.join(f'{reason} ({n}x)' for reason, n in session.skipped.items())
    return (
        f'not one of {len(session.stamps)} images of {session.job.bag} could be used'
        f'{": " + reasons if reasons else ""}'
    )


class _Images:
    """The images of a recording, with their calibration.

    On the way, everything that the recording of the results keeps is copied to it, and the runner
    is told of distances.
    """

    def __init__(self, session: Session, recording: RecordingThread | None, runner: Runner) -> None:
        self._session, self._recording, self._runner = session, recording, runner
        self._problems: dict[str, int] = {}
        self._seen: dict[int, int] = {}  # by image: how many CameraInfos came before it

    def __iter__(self) -> Iterator[Message]:
        session, streams = self._session, self._session.streams
        needed = [streams.image, streams.camera_info, *filter(None, [streams.wheels])]
        topics = session.kept if self._recording else needed
        try:
            for message in session.bag.messages(topics):
                if self._recording:
                    self._recording.copy(message)
                if message.topic == streams.wheels:
                    self._hear(message)
                if message.topic == streams.camera_info:
                    session.camera.read(message)
                elif message.topic == streams.image:
                    session.stamps.append(header_stamp(message.data))
                    self._seen[id(message)] = session.camera.seen
                    yield message
        except BagError as error:
            session.notes.append(f'the rest could not be read: {error}')
        session.notes += [f'{problem} ({n} times)' for problem, n in self._problems.items()]

    def _hear(self, message: Message) -> None:
        try:
            self._runner.hear(header_stamp(message.data), self._session.bag.decode(message))
        except (ValueError, BagError) as error:
            count_problem(self._problems, f'distance of {message.topic}: {error}')

    def info(self, image: Message, size: tuple[int, int]) -> Any:
        """Return the CameraInfo of an image of a size (width, height)."""
        return self._session.camera.info(image, self._seen.pop(id(image)), size)

    def forget(self, image: Message) -> None:
        """Take note that an image's CameraInfo will not be asked for."""
        del self._seen[id(image)]
