"""What both nodes share: lifecycle, camera input, worker thread, reporting and diagnostics.

A single-threaded executor takes messages and answers services; one worker thread runs the
network on the newest frame. A frame that comes while the worker is busy replaces the one that
waits, so latency cannot grow.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import traceback
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time as BuiltinTime
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from depth_ros.core.camera import CameraError, ImageFit, intrinsics_from_info
from depth_ros.core.images import ImageError, decode_rgb
from depth_ros.files import file_hash
from depth_ros.inference.contract import ContractError
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX, engine_output
from depth_ros.inference.runtimes.tensorrt import check_machine
from depth_ros.inference.self_test import LoadedEngine, load_checked
from depth_ros.nodes.engine_builder import EngineBuild
from depth_ros.ros import parameters
from depth_ros.ros.transport import (
    PROFILE_VARIABLE,
    FollowingSubscription,
    prepare_process,
    shared_memory_problem,
    until_shutdown,
)
from depth_ros.share import share_path

REPORT_PERIOD = 5.0
"""Seconds between two reports of the same cause, and of silence before an input is missed."""

INFO_PATIENCE = 0.05
"""Seconds to wait for the camera_info of an image where the two come together."""

STAGES = ('decode', 'preprocess', 'inference', 'postprocess', 'publish')
"""What the time of a frame is spent on."""

BIG_IMAGE = 512 * 1024
"""Bytes from which Fast DDS's default settings lose best-effort messages."""


USAGE = """Options are those of every ROS 2 node: parameters with --ros-args -p NAME:=VALUE or
--params-file FILE, topics with -r image:=/camera/image_rect. The launch file starts both nodes:
ros2 launch depth_ros depth_ros.launch.py (--show-args). The parameters are in the README and, with
their defaults, in config/depth_ros.yaml; 'ros2 param describe' tells those of a running node."""


class ConfigurationError(ValueError):
    """The node cannot be configured as its parameters ask; the message says why."""


@dataclass(frozen=True)
class Frame:
    """A camera image that is ready for a network.

    Attributes:
        header: of the image message.
        stamp: of the image, nanoseconds.
        rgb: uint8 [H, W, 3].
        info: the camera_info message that belongs to it.
        fit: how the image and the network's input lie on each other.
    """

    header: Header
    stamp: int
    rgb: np.ndarray
    info: CameraInfo
    fit: ImageFit


class Reporter:
    """Says each cause once, and again after REPORT_PERIOD if it lasts.

    Attributes:
        counts: how often each cause was reported or held back.
    """

    def __init__(self, logger) -> None:
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
        if error:  # a call of rclpy's logger may not change its severity
            self._logger.error(message)
        else:
            self._logger.warning(message)

    def __contains__(self, cause: str) -> bool:
        """Whether ``cause`` was reported before."""
        return cause in self._said

    def once(self, cause: str, message: str) -> None:
        """Warn of ``message`` the first time only."""
        with self._lock:
            if cause in self._said:
                return
            self._said[cause] = float('inf'), 0
        self._logger.warning(message)


class RosHandler(logging.Handler):
    """Passes warnings of Python's logging on to a ROS logger."""

    def __init__(self, logger) -> None:
        """Pass on to a ROS logger."""
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        self._logger.warning(record.getMessage())


class NewestFrame:
    """A place for one message between the executor and the worker.

    Attributes:
        received: messages put in.
        dropped: messages replaced before they were taken.
    """

    def __init__(self) -> None:
        """Start open and empty."""
        self.received = self.dropped = 0
        self._condition = threading.Condition()
        self._item: tuple | None = None
        self._open = True

    def put(self, item: tuple) -> None:
        """Leave ``item``, in place of one that still waits."""
        with self._condition:
            self.received += 1
            self.dropped += self._item is not None
            self._item = item
            self._condition.notify_all()

    def wake(self) -> None:
        """Let :meth:`take` and :meth:`wait` look at their conditions again."""
        with self._condition:
            self._condition.notify_all()

    def take(self, ready: Callable[[], bool]) -> tuple | None:
        """Wait for an item while ``ready`` is true and take it; ``None`` once closed."""
        with self._condition:
            self._condition.wait_for(lambda: not self._open or (self._item is not None and ready()))
            if not self._open:
                return None
            item, self._item = self._item, None
            return item

    def wait(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Wait at most ``seconds`` for ``ready``; whether it came true."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._open or ready(), seconds)

    def close(self) -> None:
        """Wake and refuse whoever waits."""
        with self._condition:
            self._open = False
            self._item = None
            self._condition.notify_all()


class StageTimes:
    """How long each stage took in the last hundred frames."""

    def __init__(self) -> None:
        """Start without a frame."""
        self._frame: Counter[str] = Counter()
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
        """Median milliseconds of each stage, of the worker's time outside inference
        (``overhead``), and from the message's arrival to the last publication (``latency``);
        empty without a frame."""
        frames = list(self._history)
        if not frames:
            return {}
        return {name: 1e3 * median(f[name] for f in frames) for name in frames[0]}


class CameraNode(LifecycleNode):
    """A lifecycle node that runs one network on a camera's newest image.

    A subclass sets ``task`` and ``default_model`` and implements the abstract methods.
    """

    task = ''
    default_model = ''

    def __init__(self, name: str, table: Sequence[parameters.Parameter]) -> None:
        """Declare the parameters of ``table`` and, with autostart, come up by itself.

        Raises:
            ValueError: naming the parameter whose initial value is wrong.
        """
        super().__init__(name)
        self.report = Reporter(self.get_logger())
        self.times = StageTimes()
        self.engine: Engine | None = None
        self._table = table
        parameters.declare(self, table, lambda: self.engine is not None)
        self.settings = parameters.read(self, table)
        names = parameters.unknown(self)
        if names:
            known = ', '.join(p.name for p in table)
            self.get_logger().warning(
                f'unknown parameters are ignored: {", ".join(names)}; known ones: {known}'
            )

        self._frames = NewestFrame()
        self._worker: threading.Thread | None = None
        self._infos: deque[CameraInfo] = deque(maxlen=20)
        self._image_stamp: BuiltinTime | None = None
        self._in_step = True  # camera_info comes with each image
        self._image_input: FollowingSubscription | None = None
        self._info_input: FollowingSubscription | None = None
        self._model_name = self._model_hash = ''
        self._model_path = Path()
        self._build: EngineBuild | None = None
        self._buildable = False
        self._next_engine: Engine | None = None  # for the worker, between two frames
        self._tensorrt, self._tensorrt_wanting = '', False
        self._problem = ''
        self._processed = self._unwanted = self._failed = 0
        self._last_image = self._last_info = 0.0
        self._age: float | None = None
        self._last_count = (time.monotonic(), 0, 0)

        # Steady time, so that the node also speaks while a simulated clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(0.25, self._watch_inputs, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        if self.settings.autostart:
            self._start_timer = self.create_timer(0.0, self._autostart, clock=steady)

    # What a subclass adds.

    @abstractmethod
    def set_up(self) -> None:
        """Create publishers and services; ``settings`` and ``engine`` are there.

        Raises:
            ConfigurationError: if the parameters ask for what cannot be had.
        """

    @abstractmethod
    def tear_down(self) -> None:
        """Undo :meth:`set_up`, also one that failed half-way."""

    @abstractmethod
    def wanted(self) -> bool:
        """Whether anybody listens to what the next frame would give."""

    @abstractmethod
    def process(self, frame: Frame) -> None:
        """Run the network on a frame and publish; called in the worker thread."""

    def start(self) -> None:
        """Get ready for the first frame after activation."""

    # Lifecycle.

    def _autostart(self) -> None:
        self._start_timer.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the publishers."""
        self.settings = parameters.read(self, self._table)
        return self._transition('configure', self._configure, self._release)

    def _configure(self) -> None:
        path = self._model_path = Path(self.settings.model or share_path(self.default_model))
        self._tensorrt, self._tensorrt_wanting = '', False
        loaded = self._load(self.settings.backend)
        engine, self._buildable = loaded.engine, loaded.buildable
        if engine.contract.task != self.task:
            engine.close()
            raise ConfigurationError(
                f"model '{path}': field 'task' is '{engine.contract.task}', this node needs "
                f"'{self.task}'; set the parameter model to a {self.task} model"
            )
        self.engine = engine
        self._model_hash = file_hash(path)[:12]
        self._model_name = engine.contract.name
        self.set_up()
        self.get_logger().info(
            f"model '{self._model_name}' ({path}, sha256 {self._model_hash}) on "
            f'{engine.backend} with {engine.threads} threads'
        )
        if self.settings.auto_build != 'never' and (
            path.suffix == ENGINE_SUFFIX or self.settings.backend != 'auto'
        ):
            self.get_logger().warning(
                'auto_build has no effect: it needs backend auto and an .onnx file as model'
            )

    def _load(self, backend: str) -> LoadedEngine:
        loaded = load_checked(
            self._model_path,
            backend,
            self.settings.threads,
            parameters.GPU_MEMORY[self.settings.gpu_memory],
        )
        if loaded.tensorrt:
            self._tell_tensorrt(
                loaded.tensorrt, loaded.engine.backend != 'tensorrt', loaded.unchecked
            )
        return loaded

    def _tell_tensorrt(self, text: str, wanting: bool = False, warn: bool = False) -> None:
        """Log what TensorRT is at and keep it for /diagnostics; ``wanting``: it is not used."""
        self._tensorrt, self._tensorrt_wanting = text, wanting
        if wanting or warn:
            self.get_logger().warning(f'TensorRT: {text}')
        else:
            self.get_logger().info(f'TensorRT: {text}')

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Warm the network up and take images."""

        def activate() -> None:
            self.engine.warm_up()
            super(CameraNode, self).on_activate(state)
            self._infos.clear()
            self._in_step = True
            self._frames, self.times = NewestFrame(), StageTimes()
            self._processed = self._unwanted = self._failed = 0
            self._last_image = self._last_info = time.monotonic()
            self._last_count = (time.monotonic(), 0, 0)
            self.start()
            self._start_build()  # before images come, which importing TensorRT would hold up
            self._subscribe()
            self._worker = threading.Thread(
                target=self._work, args=(self._frames,), name='inference', daemon=True
            )
            self._worker.start()

        result = self._transition('activate', activate, self._stop)
        if result == TransitionCallbackReturn.SUCCESS:
            self.get_logger().info(
                f'active: waiting for {self._image_input.topic} and {self._info_input.topic}'
            )
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more images; the frame in work is finished first."""
        self._stop()
        self._take_next_engine()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and the publishers."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker and release the model."""
        self._stop()
        self._release()

    def _transition(
        self, name: str, action: Callable[[], None], undo: Callable[[], None]
    ) -> TransitionCallbackReturn:
        """Run ``action``; on failure say why, once and clearly, and ``undo``."""
        try:
            action()
        except (
            ConfigurationError,
            ContractError,
            EngineError,
            FileNotFoundError,
        ) as error:
            self._problem = f'cannot {name}: {error}'
        except Exception:  # whatever it is, the node stays and can be asked again
            self._problem = f'cannot {name}, internal error: {traceback.format_exc()}'
        else:
            self._problem = ''
            return TransitionCallbackReturn.SUCCESS
        undo()
        self.get_logger().error(
            f'{self._problem} [the node stays up; try again with: ros2 lifecycle set '
            f'{self.get_fully_qualified_name()} {name}]'
        )
        return TransitionCallbackReturn.FAILURE

    def _release(self) -> None:
        self.tear_down()
        for engine in (self.engine, self._next_engine):
            if engine is not None:
                engine.close()
        self.engine = self._next_engine = None

    def _subscribe(self) -> None:
        # As image_transport does: the remapped base name, then the transport's.
        topic = self.resolve_topic_name('image')
        image_type: type = Image
        if self.settings.image_transport == 'compressed':
            topic, image_type = f'{topic}/compressed', CompressedImage
        # camera_info first: an image waits for it.
        self._info_input = FollowingSubscription(
            self, CameraInfo, 'camera_info', self._on_info, self.settings.reliability
        )
        self._image_input = FollowingSubscription(
            self, image_type, topic, self._on_image, self.settings.reliability
        )

    def _stop(self) -> None:
        for subscription in (self._image_input, self._info_input):
            if subscription is not None:
                subscription.close()
        self._image_input = self._info_input = None
        self._frames.close()
        if self._build is not None:
            self._build.stop()
            self._build = None
            if self._buildable:  # it did not come to its end
                self._tensorrt = 'the build was stopped'
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    # TensorRT's engine, built while the node runs.

    def _start_build(self) -> None:
        if self.settings.auto_build == 'never' or not self._buildable:
            return
        try:
            check_machine()
        except EngineError as error:
            self._buildable = False
            self._tell_tensorrt(f'no engine is built: {error}', wanting=True)
            return
        self._tell_tensorrt(
            f'building {engine_output(self._model_path)} '
            f'({self.settings.auto_build}); until then on {self.engine.backend}'
        )
        self._build = EngineBuild(
            self._model_path,
            self.settings.auto_build,
            lambda line: self._tell_tensorrt(f'building: {line}'),
            self._on_build_end,
        )

    def _on_build_end(self, problem: str) -> None:
        """Load the new engine for the worker; called in the build's thread."""
        self._buildable = False  # what failed once is not tried again until the next start
        try:
            if problem:
                raise EngineError(f'the build failed: {problem}')
            loaded = self._load('auto')
            if loaded.engine.backend != 'tensorrt':
                loaded.engine.close()
            elif not loaded.engine.source_hash.startswith(self._model_hash):
                loaded.engine.close()  # whose outputs may mean something else
                raise EngineError(
                    f"'{self._model_path}' has changed since it was loaded; clean up "
                    'and configure the node to use it'
                )
            else:
                self._next_engine = loaded.engine
        except (ContractError, EngineError, OSError) as error:
            self._tell_tensorrt(f'{error}; going on with {self.engine.backend}', wanting=True)
        except Exception:  # a thread that dies silently would leave the node building for ever
            self._tell_tensorrt(f'internal error: {traceback.format_exc()}', wanting=True)

    def _take_next_engine(self) -> None:
        """Go on with the engine that was built meanwhile; called between two frames."""
        if self._next_engine is None:
            return
        old, self.engine, self._next_engine = self.engine, self._next_engine, None
        old.close()
        self.get_logger().info(f"model '{self._model_name}' now on {self.engine.backend}")

    # Input, in the executor's thread.

    def _on_info(self, message: CameraInfo) -> None:
        self._last_info = time.monotonic()
        self._infos.append(message)
        if message.header.stamp == self._image_stamp:
            self._in_step = True
        self._frames.wake()

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._last_image = time.monotonic()
        stamp = self._image_stamp = message.header.stamp
        if self._infos and self._infos[-1].header.stamp == stamp:
            self._in_step = True
        self._age = (self.get_clock().now() - Time.from_msg(stamp)).nanoseconds / 1e9
        self._frames.put((message, time.perf_counter()))

    def _watch_inputs(self) -> None:
        if self._image_input is None:
            return
        self._image_input.follow()
        self._info_input.follow()
        now = time.monotonic()
        if now - self._last_image > REPORT_PERIOD:
            self.report('no image', self._silence(self._image_input, 'image'))
            self._last_info = now  # of two missing inputs, one is enough to say
        elif not self._infos and now - self._last_info > REPORT_PERIOD:
            self.report(
                'no camera_info',
                self._silence(self._info_input, 'camera_info') + '; images wait for it',
            )

    def _silence(self, subscription: FollowingSubscription, name: str) -> str:
        """Why an input may be silent, and the remedy."""
        topic, wanted = subscription.topic, subscription.type_name
        start = f'no {name} for {REPORT_PERIOD:g} s on {topic} ({wanted}): '
        publishers = subscription.publishers()
        types = {p.topic_type for p in publishers}
        if not publishers:
            others = self._topics_of_type(wanted)
            if wanted.endswith('CompressedImage'):
                others = [
                    t.removesuffix('/compressed') for t in others if t.endswith('/compressed')
                ]
            there = (
                f'there are {", ".join(others)}; remap with --ros-args -r {name}:={others[0]}'
                if others
                else f'no topic of this type is published; start the camera, then '
                f'remap with --ros-args -r {name}:=<its topic>'
            )
            return f'{start}nobody publishes it; {there}'
        if wanted not in types:
            remedy = 'remap to a topic of the right type'
            if any(t.endswith('Image') for t in types) and name == 'image':
                other = 'compressed' if wanted.endswith('/Image') else 'raw'
                remedy = f'set the parameter image_transport to {other} or {remedy}'
            return f'{start}it is published as {", ".join(sorted(types))}; {remedy}'
        hint = 'is the camera or the player running?'
        if self.settings.reliability == 'reliable':
            hint += ' Best-effort publishers are not matched with reliability set to reliable.'
        elif name == 'image' and not subscription.reliable:
            hint += (
                ' Best-effort images over 512 KiB are lost unless the publisher, too, runs '
                f'with {self._profile_hint()}'
            )
        return f'{start}{len(publishers)} publisher(s), but no message comes; {hint}'

    def _topics_of_type(self, kind: str) -> list[str]:
        """Topics of a type that others publish, the likeliest cameras first."""
        own = {p.topic_name for p in self.publishers}
        found = [
            topic
            for topic, kinds in self.get_topic_names_and_types()
            if kind in kinds and topic not in own and self.count_publishers(topic) > 0
        ]
        return sorted(found, key=lambda t: ('depth' in t or 'semantics' in t, t))

    def _profile_hint(self) -> str:
        return f'{PROFILE_VARIABLE}={share_path("config/fastdds.xml")}'

    # Frames, in the worker's thread.

    def _work(self, frames: NewestFrame) -> None:
        while True:
            item = frames.take(lambda: bool(self._infos))
            if item is None:
                return
            message, arrived = item
            self._take_next_engine()
            try:
                self.settings = parameters.read(self, self._table)
                if not self.wanted():
                    self._unwanted += 1
                    continue
                info = self._info_for(message.header.stamp)
                started = time.perf_counter()
                self.process(self._frame(message, info))
            except (ImageError, CameraError, EngineError, ConfigurationError) as error:
                # The same sentence with other numbers is the same cause.
                self._fail(re.sub(r'\d+', '#', str(error))[:60], str(error))
            except Exception:  # a frame must never take the node down
                if not self.context.ok():  # Ctrl-C closed the publishers under us
                    return
                self._fail('internal error', f'internal error: {traceback.format_exc()}')
            else:
                self._processed += 1
                ended = time.perf_counter()
                self.times.finish(ended - started, ended - arrived)

    def _fail(self, cause: str, message: str) -> None:
        self._failed += 1
        self.times.discard()
        self.report(cause, f'frame dropped: {message}', error=True)

    def _frame(self, message: Image | CompressedImage, info: CameraInfo) -> Frame:
        """Decode a message and fit it to the network.

        Raises:
            ImageError: if the image cannot be decoded.
            CameraError: if its calibration does not fit.
        """
        with self.times.stage('decode'):
            rgb = decode_rgb(message)
        height, width = rgb.shape[:2]
        stamp = message.header.stamp
        with self.times.stage('preprocess'):
            camera = intrinsics_from_info(info, width, height)
            fit = ImageFit.create(camera, self.engine.contract.camera, self.settings.fit)
        self._check_input(message, info, fit)
        return Frame(message.header, stamp.sec * 10**9 + stamp.nanosec, rgb, info, fit)

    def _info_for(self, stamp: BuiltinTime) -> CameraInfo:
        """The camera_info of an image: that of the same stamp, or else the latest.

        Where the camera publishes both together, a camera_info that is a moment behind its image
        is waited for, so that a change of resolution or zoom takes effect with the right image.
        """

        def same() -> CameraInfo | None:
            return next((i for i in reversed(tuple(self._infos)) if i.header.stamp == stamp), None)

        if self._in_step and same() is None:
            self._in_step = self._frames.wait(lambda: same() is not None, INFO_PATIENCE)
        return same() or self._infos[-1]

    def _check_input(
        self, message: Image | CompressedImage, info: CameraInfo, fit: ImageFit
    ) -> None:
        """Warn of what makes the outputs worse than they could be."""
        frame, info_frame = message.header.frame_id, info.header.frame_id
        if not frame:
            self.report(
                'frame_id',
                'the image has no frame_id, so nothing can place the outputs; '
                'set the frame_id of the camera driver',
            )
        elif frame != info_frame:
            self.report(
                'frame_id',
                f"image frame '{frame}' and camera_info frame '{info_frame}' "
                'differ; is camera_info remapped to the same camera?',
            )
        if any(info.d):
            self.report.once(
                'distortion',
                'camera_info has lens distortion; images are taken as '
                "rectified. If they are raw, put image_proc's rectify node before "
                'and remap image to its image_rect',
            )
        if fit.anisotropy > 1.1:
            self.report.once(
                'anisotropy',
                f'the image is distorted by '
                f"{100 * (fit.anisotropy - 1):.0f} % to fit the model's aspect "
                f'ratio ({fit.model.width}x{fit.model.height}); set the parameter '
                'fit to crop, or use a model trained for this camera',
            )
        if (
            len(message.data) > BIG_IMAGE
            and not self._image_input_reliable()
            and ('best effort' not in self.report)
        ):
            self.report.once(
                'best effort',
                f'images of {len(message.data) // 1024} KiB come best '
                "effort; if many are missing, start the camera's process with "
                f'{self._profile_hint()}',
            )

    def _image_input_reliable(self) -> bool:
        subscription = self._image_input  # the executor may close it meanwhile
        return subscription is None or subscription.reliable

    # Diagnostics.

    def diagnostics(self) -> dict[str, str]:
        """What the node knows about itself, as published on /diagnostics."""
        now = time.monotonic()
        since, processed, dropped = self._last_count
        span = max(now - since, 1e-3)
        frames = self._frames
        image = self._image_input
        values = {
            'state': self._state_machine.current_state[1],
            'model': self._model_name,
            'model_sha256': self._model_hash,
            'backend': self.engine.backend if self.engine else '',
            'threads': str(self.settings.threads),
            'tensorrt': self._tensorrt,
            'image_topic': image.topic if image else '',
            'reliability': ('reliable' if image.reliable else 'best_effort') if image else '',
            'received': str(frames.received),
            'processed': str(self._processed),
            'dropped': str(frames.dropped),
            'not_wanted': str(self._unwanted),
            'failed': str(self._failed),
            'rate_hz': f'{(self._processed - processed) / span:.2f}',
            'drops_hz': f'{max(frames.dropped - dropped, 0) / span:.2f}',
            'input_silence_s': f'{now - self._last_image:.2f}' if image else '',
            'input_age_ms': f'{1e3 * self._age:.1f}' if self._age is not None else '',
        }
        values.update(
            {f'time_{name}_ms': f'{value:.3f}' for name, value in self.times.medians().items()}
        )
        values.update(
            {f'problem: {cause}': str(count) for cause, count in sorted(self.report.counts.items())}
        )
        return values

    def _publish_diagnostics(self) -> None:
        values = self.diagnostics()
        if self._problem:
            level, text = DiagnosticStatus.ERROR, self._problem
        elif self._image_input is None:
            level, text = DiagnosticStatus.OK, values['state']
        elif time.monotonic() - self._last_image > REPORT_PERIOD:
            level, text = DiagnosticStatus.WARN, 'no image'
        elif not self._infos:
            level, text = DiagnosticStatus.WARN, 'no camera_info'
        elif self._tensorrt_wanting:
            level = DiagnosticStatus.WARN
            text = f'{values["rate_hz"]} Hz on {values["backend"]}, without TensorRT'
        else:
            level, text = DiagnosticStatus.OK, f'{values["rate_hz"]} Hz'
        self._last_count = time.monotonic(), self._processed, self._frames.dropped
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=level,
                name=f'{self.get_fully_qualified_name()[1:]}: inference',
                message=text,
                hardware_id=self._model_name,
                values=[KeyValue(key=key, value=value) for key, value in values.items()],
            )
        ]
        self._diagnostics.publish(message)


def run(make_node: Callable[[], CameraNode], args: Sequence[str] | None = None) -> int:
    """Run a node until it is asked to end; the ``main`` of each node.

    Args:
        make_node: the node's class.
        args: command line; the process's by default.

    Returns:
        Exit code: 0 after SIGINT, SIGTERM or --help, 1 if the initial parameters are wrong.
    """
    if not {'-h', '--help'}.isdisjoint(sys.argv[1:] if args is None else args):
        print(sys.modules[make_node.__module__].__doc__, USAGE, sep='\n')
        return 0
    prepare_process()
    # A thread that computes keeps the interpreter for this long, 5 ms by default: too long beside a
    # worker whose steps take one.
    sys.setswitchinterval(5e-4)
    # Likewise, waking OpenCV's threads takes longer than the millisecond of work they would share.
    cv2.setNumThreads(1)
    node = None
    try:
        rclpy.init(args=args)
        with until_shutdown():
            logger = rclpy.logging.get_logger('depth_ros')
            if problem := shared_memory_problem():
                logger.warning(problem)
            try:
                node = make_node()
            except ValueError as error:
                logger.fatal(str(error))
                return 1
            logging.getLogger('depth_ros').addHandler(RosHandler(node.get_logger()))
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            while rclpy.ok():
                try:
                    executor.spin_once()
                except Exception:
                    if not rclpy.ok():
                        break
                    node.report(
                        'internal error', f'internal error: {traceback.format_exc()}', error=True
                    )
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0
