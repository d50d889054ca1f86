"""Live evaluation: plays a recording through the real nodes, then judges what they published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depth_ros.bags.ground_truth import Nearest, PoseTrack, count_problem
from depth_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, Message, decode_pose, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.core.camera import (
    CameraError,
    ImageFit,
    Intrinsics,
    intrinsics_from_info,
    shown_part,
)
from depth_ros.core.images import ImageError, decode_depth, decode_labels
from depth_ros.evaluation.frame_evaluator import Evaluation, camera_step
from depth_ros.evaluation.frame_scores import FrameOutputs
from depth_ros.evaluation.live_run import LiveOutcome, LiveSetup, model_topics, run_nodes
from depth_ros.evaluation.recording_thread import RecordingThread
from depth_ros.evaluation.results import percentiles
from depth_ros.evaluation.runner import decode
from depth_ros.evaluation.session import EvaluationError, Session
from depth_ros.inference.outputs import TOPICS, topics
from depth_ros.ros.domain import claim_domain


def evaluate_live(session: Session) -> tuple[Evaluation, dict]:
    """Evaluate a recording live.

    Returns:
        The evaluation, and the content of metrics.json.

    Raises:
        LiveError: if a process failed or nothing was published.
        EvaluationError: if the model publishes nothing that could be evaluated, or all images have
            the same stamp.
    """
    job = session.job
    setup = _setup(session)
    logged: dict[int, int] = {}
    infos: dict[int, Any] = {}
    for message, info in session.camera.each():
        session.stamps.append(header_stamp(message.data))
        logged.setdefault(session.stamps[-1], message.log_ns)
        infos.setdefault(session.stamps[-1], info)
    if note := _repeated_stamps(session.stamps):
        session.notes.append(note)
    outcome = run_nodes(setup, session.say)
    session.say('Judging the outputs')
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        truth = stack.enter_context(session.truth())
        recording = stack.enter_context(RecordingThread(session, pool))
        evaluator = session.evaluator(truth, pool)
        published = stack.enter_context(_Published(session, setup, outcome, logged, infos))
        evaluated = 0
        for message, frame in published:
            recording.copy(message)
            if frame is not None:
                evaluated += 1
                recording.place(frame, message.log_ns)
                scores = evaluator.add(frame)
                recording.write_errors([scores] if scores else [])
        evaluation, last = evaluator.finish()
        recording.write_errors(last)
    found = session.summary(evaluation, evaluated)
    names = model_topics(setup)
    main, odom = setup.output(names[0]), setup.output('odom')
    for node in job.models:
        found['models'][node]['backend'] = outcome.backends.get(node, '')
    found |= {
        'rate': job.rate,
        'dropped_percent': 100 * (1 - outcome.frames_out(main) / max(1, outcome.frames_in)),
        'latency_ms': {
            'perception': percentiles(outcome.latencies_ms(main)) if main != odom else None,
            'odometry': percentiles(outcome.latencies_ms(odom)),
        },
        'age_ms': percentiles(evaluation.frames.get('age_ms')),
        'stages_ms': outcome.stages_ms,
        'player_latest_ms': 1e3 * outcome.latest_s,
        'node_messages': outcome.messages,
        'speed': None,
    }
    found['frames']['judged'] = outcome.frames_out(main)
    found['frames']['played'] = outcome.frames_in
    found['odometry']['poses'] = outcome.frames_out(odom)
    for path in (setup.out / 'logs').iterdir():
        os.replace(path, job.out / 'logs' / path.name)
    shutil.rmtree(setup.out)
    return evaluation, found


def _repeated_stamps(stamps: Sequence[int]) -> str:
    """Return a note on images that live mode cannot tell apart, as they have the same stamp.

    Raises:
        EvaluationError: if all images have the same stamp.
    """
    repeated = len(stamps) - len(set(stamps))
    if not repeated:
        return ''
    if len(set(stamps)) == 1:
        raise EvaluationError(
            f'all {len(stamps)} images have the stamp {stamps[0] / 1e9:.3f}: live mode cannot tell '
            'which image an output belongs to. Judge them with --mode offline, and let the camera '
            'driver fill in header.stamp'
        )
    return (
        f'{repeated} of {len(stamps)} images have the stamp of another one: live mode cannot tell '
        'them apart and counts them once'
    )


def _setup(session: Session) -> LiveSetup:
    job = session.job
    perception = session.perception
    if perception and session.affine and len(job.models) == 1 and not perception.classes:
        raise EvaluationError(
            f"model '{perception.name}' knows depth only up to scale and shift, which the "
            'node shows in colours but does not publish as depth: judge it with --mode offline'
        )
    settings = {
        name: list(map(float, value)) if isinstance(value, tuple) else value
        for name, value in asdict(job.settings).items()
    }
    parameters = settings | {'backend': job.backend, 'threads': job.threads}
    return LiveSetup(
        bag=job.bag,
        streams=session.streams,
        compressed=session.bag.topics[session.streams.image].msgtype == COMPRESSED_IMAGE,
        out=job.out / 'logs' / 'live',
        models=job.models,
        rate=job.rate,
        domain=job.domain or claim_domain(),
        parameters={name: str(value) for name, value in parameters.items()},
        outputs=job.outputs,
    )


class _Published:
    """The recorded messages, and with each main output the frame that it belongs to.

    Use as a context manager.

    Args:
        session: The evaluation.
        setup, outcome: The run of the nodes.
        logged: Log times of the images by stamp, ns.
        infos: Their CameraInfo by stamp.
    """

    def __init__(
        self,
        session: Session,
        setup: LiveSetup,
        outcome: LiveOutcome,
        logged: dict[int, int],
        infos: dict[int, Any],
    ) -> None:
        self._session, self._outcome, self._logged = session, outcome, logged
        self._recorded_infos = infos
        self._path = setup.out / 'recording'
        names = model_topics(setup)
        self._names = {name: setup.output(name) for name in names}
        self._main = names[0]
        contract = session.perception
        shown = topics(contract.outputs, contract.affine_invariant) if contract else {}
        self._output_of = {name: output for name, (output, _) in shown.items()}
        self._info = setup.output('depth/camera_info') if 'depth/camera_info' in shown else ''

    def __enter__(self) -> _Published:
        with ExitStack() as stack:
            self._bag = stack.enter_context(Bag(self._path))

            def nearest(source: Path, topic: str) -> Nearest:
                found = Nearest(source, topic)
                stack.callback(found.close)
                return found

            self._images = nearest(self._session.job.bag, self._session.streams.image)
            self._infos = nearest(self._path, self._info) if self._info else None
            self._others = {
                name: nearest(self._path, topic)
                for name, topic in self._names.items()
                if name != self._main and TOPICS[name].msgtype == IMAGE
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[tuple[Message, FrameOutputs | None]]:
        session, extrinsic = self._session, self._session.extrinsic
        track = self._track()
        before: np.ndarray | None = None
        for message in self._bag.messages():
            if message.topic != self._names[self._main]:
                yield message, None
                continue
            stamp = header_stamp(message.data)
            try:
                frame = self._frame(message, stamp)
            except (ImageError, CameraError) as error:
                count_problem(session.skipped, str(error))
                yield message, None
                continue
            pose = track.at([stamp], 0)[0]
            if np.isfinite(pose).all():
                frame.pose = pose
                if before is not None:
                    frame.step = camera_step(before, pose, extrinsic)
            before = frame.pose
            self._add_latencies(frame, stamp)
            yield message, frame

    def _track(self) -> PoseTrack:
        if 'odom' not in self._names:
            return PoseTrack({})
        return PoseTrack(
            {
                header_stamp(m.data): decode_pose(self._bag.decode(m))
                for m in self._bag.messages([self._names['odom']])
            }
        )

    def _add_latencies(self, frame: FrameOutputs, stamp: int) -> None:
        latencies = self._outcome.latency_ms
        perception = self._names[self._main] if self._main != 'odom' else None
        for name, topic in (('perception', perception), ('odometry', self._names.get('odom'))):
            if topic and stamp in latencies.get(topic, {}):
                frame.numbers[f'{name}_ms'] = latencies[topic][stamp]
        main = latencies.get(self._names[self._main], {})
        if stamp in main and stamp in self._logged:
            frame.numbers['age_ms'] = main[stamp] + (self._logged[stamp] - stamp) / 1e6

    def _frame(self, message: Message, stamp: int) -> FrameOutputs:
        """Return the frame of a main output."""
        session = self._session
        recorded = self._images.at(stamp, 0)
        if recorded is None:
            raise ImageError('an output has the stamp of no image')
        image = decode(recorded)
        height, width = image.rgb.shape[:2]
        info = self._recorded_infos.get(stamp, session.first_info)
        camera = intrinsics_from_info(info, width, height)
        frame = FrameOutputs(image.stamp, camera, image.frame_id, image.rgb, camera)
        if self._main == 'odom':
            return frame
        found = {self._main: self._bag.decode(message)}
        for name, source in self._others.items():
            if other := source.at(stamp, 0):
                found[name] = source.bag.decode(other)
        values = {self._output_of[name]: _pixels(name, image) for name, image in found.items()}
        frame.depth, frame.labels = values.pop('depth', None), values.pop('labels', None)
        frame.others = values
        if frame.depth is not None:
            if self._infos and (sent := self._infos.at(stamp, 10**9)):
                info = self._infos.bag.decode(sent)
            frame.view = intrinsics_from_info(info, *frame.depth.shape[::-1])
            frame.rgb = _resized(image.rgb, frame.view)
        self._cut(frame)
        return frame

    def _cut(self, frame: FrameOutputs) -> None:
        """Keep of a frame what the network saw: the node says nothing of the rest."""
        session = self._session
        if session.perception is None:
            return
        fit = ImageFit.create(frame.camera, session.perception.camera, session.job.settings.fit)
        whole = frame.view

        def cut(values: np.ndarray) -> np.ndarray:
            part = shown_part(whole, fit.network, *values.shape[1::-1])
            return np.ascontiguousarray(values[part])

        frame.rgb = cut(frame.rgb)
        frame.view = fit.network.resized(*frame.rgb.shape[1::-1])
        frame.depth = None if frame.depth is None else cut(frame.depth)
        frame.labels = None if frame.labels is None else cut(frame.labels)
        frame.others = {name: cut(values) for name, values in frame.others.items()}


def _pixels(name: str, message: Any) -> np.ndarray:
    """Return the values of an output's image."""
    return (decode_depth if TOPICS[name].encoding == '32FC1' else decode_labels)(message)


def _resized(rgb: np.ndarray, camera: Intrinsics) -> np.ndarray:
    if rgb.shape[:2] == (camera.height, camera.width):
        return rgb
    return cv2.resize(rgb, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
