"""How good the models are on a recording: `evaluate_bag RECORDING [--model ...]`.

offline: every image through the networks, as fast as it goes; the same recording and models give
the same numbers. live: the recording is played with /clock into the real nodes over DDS, and what
they published is judged, with latencies and drops. Ground truth is used where there is some;
without it, the frames are judged against each other.

Each recording leaves a folder: metrics.json, frames.csv, trajectory/, recording/ (for RViz and
Foxglove) and report.html.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from depth_ros.bag import (
    CAMERA_INFO,
    TF,
    Bag,
    BagError,
    BagWriter,
    Message,
    Streams,
    decode_depth,
    decode_labels,
    decode_pose,
    find_streams,
    header_stamp,
)
from depth_ros.camera import FIT_MODES, CameraError, Intrinsics, intrinsics_from_info
from depth_ros.classes import KNOWN, ClassMap
from depth_ros.contract import ContractError, ModelContract, read_contract
from depth_ros.conversions import ConversionError
from depth_ros.domain import claim_domain
from depth_ros.engine import BACKENDS, EngineError, load_engine
from depth_ros.evaluation import COLUMNS, Evaluation, Judge, Judgeable, camera_step
from depth_ros.ground_truth import TF_PREFIX, GroundTruth, Nearest, PoseTrack
from depth_ros.live import OUTPUT_TOPICS, LiveError, Plan, Run, model_topics, run_nodes
from depth_ros.metrics import DepthMetrics
from depth_ros.models import add_model_option, chosen_models
from depth_ros.odometry import OPTICAL_IN_BASE, pose_from_list, quaternion_from_rotation
from depth_ros.offline import Output, Picture, Runner, Settings, decode, decoded
from depth_ros.output_bag import OutputBag
from depth_ros.replay import positive

RESULTS = ('metrics.json', 'frames.csv', 'report.html', 'overview.jpg')
FOLDERS = ('recording', 'trajectory', 'logs')
GAP = 3.0
"""Times the usual period from which a pause between images counts as a gap."""

WRITES_AHEAD = 64

_POSE = ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')


class EvaluationError(RuntimeError):
    """A recording cannot be evaluated; the message says why and what to do."""


@dataclass(frozen=True)
class Job:
    """One recording to evaluate; see the command's help.

    Attributes:
        bag: The recording.
        out: Folder for the results.
        models: Model file of each node, by node name.
        topics: What `find_streams` is given, by its argument's name.
        settings: Of the networks.
        mode: 'offline' or 'live'.
        rate: Speed of the replay.
        backend, threads: Of the inference; threads 0 is the default.
        classes: See `ClassMap.read`.
        tolerance: Seconds that truth may be away from an image; None: half an image period.
        lidar_pose: x y z qx qy qz qw, see `GroundTruth`; None: from TF.
        record: Whether to leave a recording.
        outputs: Topics of the nodes to record in live mode.
        domain: ROS domain in live mode; None: a free one.
    """

    bag: Path
    out: Path
    models: dict[str, Path]
    topics: dict[str, str] = field(default_factory=dict)
    settings: Settings = Settings()
    mode: str = 'offline'
    rate: float = 1.0
    backend: str = 'auto'
    threads: int = 2
    classes: str | None = 'cityscapes'
    tolerance: float | None = None
    lidar_pose: tuple[float, ...] | None = None
    record: bool = True
    outputs: tuple[str, ...] = OUTPUT_TOPICS
    domain: int | None = None


def evaluate_recording(job: Job, say: Callable[[str], None] = print, bar: bool = True) -> dict:
    """Evaluate one recording and write its folder; returns what metrics.json holds.

    Raises:
        BagError, ContractError, EngineError, LiveError, EvaluationError, ValueError: It cannot be
            evaluated; each message says why and what to do.
    """
    from depth_ros.report import write_report

    contracts = {node: read_contract(path) for node, path in job.models.items()}
    with Bag(job.bag) as bag:
        topics = dict(job.topics)
        frames_of_truth = topics.get('odom', '')
        if frames_of_truth.startswith(TF_PREFIX):
            del topics['odom']
        streams = find_streams(bag, **topics)
        if frames_of_truth.startswith(TF_PREFIX):
            streams = replace(streams, odom=frames_of_truth)
        _clear(job)
        session = _Session(job, bag, streams, contracts, say, bar)
        evaluation, found = session.live() if job.mode == 'live' else session.offline()
    _write_results(job.out, evaluation, found)
    write_report(job.out, found, evaluation.frames, evaluation, contracts)
    return found


class _Session:
    """One evaluation while it runs."""

    def __init__(self, job: Job, bag: Bag, streams: Streams, contracts: dict[str, ModelContract],
                 say: Callable[[str], None], bar: bool) -> None:
        self.job, self.bag, self.streams, self.contracts = job, bag, streams, contracts
        self.say, self.bar = say, bar
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.stamps: list[int] = []  # of all images, as recorded
        self.perception = contracts.get('perception_node')
        classes = self.perception.classes if self.perception else ()
        self.classes = ClassMap.read(job.classes, classes) if classes else None
        metric = bool(self.perception and (self.perception.metric or job.settings.depth_scale))
        self.metric = metric
        self.first_info = bag.first(streams.camera_info)
        self.extrinsic = pose_from_list(job.settings.camera_pose)
        self.tf = [n for n, t in bag.topics.items() if t.msgtype == TF]
        named = [t for t in vars(streams).values() if t and not t.startswith(TF_PREFIX)]
        self.kept = list(dict.fromkeys([*named, *self.tf]))
        if damage := getattr(bag, 'damage', None):
            self.notes.append(damage)

    # What both modes share

    def tolerance(self) -> int:
        if self.job.tolerance is not None:
            return int(1e9 * self.job.tolerance)
        stamps = [header_stamp(m.data) for m in self._images_quietly()]
        steps = np.diff(np.unique(stamps))
        return int(np.median(steps)) // 2 if len(steps) else 10**7

    def _images_quietly(self) -> Iterator[Message]:
        """The images, as far as the recording can be read."""
        try:
            yield from self.bag.messages([self.streams.image])
        except BagError:
            return

    def judge(self, truth: GroundTruth, pool: ThreadPoolExecutor) -> Judge:
        count = self.bag.topics[self.streams.image].count
        return Judge(truth, self.classes, self.metric, count, pool)

    def truth(self) -> GroundTruth:
        pose = self.job.lidar_pose and pose_from_list(self.job.lidar_pose)
        return GroundTruth(self.job.bag, self.streams, self.tolerance(), pose)

    def summary(self, evaluation: Evaluation, judged: int) -> dict:
        """What metrics.json holds, but for what is of one mode alone."""
        numbers = evaluation.numbers
        streams = {k: v for k, v in vars(self.streams).items() if v}
        evaluation.notes = [*self.notes, *self._missing(numbers), *evaluation.notes]
        return {
            'mode': self.job.mode,
            'recording': str(self.job.bag),
            'models': {node: {
                'path': str(self.job.models[node]), 'name': c.name, 'width': c.input_width,
                'height': c.input_height, 'metric': c.metric}
                for node, c in self.contracts.items()},
            'topics': streams,
            'settings': {**asdict(self.job.settings), 'classes': self.job.classes},
            'frames': {'recorded': len(self.stamps), 'judged': judged,
                       'skipped': dict(self.skipped)},
            'timing': _timing(self.stamps),
            'depth': numbers['depth'], 'semantics': numbers['semantics'],
            'trajectory': numbers['trajectory'], 'odometry': numbers['odometry'],
            'consistency': numbers['consistency'],
            'notes': evaluation.notes,
        }

    def _missing(self, numbers: dict) -> list[str]:
        """What was not judged for want of truth."""
        outputs = self.perception.outputs if self.perception else ()
        truth = {'depth': self.streams.depth, 'semantics': self.streams.labels,
                 'trajectory': self.streams.odom}
        if not any(truth.values()):
            return ['no ground truth in this recording: frames are judged against each other']
        have = {'depth': 'depth' in outputs, 'semantics': 'labels' in outputs,
                'trajectory': 'odometry_node' in self.contracts}
        notes = []
        for part, topic in truth.items():
            if not have[part] or numbers[part]:
                continue
            what = {'trajectory': 'motion'}.get(part, part)
            if not topic:
                notes.append(f'no ground truth of {what} in this recording')
            elif part != 'trajectory':
                notes.append(f'{topic} has nothing to compare with at the time of an image')
        if numbers['depth'] and not self.metric:
            notes.append('the model is not metric, so depth is judged after median scaling only')
        return notes

    # Offline

    def offline(self) -> tuple[Evaluation, dict]:
        job = self.job
        engines = {node: load_engine(path, job.backend, job.threads)
                   for node, path in job.models.items()}
        runner = Runner(engines.get('perception_node'), engines.get('odometry_node'), job.settings)
        inference, judged = 0.0, 0
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(2))
            truth = stack.enter_context(self.truth())
            judge = self.judge(truth, pool)
            recording = stack.enter_context(_Recording(self)) if job.record else None
            infos: deque[tuple[int, bytes]] = deque(maxlen=64)
            latest: dict[int, bytes] = {}
            messages = self._messages(infos, latest, recording)
            total = self.bag.topics[self.streams.image].count
            progress = stack.enter_context(tqdm(
                total=total, unit='frame', desc=job.bag.name, disable=None if self.bar else True))
            start = time.perf_counter()
            for message, picture in decoded(messages, pool):
                progress.update()
                if isinstance(picture, Exception):
                    self.skipped[str(picture)] += 1
                    continue
                try:
                    info = self._info(picture.stamp, infos, latest.pop(id(message), None))
                    output = runner(picture, info)
                except CameraError as error:
                    self.skipped[str(error)] += 1
                    continue
                inference += sum(output.milliseconds.values()) / 1e3
                frame = _judgeable(output, picture)
                judged += 1
                done = judge.add(frame)
                if recording:
                    recording.write(frame, message.log_ns)
                    recording.write_errors([done] if done else [])
            evaluation, last = judge.finish()
            if recording:
                recording.write_errors(last)
            seconds = time.perf_counter() - start
        for engine in engines.values():
            engine.close()
        if not judged:
            reasons = '; '.join(f'{reason} ({n}x)' for reason, n in self.skipped.items())
            raise EvaluationError(f'not one of {len(self.stamps)} images of {job.bag} could be used'
                                  f'{": " + reasons if reasons else ""}')
        found = self.summary(evaluation, judged)
        found['odometry']['missed'] = runner.missed
        for node, engine in engines.items():
            found['models'][node] |= {'backend': engine.backend, 'threads': engine.threads}
        found |= {
            'rate': None, 'dropped_percent': None, 'age_ms': None, 'player_latest_ms': None,
            'latency_ms': {name: _percentiles(evaluation.frames.get(f'{name}_ms'))
                           for name in ('perception', 'odometry')},
            'stages_ms': {}, 'node_messages': [],
            'speed': {'frames_per_s': judged / seconds,
                      'frames_per_s_without_inference':
                      judged / max(seconds - inference, 1e-9)}}
        return evaluation, found

    def _messages(self, infos: deque, latest: dict[int, bytes], recording: _Recording | None
                  ) -> Iterator[Message]:
        """The images; on the way, everything that is kept goes to the recording."""
        topics = self.kept if recording else [self.streams.image, self.streams.camera_info]
        try:
            for message in self.bag.messages(topics):
                if recording:
                    recording.copy(message)
                if message.topic == self.streams.camera_info:
                    infos.append((header_stamp(message.data), message.data))
                elif message.topic == self.streams.image:
                    self.stamps.append(header_stamp(message.data))
                    if infos:
                        latest[id(message)] = infos[-1][1]
                    yield message
        except BagError as error:
            self.notes.append(f'the rest could not be read: {error}')

    def _info(self, stamp: int, infos: deque, latest: bytes | None) -> Any:
        """The camera_info of an image: of the same stamp, or the latest before it."""
        data = next((d for s, d in reversed(infos) if s == stamp), latest)
        if data is None:
            return self.first_info
        return self.bag.decode(Message(self.streams.camera_info, CAMERA_INFO, 0, data))

    # Live

    def live(self) -> tuple[Evaluation, dict]:
        job = self.job
        settings = job.settings
        parameters = {'fit': settings.fit, 'backend': job.backend}
        if job.threads:
            parameters['threads'] = str(job.threads)
        compressed = self.bag.topics[self.streams.image].msgtype.endswith('CompressedImage')
        live = job.out / 'logs' / 'live'
        plan = Plan(
            bag=job.bag, streams=self.streams, compressed=compressed, out=live, models=job.models,
            rate=job.rate, domain=job.domain or claim_domain(), parameters=parameters,
            outputs=job.outputs)
        run = run_nodes(plan, self.say)
        self.say('Judging the outputs')
        logged = {}
        for message in self.bag.messages([self.streams.image]):
            self.stamps.append(header_stamp(message.data))
            logged.setdefault(self.stamps[-1], message.log_ns)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(2))
            truth = stack.enter_context(self.truth())
            recording = _Recording(self)
            stack.enter_context(recording)
            judge = self.judge(truth, pool)
            judged = 0
            for message, frame in self._published(plan, run, logged, stack):
                recording.copy(message, force=True)
                if frame is not None:
                    judged += 1
                    recording.mark(frame, message.log_ns)
                    done = judge.add(frame)
                    recording.write_errors([done] if done else [])
            evaluation, last = judge.finish()
            recording.write_errors(last)
        found = self.summary(evaluation, judged)
        main, odom = plan.output(model_topics(plan)[0]), plan.output('odom')
        for node in job.models:
            found['models'][node]['backend'] = run.backends.get(node, '')
        perception = 'perception_node' in job.models
        found |= {
            'rate': job.rate,
            'dropped_percent': 100 * (1 - run.frames_out(main) / max(1, run.frames_in)),
            'latency_ms': {
                'perception': _percentiles(run.latencies_ms(main)) if perception else None,
                'odometry': _percentiles(run.latencies_ms(odom))},
            'age_ms': _percentiles(evaluation.frames.get('age_ms')),
            'stages_ms': run.stages_ms, 'player_latest_ms': 1e3 * run.latest_s,
            'node_messages': run.messages, 'speed': None}
        found['frames']['judged'] = run.frames_out(main)
        found['frames']['played'] = run.frames_in
        found['odometry']['poses'] = run.frames_out(odom)
        for path in (live / 'logs').iterdir():
            os.replace(path, job.out / 'logs' / path.name)
        shutil.rmtree(live)
        return evaluation, found

    def _published(self, plan: Plan, run: Run, logged: dict[int, int], stack: ExitStack
                   ) -> Iterator[tuple[Message, Judgeable | None]]:
        """What was recorded, and with each main output the frame that it belongs to."""
        path = plan.out / 'recording'
        recorded = stack.enter_context(Bag(path))
        names = {name: plan.output(name) for name in model_topics(plan)}
        main = next(iter(names.values()))

        def nearest(source: Path, topic: str | None) -> Nearest | None:
            if topic is None:
                return None
            found = Nearest(source, topic)
            stack.callback(found.close)
            return found

        labels = nearest(path, names.get('semantics/labels'))
        infos = nearest(path, plan.output('depth/camera_info')
                        if 'depth/image_rect' in names else None)
        images = nearest(self.job.bag, self.streams.image)
        track = PoseTrack({})
        if 'odom' in names:
            track = PoseTrack({header_stamp(m.data): decode_pose(recorded.decode(m))
                               for m in recorded.messages([names['odom']])})
        before: np.ndarray | None = None
        for message in recorded.messages():
            if message.topic != main:
                yield message, None
                continue
            stamp = header_stamp(message.data)
            try:
                picture = decode(images.at(stamp, 0))
                info = self.first_info
                if infos and (sent := infos.at(stamp, 10**9)):
                    info = infos.bag.decode(sent)
                frame = self._frame(recorded, message, picture, info, labels)
            except (ConversionError, CameraError, AttributeError) as error:
                self.skipped[str(error)] += 1
                yield message, None
                continue
            pose = track.at([stamp], 0)[0]
            if np.isfinite(pose).all():
                frame.pose = pose
                if before is not None:
                    frame.step = camera_step(before, pose, self.extrinsic)
            before = frame.pose
            topics = {'perception': names.get('depth/image_rect') or names.get('semantics/labels'),
                      'odometry': names.get('odom')}
            for name, topic in topics.items():
                if topic and stamp in run.latency_ms.get(topic, {}):
                    frame.numbers[f'{name}_ms'] = run.latency_ms[topic][stamp]
            if main in run.latency_ms and stamp in run.latency_ms[main] and stamp in logged:
                frame.numbers['age_ms'] = (
                    run.latency_ms[main][stamp] + (logged[stamp] - stamp) / 1e6)
            yield message, frame

    def _frame(self, recorded: Bag, message: Message, picture: Picture, info: Any,
               labels: Nearest | None) -> Judgeable:
        """The frame of a main output."""
        decoded_message = recorded.decode(message)
        height, width = picture.rgb.shape[:2]
        camera = intrinsics_from_info(self.first_info, width, height)
        frame = Judgeable(picture.stamp, camera, picture.frame_id, picture.rgb, camera)
        if message.msgtype.endswith('Odometry'):
            return frame
        if labels is None or message.topic.endswith('depth/image_rect'):
            frame.depth = decode_depth(decoded_message)
            frame.view = intrinsics_from_info(info, *frame.depth.shape[::-1])
            frame.rgb = _resized(picture.rgb, frame.view)
            match = labels and labels.at(picture.stamp, 0)
            if match:
                frame.labels = decode_labels(labels.bag.decode(match))
        else:
            frame.labels = decode_labels(decoded_message)
        return frame


def _resized(rgb: np.ndarray, camera: Intrinsics) -> np.ndarray:
    import cv2

    if rgb.shape[:2] == (camera.height, camera.width):
        return rgb
    return cv2.resize(rgb, (camera.width, camera.height), interpolation=cv2.INTER_AREA)


def _judgeable(output: Output, picture: Picture) -> Judgeable:
    return Judgeable(
        output.stamp, output.camera, picture.frame_id, output.rgb, output.view, output.depth,
        output.published, output.labels, output.pose, output.step, output.loop,
        {f'{name}_ms': value for name, value in output.milliseconds.items()})


class _Recording:
    """Writes recording/ in a thread of its own, in the order of the calls."""

    def __init__(self, session: _Session) -> None:
        taken = {f'/{topic}' for topic in OUTPUT_TOPICS} & set(session.kept)
        self._namespace = '/depth_ros' if taken else ''
        self._session = session
        self._log: dict[int, tuple[str, int]] = {}  # frame and log time of each stamp

    def __enter__(self) -> _Recording:
        session = self._session
        self._writer = BagWriter(session.job.out / 'recording', compress=True, overwrite=True)
        classes = session.perception.classes if session.perception else ()
        self._outputs = OutputBag(self._writer, classes, self._namespace,
                                  None if session.tf else session.extrinsic)
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                while self._waiting:
                    self._waiting.popleft().result()
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            self._writer.abort()
            raise
        self._pool.shutdown(cancel_futures=True)
        self._writer.__exit__(kind, *rest)

    def _submit(self, work: Callable, *arguments: Any, **options: Any) -> None:
        self._waiting.append(self._pool.submit(work, *arguments, **options))
        while len(self._waiting) > WRITES_AHEAD or self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()

    def copy(self, message: Message, force: bool = False) -> None:
        """Keep a message as it is."""
        topic = self._session.bag.topics.get(message.topic)
        latched = bool(topic and topic.latched)
        self._submit(self._writer.write, message.topic, message.msgtype, message.log_ns,
                     message.data, latched=latched)

    def mark(self, frame: Judgeable, log_ns: int) -> None:
        """Know a frame, for its error."""
        self._log[frame.stamp] = frame.frame_id, log_ns

    def write(self, frame: Judgeable, log_ns: int) -> None:
        """Write what came out for a frame."""
        self.mark(frame, log_ns)
        self._submit(self._outputs.write, frame, log_ns)

    def write_errors(self, judged: Sequence) -> None:
        """Write the error images of frames that have been judged."""
        for item in judged:
            stamp = item.picture.stamp_ns
            frame_id, log_ns = self._log.pop(stamp, ('', 0))
            if item.picture.error is not None and log_ns:
                self._submit(self._outputs.write_error, stamp, frame_id, log_ns,
                             item.picture.error)


# Numbers and files ------------------------------------------------------------------------------


def _percentiles(values: np.ndarray | None) -> dict[str, float] | None:
    values = np.empty(0) if values is None else values[np.isfinite(values)]
    if not values.size:
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {'p50': float(p50), 'p95': float(p95), 'p99': float(p99), 'max': float(values.max())}


def _timing(stamps: Sequence[int]) -> dict:
    """How the images follow each other: period, gaps, jumps of the clock."""
    steps = np.diff(np.asarray(stamps, np.int64)) / 1e9
    forward = steps[steps > 0]
    period = float(np.median(forward)) if len(forward) else None
    gaps = []
    if period:
        gaps = [[(stamps[i] - stamps[0]) / 1e9, float(steps[i])]
                for i in np.flatnonzero(steps > GAP * period)]
    return {'duration_s': float(forward.sum()), 'median_period_s': period, 'gaps': gaps,
            'clock_jumps': int((steps < 0).sum()), 'duplicate_stamps': int((steps == 0).sum())}


def _clear(job: Job) -> None:
    """Remove the results of an earlier run, so that none of them can be taken for this one's."""
    out, bag = job.out.resolve(), job.bag.resolve()
    emptied = [out / name for name in FOLDERS]
    if out in (bag, *bag.parents) and (bag == out or set(emptied) & {bag, *bag.parents}):
        raise EvaluationError(f'the recording {job.bag} lies in the output folder {job.out}, which '
                              'is about to be emptied: choose another one with --out')
    if job.out.is_file():
        raise EvaluationError(f'{job.out} is a file: choose a folder with --out')
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f'.{path.name}.part')
    part.write_text(text)
    os.replace(part, path)


def _write_results(out: Path, evaluation: Evaluation, found: dict) -> None:
    """Write frames.csv, trajectory/ and, last, metrics.json."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    columns = [c for c in COLUMNS if c in evaluation.frames]
    writer.writerow(columns)
    for row in zip(*(evaluation.frames[c].tolist() for c in columns), strict=True):
        writer.writerow(['' if math.isnan(v) else repr(v) for v in row])
    _write(out / 'frames.csv', text.getvalue())
    stamps, poses, truth = evaluation.poses
    if len(poses):
        folder = out / 'trajectory'
        folder.mkdir(exist_ok=True)
        known = np.isfinite(truth).all(axis=(1, 2))
        for name, chosen, matrices in (
                ('estimate', np.ones(len(poses), bool), poses), ('truth', known, truth)):
            if chosen.any():
                _write(folder / f'{name}.tum', _tum(stamps[chosen], matrices[chosen]))
                _write(folder / f'{name}.kitti', _kitti(matrices[chosen]))
        if len(evaluation.aligned):
            from depth_ros.metrics import pose_metrics

            aligned = pose_metrics(poses[known], truth[known], 'sim3').aligned
            _write(folder / 'estimate_aligned.tum', _tum(stamps[known], aligned))
    _write(out / 'metrics.json', json.dumps(found, indent=2, allow_nan=False) + '\n')


def _tum(stamps: np.ndarray, poses: np.ndarray) -> str:
    """Lines of stamp x y z qx qy qz qw."""
    rows = (f'{s // 10**9}.{s % 10**9:09d} ' + ' '.join(
        f'{v:.9g}' for v in (*p[:3, 3], *quaternion_from_rotation(p[:3, :3])))
        for s, p in zip(stamps.tolist(), poses, strict=True))
    return '\n'.join(rows) + '\n'


def _kitti(poses: np.ndarray) -> str:
    """Lines of the 3x4 matrix, row by row."""
    return '\n'.join(' '.join(f'{v:.9g}' for v in p[:3].ravel()) for p in poses) + '\n'


def summary_text(found: dict) -> str:
    """Return the summary for the terminal."""
    frames = found['frames']
    line = f'Frames      {frames["recorded"]} in, {frames["judged"]} out'
    if found['dropped_percent'] is not None:
        line += f', {found["dropped_percent"]:.1f} % dropped'
    lines = [f'{line}; {found["odometry"]["poses"]} poses']
    lines += [f'Skipped     {count}: {reason}' for reason, count in frames['skipped'].items()]
    if found['speed']:
        lines.append(f'Speed       {found["speed"]["frames_per_s"]:.1f} frames/s, without '
                     f'inference {found["speed"]["frames_per_s_without_inference"]:.0f}')
    title = 'Latency' if found['mode'] == 'live' else 'Inference'
    for name, values in {**found['latency_ms'], 'age of data': found['age_ms']}.items():
        if values:
            lines.append(f'{title:11} {name}: p50 {values["p50"]:.0f} ms, p95 {values["p95"]:.0f} '
                         f'ms, p99 {values["p99"]:.0f} ms, max {values["max"]:.0f} ms')
            title = ''
    if depth := found['depth']:
        names = DepthMetrics._fields
        lines.append('Depth'.ljust(32) + ''.join(f'{name:>9}' for name in names))
        for name, row in depth['rows'].items():
            lines.append(f'            {name:20}' + ''.join(f'{row[n]:9.3f}' for n in names))
        lines.append(f'            scale {depth["scale_median"]:.3f}, spread '
                     f'{depth["scale_spread"]:.3f}, published where true depth is known '
                     f'{100 * depth["coverage"]:.0f} %')
    if semantics := found['semantics']:
        road = semantics['iou'].get('road')
        lines.append(('Semantics   ' + (f'road IoU {road:.3f}, ' if road is not None else ''))
                     + f'mean IoU {semantics["mean_iou"]:.3f}')
    if t := found['trajectory']:
        lines.append(f'Trajectory  ATE {t["ate_se3"]:.2f} m (SE3), {t["ate_sim3"]:.2f} m (Sim3, '
                     f'scale {t["scale"]:.3f}) over {t["length"]:.1f} m')
    if c := found['consistency']:
        parts = []
        if 'explained_percent' in c:
            parts.append(f'depth and motion explain {c["explained_percent"]:.0f} % of the change '
                         'between frames')
        if 'inconsistency' in c:
            parts.append(f'depths disagree by {100 * c["inconsistency"]:.1f} %')
        if 'loop_translation_percent' in c:
            parts.append(f'loops do not close by {c["loop_translation_percent"]:.1f} %, '
                         f'{c["loop_rotation_deg"]:.2f} deg')
        lines.append('Consistency ' + '; '.join(parts))
    lines += [f'Note        {note}' for note in found['notes']]
    return '\n'.join(lines)


# Command line -----------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        return _compare(arguments) if arguments.compare else _run(arguments)
    except (LiveError, BagError, ContractError, EngineError, EvaluationError, ValueError) as error:
        print(f'evaluate_bag: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('evaluate_bag: interrupted', file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='evaluate_bag', description=__doc__.split('\n\n')[0].split(': ')[0] + '.',
        epilog=__doc__.split('\n\n', 1)[1], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bags', nargs='+', type=Path, metavar='RECORDING',
                        help='recordings; with --compare, result folders')
    parser.add_argument('--out', type=Path, help='folder for the results; for several recordings, '
                        'of a folder each (default: out/NAME, out/evaluation)')
    parser.add_argument('--mode', choices=('offline', 'live'), default='offline',
                        help='(default: %(default)s)')
    parser.add_argument('--compare', action='store_true', help='put the results in folders side by '
                        'side, in OUT/comparison.html')
    add_model_option(parser)
    topics = parser.add_argument_group(
        'topics', 'found by type and name if not given; as ground truth, what calls itself so')
    topics.add_argument('--image', metavar='TOPIC', help='camera images, raw or compressed')
    topics.add_argument('--camera-info', metavar='TOPIC', help='their camera_info')
    topics.add_argument('--depth-gt', metavar='TOPIC', help='true depth: depth images, raw or '
                        'compressedDepth, or the PointCloud2 of a lidar')
    topics.add_argument('--odom-gt', metavar='TOPIC', help='true poses: Odometry, PoseStamped or '
                        'PoseWithCovarianceStamped; or two TF frames as tf:odom>base_link')
    topics.add_argument('--semantics-gt', metavar='TOPIC', help='true class ids')
    truth = parser.add_argument_group('ground truth')
    truth.add_argument('--tolerance', type=positive, metavar='SECONDS', help='how far in time '
                       'truth may be from an image (default: half an image period)')
    truth.add_argument('--lidar-pose', type=float, nargs=7, metavar=_POSE,
                       help="pose of the lidar in the camera's optical frame (default: from TF)")
    truth.add_argument('--classes', default='cityscapes', metavar='SET', help='what true class ids '
                       f'mean: {", ".join(KNOWN)}, model, or a YAML file with names and map '
                       '(default: %(default)s)')
    run = parser.add_argument_group("the nodes' parameters")
    run.add_argument('--fit', choices=FIT_MODES, default='stretch', help='(default: %(default)s)')
    run.add_argument('--max-depth', type=float, default=0.0, help='metres, 0 for no limit')
    run.add_argument('--depth-scale', type=float, default=0.0, help='metres per unit of depth')
    run.add_argument('--translation-scale', type=float, default=0.0,
                     help='metres per unit of motion')
    run.add_argument('--camera-pose', type=float, nargs=7, default=OPTICAL_IN_BASE,
                     metavar=_POSE, help='optical frame in the base frame (default: at its '
                     'origin, facing forward)')
    run.add_argument('--backend', choices=BACKENDS, default='auto', help='(default: %(default)s)')
    run.add_argument('--threads', type=_count, default=2, help='of an inference (%(default)s)')
    live = parser.add_argument_group('live mode')
    live.add_argument('--rate', type=positive, default=1.0, help='speed, 1 = as recorded')
    live.add_argument('--points', action='store_true', help='record the point cloud, too')
    live.add_argument('--domain', type=int, help='ROS_DOMAIN_ID (default: a free one)')
    parser.add_argument('--no-recording', action='store_true', help='leave no recording/ (offline)')
    many = parser.add_argument_group('several recordings')
    many.add_argument('--jobs', type=_count, default=1, help='recordings at the same time, each in '
                      'a process (%(default)s)')
    many.add_argument('--cluster', metavar='ADDRESS', help='scheduler of a Dask cluster to spread '
                      'the recordings over, such as tcp://host:8786; all must see the same files')
    return parser


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    models = chosen_models(arguments.model)
    topics = {'image': arguments.image, 'camera_info': arguments.camera_info,
              'depth': arguments.depth_gt, 'labels': arguments.semantics_gt,
              'odom': arguments.odom_gt}
    settings = Settings(arguments.fit, arguments.max_depth, arguments.depth_scale,
                        arguments.translation_scale, tuple(arguments.camera_pose))
    names = _names(arguments.bags)
    single = len(arguments.bags) == 1
    out = arguments.out or Path('out') / (names[0] if single else 'evaluation')
    outputs = (*OUTPUT_TOPICS, 'points') if arguments.points else OUTPUT_TOPICS
    return [Job(
        bag=bag, out=out if single else out / name, models=models,
        topics={k: v for k, v in topics.items() if v}, settings=settings, mode=arguments.mode,
        rate=arguments.rate, backend=arguments.backend, threads=arguments.threads,
        classes=None if arguments.classes == 'model' else arguments.classes,
        tolerance=arguments.tolerance,
        lidar_pose=tuple(arguments.lidar_pose) if arguments.lidar_pose else None,
        record=not arguments.no_recording, outputs=outputs, domain=arguments.domain)
        for bag, name in zip(arguments.bags, names, strict=True)]


def _names(bags: Sequence[Path]) -> list[str]:
    """A name for each recording's folder, each another one."""
    found: list[str] = []
    for bag in bags:
        name = bag.resolve().name.removesuffix('.mcap').removesuffix('.db3').removesuffix('.bag')
        number = sum(n == name or n.startswith(f'{name}_') for n in found)
        found.append(f'{name}_{number + 1}' if number else name)
    return found


def _run(arguments: argparse.Namespace) -> int:
    jobs = _jobs(arguments)
    if len(jobs) == 1:
        found = evaluate_recording(jobs[0])
        print(f'\n{summary_text(found)}\nReport      {jobs[0].out / "report.html"}')
        return 0
    failed: dict[str, str] = {}
    results = _on_cluster(jobs, arguments.cluster) if arguments.cluster else _in_processes(
        jobs, arguments.jobs)
    for job, error in tqdm(results, total=len(jobs), unit='recording'):
        if error:
            failed[str(job.bag)] = error
            tqdm.write(f'{job.bag}: {error}', file=sys.stderr)
    done = [job.out for job in jobs if str(job.bag) not in failed]
    out = jobs[0].out.parent
    _write(out / 'failed.json', json.dumps(failed, indent=2) + '\n')
    if done:
        from depth_ros.compare import comparison_text, write_comparison

        print(comparison_text(write_comparison(out, done)))
        print(f'Summary     {out / "comparison.html"}')
    print(f'{len(done)} of {len(jobs)} recordings evaluated', file=sys.stderr)
    return 1 if failed else 0


def _in_processes(jobs: Sequence[Job], count: int) -> Iterator[tuple[Job, str]]:
    """Evaluate in processes of their own; yields each job with its error, '' for none."""
    # Not forked: inference runtimes and DDS do not survive it.
    with ProcessPoolExecutor(count, get_context('spawn')) as pool:
        waiting = {pool.submit(_attempt, job): job for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _on_cluster(jobs: Sequence[Job], address: str) -> Iterator[tuple[Job, str]]:
    """The same on the machines of a Dask cluster."""
    try:
        import distributed
    except ImportError as error:
        raise EvaluationError("--cluster needs Dask: pip install 'depth_ros[cluster]' on every "
                              'machine') from error
    try:
        client = distributed.Client(address, timeout=30)
    except OSError as error:
        raise EvaluationError(f'no Dask scheduler answers at {address}: {error}') from error
    with client:
        here = [replace(j, bag=j.bag.resolve(), out=j.out.resolve(),
                        models={n: p.resolve() for n, p in j.models.items()}) for j in jobs]
        waiting = {client.submit(_attempt, job, pure=False): job for job in here}
        for future in distributed.as_completed(waiting):
            yield waiting[future], future.result()


def _attempt(job: Job) -> str:
    """Evaluate; returns what went wrong: one recording must not stop the others."""
    try:
        evaluate_recording(job, lambda text: None, bar=False)
    except (LiveError, BagError, ContractError, EngineError, EvaluationError, ValueError) as error:
        return str(error)
    return ''


def _compare(arguments: argparse.Namespace) -> int:
    from depth_ros.compare import comparison_text, write_comparison

    out = arguments.out or Path('out/comparison')
    out.mkdir(parents=True, exist_ok=True)
    print(comparison_text(write_comparison(out, arguments.bags)))
    print(f'Comparison  {out / "comparison.html"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
