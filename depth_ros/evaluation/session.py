"""One evaluation of a recording: its settings, and what offline and live mode share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from depth_ros.bags.files import recording_name
from depth_ros.bags.ground_truth import TF_PREFIX, GroundTruth, half_period
from depth_ros.bags.messages import TF, BagError, Message, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.recorded_camera import RecordedCamera
from depth_ros.bags.topics import Streams
from depth_ros.core.camera import (
    CameraError,
    ImageFit,
    calibration,
    check_intrinsics,
    intrinsics_from_info,
)
from depth_ros.core.depth import depth_factor
from depth_ros.core.metrics.depth import CAPS
from depth_ros.core.se3 import pose_from_list
from depth_ros.evaluation.frame_evaluator import Evaluation, FrameEvaluator
from depth_ros.evaluation.results import timing
from depth_ros.evaluation.runner import Settings
from depth_ros.evaluation.structure import FILE, PointTruth
from depth_ros.inference.classes import ClassMap
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.outputs import TOPICS

OUTPUT_TOPICS = tuple(topic.name for topic in TOPICS.values() if topic.recorded)
"""Topics of the nodes that live mode records unless told otherwise."""


class EvaluationError(RuntimeError):
    """A recording cannot be evaluated; the message says why and what to do."""


@dataclass(frozen=True)
class Job:
    """Settings of one evaluation; see the help of `evaluate_bag`.

    Attributes:
        bag: The recording.
        out: Folder for the results.
        models: Model file of each node, by node name.
        topics: Keyword arguments for `find_streams`.
        settings: Parameters of the nodes.
        mode: 'offline' or 'live'.
        rate: Speed of the replay.
        backend, threads: Inference runtime and its number of threads.
        classes: See `ClassMap.read`.
        tolerance: Seconds that truth may be away from an image; None: half an image period.
        lidar_pose: x y z qx qy qz qw, see `GroundTruth`; None: from TF.
        structure: Folder of structure from motion whose points are the true depth; see
            `PointTruth`.
        structure_points: Which of them: 'held_out' or 'all'.
        rectified: Whether the images are rectified already: 'yes', 'no', or 'auto', to find out.
        caps: Farthest true depths that count, metres; see `FrameScorer`.
        crop: Which part of the image counts for depth; see `FrameEvaluator`.
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
    rectified: str = 'auto'
    caps: tuple[float, ...] = CAPS
    crop: str | None = None
    record: bool = True
    outputs: tuple[str, ...] = OUTPUT_TOPICS
    domain: int | None = None


class Session:
    """State of one evaluation while it runs.

    Args:
        job: Settings of the evaluation.
        bag: The recording, open.
        streams: Its topics.
        contracts: Contract of each node's model, by node name.
        say: Function that is called with messages for the user.
        bar: Whether to show a progress bar.

    Attributes:
        skipped: Images that could not be used, by reason.
        notes: Notes for the report.
        interrupted: Whether the user has stopped the evaluation.
        stamps: Stamps of all images in the order of the recording, ns.
        perception: Contract of the perception model; None without one.
        classes: Mapping of the model's classes to those of the truth; None without semantics.
        affine: Whether scale and shift of the model's inverse depth are unknown.
        metric: Whether depth is in metres.
        camera: Which CameraInfo belongs to each image, and whether images are rectified.
        first_info: The first CameraInfo that can be used.
        info: The CameraInfo of the image that is being judged.
        extrinsic: T_base_camera (4, 4), metres.
        tf: Topics of transforms in the recording.
        kept: Topics that are copied to the recording of the results.
        point_truth: True depth from structure from motion; None without it.
    """

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
        self.stamps: list[int] = []
        self.perception = contracts.get('perception_node')
        classes = self.perception.classes if self.perception else ()
        self.classes = ClassMap.read(job.classes, classes) if classes else None
        self.affine = bool(self.perception and self.perception.affine_invariant)
        self.metric = bool(
            self.perception
            and not self.affine
            and (
                self.perception.metric
                or job.settings.depth_scale
                or job.settings.scale_source != 'model'
            )
        )
        try:
            self.camera = RecordedCamera(bag, streams, job.rectified)
        except CameraError as error:
            raise EvaluationError(f'{streams.camera_info} of {job.bag}: {error}') from error
        self.first_info = self.info = self.camera.first
        self.extrinsic = pose_from_list(job.settings.camera_pose)
        self.tf = [n for n, t in bag.topics.items() if t.msgtype == TF]
        named = [t for t in vars(streams).values() if t and not t.startswith(TF_PREFIX)]
        self.kept = list(dict.fromkeys([*named, *self.tf]))
        self.notes += [*bag.remarks, *self.camera.notes]
        if not self.camera.verdict.rectified:
            what = (
                'the nodes take them as rectified, and so they are judged: put image_proc before'
                if job.mode == 'live'
                else 'they are rectified here, which the nodes leave to image_proc'
            )
            self.notes.append(
                f'images on {streams.image} are not rectified ({self.camera.verdict.why}): {what}'
            )
        if bag.damage:
            self.notes.append(bag.damage)
        if self.first_info is not None:
            with suppress(CameraError):  # as above, of each image
                odd = check_intrinsics(calibration(self.first_info))
                self.notes += [f'camera_info holds {text}' for text in odd]
                self.notes += self._unseen()
        self.point_truth: PointTruth | None = None
        if job.structure is not None:
            self.point_truth = PointTruth(
                job.structure, recording_name(job.bag), job.structure_points
            )
            self.notes.append(self.point_truth.note)

    def evaluator(self, truth: GroundTruth, pool: Executor) -> FrameEvaluator:
        """Return the evaluator of the frames."""
        count = self.bag.topics[self.streams.image].count
        return FrameEvaluator(
            truth,
            self.classes,
            self.metric,
            count,
            pool,
            self.affine,
            self._depth_range(),
            self.job.settings.camera_height,
            self.job.caps,
            self.job.crop,
        )

    def _unseen(self) -> list[str]:
        """Say how much of the images the perception network does not see."""
        info = self.first_info
        if self.perception is None or info is None:
            return []
        camera = intrinsics_from_info(info, info.width, info.height)
        fit = ImageFit.create(camera, self.perception.camera, self.job.settings.fit)
        if fit.share == 1:
            return []
        return [
            f'the network sees {100 * fit.share:.0f} % of each image, {fit.width}x{fit.height} of '
            f'{camera.width}x{camera.height} pixels (--fit), and is judged there'
        ]

    def _depth_range(self) -> tuple[float, float] | None:
        """Return nearest and farthest depth that the model can give for this camera, metres.

        None if that is unknown.
        """
        info, settings = self.first_info, self.job.settings
        if self.perception is None or not self.metric or info is None:
            return None
        if settings.scale_source != 'model':
            return None  # it changes with the scale
        try:
            camera = intrinsics_from_info(info, info.width, info.height)
            fit = ImageFit.create(camera, self.perception.camera, settings.fit)
        except CameraError:  # reported for each image later
            return None
        unit = 1.0 if self.perception.metric else settings.depth_scale
        factor = depth_factor(self.perception, fit.depth_factor, unit)
        near, far = (factor * limit for limit in self.perception.depth_limits)
        return near, min(far, settings.max_depth or far)

    def truth(self) -> GroundTruth:
        """Return the ground truth, which the caller has to close.

        Raises:
            BagError: if a topic cannot be used.
        """
        pose = pose_from_list(self.job.lidar_pose) if self.job.lidar_pose else None
        points = self.point_truth.depth if self.point_truth else None
        rectify = self._rectify_map if self.job.mode == 'offline' else None
        return GroundTruth(self.job.bag, self.streams, self._tolerance(), pose, points, rectify)

    def _rectify_map(self, values: np.ndarray, topic: str, unseen: float) -> np.ndarray:
        return self.camera.rectify(values, self.info, topic, cv2.INTER_NEAREST, unseen)

    def _tolerance(self) -> int:
        """Return the largest time between an image and its ground truth, ns."""
        if not (self.streams.depth or self.streams.labels or self.streams.odom):
            return 0  # finding the image period would take reading the whole recording
        if self.job.tolerance is not None:
            return int(1e9 * self.job.tolerance)
        return half_period((header_stamp(m.data) for m in self._readable_images()), default=10**7)

    def _readable_images(self) -> Iterator[Message]:
        """Yield the images as far as the recording can be read."""
        try:
            yield from self.bag.messages([self.streams.image])
        except BagError:
            return

    def summary(self, evaluation: Evaluation, evaluated: int) -> dict:
        """Return the content of metrics.json, except for what only one mode adds.

        Args:
            evaluation: The result, to which the session's notes are added.
            evaluated: Number of frames that were judged.
        """
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
            'settings': {
                **asdict(self.job.settings),
                'classes': self.job.classes,
                'caps': list(self.job.caps),
                'crop': self.job.crop or 'none',
            },
            'frames': {
                'recorded': len(self.stamps),
                'judged': evaluated,
                'skipped': self.skipped,
            },
            'timing': timing(self.stamps),
            'depth': numbers['depth'],
            'semantics': numbers['semantics'],
            'trajectory': numbers['trajectory'],
            'odometry': numbers['odometry'],
            'consistency': numbers['consistency'],
            'scale': numbers['scale'] and {'source': self._source_of_metres(), **numbers['scale']},
            'notes': evaluation.notes,
        }

    def _source_of_metres(self) -> str:
        """Say where the metres of depth come from."""
        settings = self.job.settings
        height = f'height of the camera, {settings.camera_height:g} m'
        model = 'model'
        if self.perception and not self.perception.metric:
            model = f'depth_scale, {settings.depth_scale:g} m/unit'
        distances = f'distances of {self.streams.wheels}'
        parts = {'model': model, 'height': height, 'odometry': distances}
        if settings.scale_source != 'fused':
            return parts[settings.scale_source]
        there = {
            'model': self.perception is not None and self.perception.metric,
            'height': settings.camera_height > 0,
            'odometry': self.streams.wheels is not None,
        }
        return 'fused: ' + '; '.join(text for name, text in parts.items() if there[name])

    def _missing(self, numbers: dict) -> list[str]:
        """Return notes on missing ground truth, and on how depth was evaluated."""
        outputs = self.perception.outputs if self.perception else ()
        truth = {
            'depth': self.streams.depth or (FILE if self.point_truth else None),
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
