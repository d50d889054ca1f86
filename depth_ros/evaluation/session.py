"""The evaluation of one recording, offline or live."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.bags.ground_truth import (
    TF_PREFIX,
    GroundTruth,
    Nearest,
    PoseTrack,
    count_problem,
)
from depth_ros.bags.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    ODOMETRY,
    TF,
    BagError,
    Message,
    decode_pose,
    header_stamp,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams, find_streams
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import CameraError, Intrinsics, intrinsics_from_info
from depth_ros.core.images import ImageError, decode_depth, decode_labels
from depth_ros.core.se3 import pose_from_list
from depth_ros.evaluation.frame_evaluator import Evaluation, Judge, Judgeable, camera_step
from depth_ros.evaluation.live import OUTPUT_TOPICS, Plan, Run, model_topics, run_nodes
from depth_ros.evaluation.offline import Picture, Runner, Settings, decode, decoded
from depth_ros.evaluation.output_recording import OutputRecording
from depth_ros.evaluation.report.page import require_page_packages
from depth_ros.evaluation.report.report import write_report
from depth_ros.evaluation.results import percentiles, timing, write_results
from depth_ros.evaluation.structure import FILE, PointTruth
from depth_ros.inference.classes import ClassMap
from depth_ros.inference.contract import ModelContract, read_contract
from depth_ros.inference.loader import load_engine
from depth_ros.ros.domain import claim_domain

RESULTS = ('metrics.json', 'frames.csv', 'report.html', 'overview.jpg')
FOLDERS = ('recording', 'trajectory', 'logs')
WRITES_AHEAD = 16
COPIES = 16  # messages that are copied at a time


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
        backend, threads: Of the inference.
        classes: See `ClassMap.read`.
        tolerance: Seconds that truth may be away from an image; None: half an image period.
        lidar_pose: x y z qx qy qz qw, see `GroundTruth`; None: from TF.
        structure: Folder of structure from motion whose points are the true depth; see
            `PointTruth`.
        structure_points: Which of them: 'held_out' or 'all'.
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
    structure: Path | None = None
    structure_points: str = 'held_out'
    record: bool = True
    outputs: tuple[str, ...] = OUTPUT_TOPICS
    domain: int | None = None


def evaluate_recording(job: Job, say: Callable[[str], None] = print, bar: bool = True) -> dict:
    """Evaluate one recording and write its folder; returns what metrics.json holds.

    Raises:
        BagError, ContractError, EngineError, LiveError, EvaluationError, ValueError: It cannot be
            evaluated; each message says why and what to do.
        MissingPackageError: The report's packages are not installed.
        KeyboardInterrupt: As asked for; offline, after the results so far are written.
    """
    require_page_packages()
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
    write_results(job.out, evaluation, found)
    write_report(job.out, found, evaluation.frames, evaluation, contracts)
    if session.interrupted:
        raise KeyboardInterrupt
    return found


class _Session:
    """One evaluation while it runs."""

    def __init__(
        self,
        job: Job,
        bag: Bag,
        streams: Streams,
        contracts: dict[str, ModelContract],
        say: Callable[[str], None],
        bar: bool,
    ) -> None:
        self.job, self.bag, self.streams, self.contracts = job, bag, streams, contracts
        self.say, self.bar = say, bar
        self.skipped: dict[str, int] = {}
        self.notes: list[str] = []
        self.interrupted = False
        self.stamps: list[int] = []  # of all images, as recorded
        self.perception = contracts.get('perception_node')
        classes = self.perception.classes if self.perception else ()
        self.classes = ClassMap.read(job.classes, classes) if classes else None
        self.affine = bool(self.perception and self.perception.affine_invariant)
        self.metric = bool(
            self.perception
            and not self.affine
            and (self.perception.metric or job.settings.depth_scale)
        )
        self.first_info = bag.first(streams.camera_info)
        self.extrinsic = pose_from_list(job.settings.camera_pose)
        self.tf = [n for n, t in bag.topics.items() if t.msgtype == TF]
        named = [t for t in vars(streams).values() if t and not t.startswith(TF_PREFIX)]
        self.kept = list(dict.fromkeys([*named, *self.tf]))
        if bag.damage:
            self.notes.append(bag.damage)
        self.point_truth: PointTruth | None = None
        if job.structure is not None:
            name = job.bag.stem if job.bag.is_file() else job.bag.name
            self.point_truth = PointTruth(job.structure, name, job.structure_points)
            self.notes.append(self.point_truth.note)

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
        return Judge(truth, self.classes, self.metric, count, pool, self.affine)

    def truth(self) -> GroundTruth:
        pose = self.job.lidar_pose and pose_from_list(self.job.lidar_pose)
        some = self.streams.depth or self.streams.labels or self.streams.odom
        # To find it out takes a whole reading.
        tolerance = self.tolerance() if some else 0
        points = self.point_truth and self.point_truth.depth
        return GroundTruth(self.job.bag, self.streams, tolerance, pose, points)

    def summary(self, evaluation: Evaluation, judged: int) -> dict:
        """What metrics.json holds, but for what is of one mode alone."""
        numbers = evaluation.numbers
        streams = {k: v for k, v in vars(self.streams).items() if v}
        evaluation.notes = [*self.notes, *self._missing(numbers), *evaluation.notes]
        return {
            'mode': self.job.mode,
            'recording': str(self.job.bag),
            'models': {
                node: {
                    'path': str(self.job.models[node]),
                    'name': c.name,
                    'width': c.input_width,
                    'height': c.input_height,
                    'metric': c.metric,
                }
                for node, c in self.contracts.items()
            },
            'topics': streams,
            'settings': {**asdict(self.job.settings), 'classes': self.job.classes},
            'frames': {'recorded': len(self.stamps), 'judged': judged, 'skipped': self.skipped},
            'timing': timing(self.stamps),
            'depth': numbers['depth'],
            'semantics': numbers['semantics'],
            'trajectory': numbers['trajectory'],
            'odometry': numbers['odometry'],
            'consistency': numbers['consistency'],
            'notes': evaluation.notes,
        }

    def _missing(self, numbers: dict) -> list[str]:
        """What was not judged for want of truth."""
        outputs = self.perception.outputs if self.perception else ()
        truth = {
            'depth': self.streams.depth or (self.point_truth and FILE),
            'semantics': self.streams.labels,
            'trajectory': self.streams.odom,
        }
        if not any(truth.values()):
            return ['no ground truth in this recording: frames are judged against each other']
        shown = self.affine and self.job.mode == 'live'
        have = {
            'depth': 'depth' in outputs and not shown,
            'semantics': 'labels' in outputs,
            'trajectory': 'odometry_node' in self.contracts,
        }
        notes = []
        if shown:
            notes.append(
                'the node publishes no depth of unknown scale and shift: it is judged '
                'with --mode offline'
            )
        for part, topic in truth.items():
            if not have[part] or numbers[part]:
                continue
            what = {'trajectory': 'motion'}.get(part, part)
            if not topic:
                notes.append(f'no ground truth of {what} in this recording')
            elif part != 'trajectory':
                notes.append(f'{topic} has nothing to compare with at the time of an image')
        if numbers['depth'] and self.affine:
            notes.append(
                'the model knows depth only up to scale and shift of its inverse, so both '
                'are fitted to the truth in each frame before it is judged'
            )
        elif numbers['depth'] and not self.metric:
            notes.append('the model is not metric, so depth is judged after median scaling only')
        return notes

    # Offline

    def offline(self) -> tuple[Evaluation, dict]:
        job = self.job
        engines = {
            node: load_engine(path, job.backend, job.threads) for node, path in job.models.items()
        }
        runner = Runner(engines.get('perception_node'), engines.get('odometry_node'), job.settings)
        inference, judged = 0.0, 0
        cv2.setNumThreads(1)  # the processors are busy with other frames
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(2))
            truth = stack.enter_context(self.truth())
            judge = self.judge(truth, pool)
            recording = stack.enter_context(_Recording(self, pool)) if job.record else None
            infos: deque[tuple[int, bytes]] = deque(maxlen=64)
            latest: dict[int, bytes] = {}
            messages = self._messages(infos, latest, recording)
            total = self.bag.topics[self.streams.image].count
            progress = stack.enter_context(
                tqdm(
                    total=total, unit='frame', desc=job.bag.name, disable=None if self.bar else True
                )
            )
            start = time.perf_counter()
            try:
                for message, picture in decoded(messages, pool):
                    progress.update()
                    before = latest.pop(id(message), None)
                    if isinstance(picture, Exception):
                        count_problem(self.skipped, str(picture))
                        continue
                    try:
                        frame = runner(picture, self._info(picture.stamp, infos, before))
                    except CameraError as error:
                        count_problem(self.skipped, str(error))
                        continue
                    inference += sum(frame.numbers.values()) / 1e3
                    judged += 1
                    done = judge.add(frame)
                    if recording:
                        recording.write(frame, message.log_ns)
                        recording.write_errors([done] if done else [])
            except KeyboardInterrupt:
                self.interrupted = True
                self.notes.append(f'interrupted: only {judged} of {total} images were judged')
            evaluation, last = judge.finish()
            if recording:
                recording.write_errors(last)
            seconds = time.perf_counter() - start
            if not judged:
                self._nothing()
        for engine in engines.values():
            engine.close()
        found = self.summary(evaluation, judged)
        found['odometry']['missed'] = runner.missed
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
                'frames_per_s': judged / seconds,
                'frames_per_s_without_inference': judged / max(seconds - inference, 1e-9),
                # Linux counts it in KiB.
                'memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            },
        }
        return evaluation, found

    def _nothing(self) -> None:
        reasons = '; '.join(f'{reason} ({n}x)' for reason, n in self.skipped.items())
        raise EvaluationError(
            f'not one of {len(self.stamps)} images of {self.job.bag} could be used'
            f'{": " + reasons if reasons else ""}'
        )

    def _messages(
        self, infos: deque, latest: dict[int, bytes], recording: _Recording | None
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
        if self.affine and len(job.models) == 1 and not self.perception.classes:
            raise EvaluationError(
                f"model '{self.perception.name}' knows depth only up to scale and shift, which the "
                'node shows but does not publish as depth: judge it with --mode offline'
            )
        settings = {
            name: list(map(float, value)) if isinstance(value, tuple) else value
            for name, value in asdict(job.settings).items()
        }
        parameters = {
            name: str(value)
            for name, value in {**settings, 'backend': job.backend, 'threads': job.threads}.items()
        }
        compressed = self.bag.topics[self.streams.image].msgtype == COMPRESSED_IMAGE
        live = job.out / 'logs' / 'live'
        plan = Plan(
            bag=job.bag,
            streams=self.streams,
            compressed=compressed,
            out=live,
            models=job.models,
            rate=job.rate,
            domain=job.domain or claim_domain(),
            parameters=parameters,
            outputs=job.outputs,
        )
        run = run_nodes(plan, self.say)
        self.say('Judging the outputs')
        logged = {}
        for message in self.bag.messages([self.streams.image]):
            self.stamps.append(header_stamp(message.data))
            logged.setdefault(self.stamps[-1], message.log_ns)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(2))
            truth = stack.enter_context(self.truth())
            recording = _Recording(self, pool)
            stack.enter_context(recording)
            judge = self.judge(truth, pool)
            judged = 0
            for message, frame in self._published(plan, run, logged, stack):
                recording.copy(message)
                if frame is not None:
                    judged += 1
                    recording.place(frame, message.log_ns)
                    done = judge.add(frame)
                    recording.write_errors([done] if done else [])
            evaluation, last = judge.finish()
            recording.write_errors(last)
        found = self.summary(evaluation, judged)
        main, odom = plan.output(model_topics(plan)[0]), plan.output('odom')
        for node in job.models:
            found['models'][node]['backend'] = run.backends.get(node, '')
        perception = model_topics(plan)[0] != 'odom'
        found |= {
            'rate': job.rate,
            'dropped_percent': 100 * (1 - run.frames_out(main) / max(1, run.frames_in)),
            'latency_ms': {
                'perception': percentiles(run.latencies_ms(main)) if perception else None,
                'odometry': percentiles(run.latencies_ms(odom)),
            },
            'age_ms': percentiles(evaluation.frames.get('age_ms')),
            'stages_ms': run.stages_ms,
            'player_latest_ms': 1e3 * run.latest_s,
            'node_messages': run.messages,
            'speed': None,
        }
        found['frames']['judged'] = run.frames_out(main)
        found['frames']['played'] = run.frames_in
        found['odometry']['poses'] = run.frames_out(odom)
        for path in (live / 'logs').iterdir():
            os.replace(path, job.out / 'logs' / path.name)
        shutil.rmtree(live)
        return evaluation, found

    def _published(
        self, plan: Plan, run: Run, logged: dict[int, int], stack: ExitStack
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
        infos = nearest(
            path, plan.output('depth/camera_info') if 'depth/image_rect' in names else None
        )
        images = nearest(self.job.bag, self.streams.image)
        track = PoseTrack({})
        if 'odom' in names:
            track = PoseTrack(
                {
                    header_stamp(m.data): decode_pose(recorded.decode(m))
                    for m in recorded.messages([names['odom']])
                }
            )
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
            except (ImageError, CameraError, AttributeError) as error:
                count_problem(self.skipped, str(error))
                yield message, None
                continue
            pose = track.at([stamp], 0)[0]
            if np.isfinite(pose).all():
                frame.pose = pose
                if before is not None:
                    frame.step = camera_step(before, pose, self.extrinsic)
            before = frame.pose
            topics = {
                'perception': names.get('depth/image_rect') or names.get('semantics/labels'),
                'odometry': names.get('odom'),
            }
            for name, topic in topics.items():
                if topic and stamp in run.latency_ms.get(topic, {}):
                    frame.numbers[f'{name}_ms'] = run.latency_ms[topic][stamp]
            if main in run.latency_ms and stamp in run.latency_ms[main] and stamp in logged:
                frame.numbers['age_ms'] = (
                    run.latency_ms[main][stamp] + (logged[stamp] - stamp) / 1e6
                )
            yield message, frame

    def _frame(
        self, recorded: Bag, message: Message, picture: Picture, info: Any, labels: Nearest | None
    ) -> Judgeable:
        """The frame of a main output."""
        decoded_message = recorded.decode(message)
        height, width = picture.rgb.shape[:2]
        camera = intrinsics_from_info(self.first_info, width, height)
        frame = Judgeable(picture.stamp, camera, picture.frame_id, picture.rgb, camera)
        if message.msgtype == ODOMETRY:
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
    if rgb.shape[:2] == (camera.height, camera.width):
        return rgb
    return cv2.resize(rgb, (camera.width, camera.height), interpolation=cv2.INTER_AREA)


class _Recording:
    """Writes recording/ in a thread of its own, in the order of the calls.

    Args:
        session: The evaluation.
        pool: Makes the pictures.
    """

    def __init__(self, session: _Session, pool: Executor) -> None:
        self._pictures = pool
        taken = {f'/{topic}' for topic in OUTPUT_TOPICS} & set(session.kept)
        self._namespace = '/depth_ros' if taken else ''
        self._session = session
        self._log: dict[int, tuple[str, int]] = {}  # frame and log time of each stamp

    def __enter__(self) -> _Recording:
        session = self._session
        # Not compressed: it would save a fifth and take as long as all the rest.
        self._writer = BagWriter(session.job.out / 'recording', overwrite=True)
        classes = session.perception.classes if session.perception else ()
        self._outputs = OutputRecording(
            self._writer,
            classes,
            self._namespace,
            None if session.tf else session.extrinsic,
            depth=not session.affine,
        )
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()
        self._copies: list[tuple[Message, bool]] = []
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
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
        self._writer.__exit__(kind, *rest)

    def _submit(self, work: Callable, *arguments: Any, **options: Any) -> None:
        self._waiting.append(self._pool.submit(work, *arguments, **options))
        while len(self._waiting) > WRITES_AHEAD or self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()

    def copy(self, message: Message) -> None:
        """Keep a message as it is."""
        topic = self._session.bag.topics.get(message.topic)
        self._copies.append((message, bool(topic and topic.latched)))
        if len(self._copies) >= COPIES:
            self._submit(self._write_copies, self._copies)
            self._copies = []

    def _write_copies(self, copies: list[tuple[Message, bool]]) -> None:
        for message, latched in copies:
            self._writer.write(
                message.topic, message.msgtype, message.log_ns, message.data, latched=latched
            )

    def place(self, frame: Judgeable, log_ns: int) -> None:
        """Write where the robot was, of a frame whose outputs are copied."""
        self._log[frame.stamp] = frame.frame_id, log_ns
        self._submit(self._outputs.write_transforms, frame, log_ns)

    def write(self, frame: Judgeable, log_ns: int) -> None:
        """Write what came out for a frame."""
        self._log[frame.stamp] = frame.frame_id, log_ns
        pictures = self._pictures.submit(self._outputs.pictures(frame))
        copies, self._copies = self._copies, []

        def work() -> None:
            self._write_copies(copies)
            self._outputs.write(frame, log_ns, pictures.result())

        self._submit(work)

    def write_errors(self, judged: Sequence) -> None:
        """Write the error images of frames that have been judged."""
        for item in judged:
            stamp = item.picture.stamp_ns
            frame_id, log_ns = self._log.pop(stamp, ('', 0))
            if item.picture.error is not None and log_ns:
                self._submit(self._outputs.write_error, stamp, frame_id, log_ns, item.picture.error)


def _clear(job: Job) -> None:
    """Remove the results of an earlier run, so that none of them can be taken for this one's."""
    out, bag = job.out.resolve(), job.bag.resolve()
    emptied = [out / name for name in FOLDERS]
    if out in (bag, *bag.parents) and (bag == out or set(emptied) & {bag, *bag.parents}):
        raise EvaluationError(
            f'the recording {job.bag} lies in the output folder {job.out}, which '
            'is about to be emptied: choose another one with --out'
        )
    if job.out.is_file():
        raise EvaluationError(f'{job.out} is a file: choose a folder with --out')
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
