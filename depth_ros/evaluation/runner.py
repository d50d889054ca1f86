"""Runs the networks on images, one after the other, as the nodes would, but without nodes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from depth_ros.bags.messages import BagError, Message, decode_pose, deserialize, header_stamp
from depth_ros.core.camera import ImageFit, Intrinsics, intrinsics_from_info
from depth_ros.core.confidence import Confidence
from depth_ros.core.depth import camera_depth, depth_factor
from depth_ros.core.ground import ground_weights
from depth_ros.core.images import ImageError, decode_rgb
from depth_ros.core.scale import MetricScale
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose_from_list
from depth_ros.core.trajectory import NoiseModel
from depth_ros.core.visual_odometry import Missed, NotFiniteError, Reason, VisualOdometry
from depth_ros.evaluation.frame_scores import FrameOutputs
from depth_ros.inference.classes import movable_ids
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import Engine, EngineError

AHEAD = 4
"""How many images are decoded ahead of the networks."""

COVERED = 'nothing was seen; the last velocity was kept'
"""Why an image counts as missed although it has a motion."""

LOOP_EVERY = 10
"""One frame in so many gets a `FrameOutputs.loop`."""


@dataclass(frozen=True)
class Settings:
    """Those parameters of the nodes that change their outputs; see docs/parameters.md."""

    fit: str = 'auto'
    max_depth: float = 0.0
    depth_scale: float = 0.0
    translation_scale: float = 0.0
    camera_pose: tuple[float, ...] = OPTICAL_IN_BASE
    max_gap: float = 1.0
    scale_source: str = 'model'
    camera_height: float = 0.0
    refinement: str = 'pnp'


@dataclass(frozen=True)
class RecordedImage:
    """A decoded image of a recording.

    Attributes:
        stamp: Header stamp, ns.
        frame_id: Frame of the camera.
        rgb: uint8 (H, W, 3).
    """

    stamp: int
    frame_id: str
    rgb: np.ndarray


def decode(message: Message) -> RecordedImage:
    """Decode an Image or CompressedImage as the nodes do.

    Raises:
        ImageError: if the image cannot be decoded.
    """
    try:
        recorded = deserialize(message)
    except BagError as error:
        raise ImageError(str(error)) from error
    return RecordedImage(header_stamp(message.data), recorded.header.frame_id, decode_rgb(recorded))


def decode_ahead(
    messages: Iterable[Message], pool: Executor
) -> Iterator[tuple[Message, RecordedImage | Exception]]:
    """Decode messages in a pool, in order; a message that cannot be decoded gives its error."""
    waiting: deque[tuple[Message, Future]] = deque()

    def finish() -> tuple[Message, RecordedImage | Exception]:
        message, future = waiting.popleft()
        try:
            return message, future.result()
        except ImageError as error:
            return message, error

    for message in messages:
        waiting.append((message, pool.submit(decode, message)))
        if len(waiting) > AHEAD:
            yield finish()
    while waiting:
        yield finish()


class Runner:
    """Does the work of both nodes, one image after the other.

    Args:
        perception, odometry: The loaded networks; either may be None.
        settings: The nodes' parameters.
        travelled: Whether distances will be known, by :attr:`scale`'s ``travel`` or by the truth.

    Attributes:
        scale: What is known of the scale of depth; None without depth.
        missed: Number of images that gave no motion, by reason.
        confidences: How far each motion may be trusted.
        failure: What the pose network said if it failed on the last image; empty otherwise.
    """

    def __init__(
        self,
        perception: Engine | None,
        odometry: Engine | None,
        settings: Settings,
        travelled: bool = False,
    ) -> None:
        self.scale: MetricScale | None = None
        if perception and 'depth' in perception.contract.outputs:
            self.scale = _scale(perception.contract, settings, travelled)
        self.missed: dict[str, int] = {}
        self.confidences: list[Confidence] = []
        self.failure = ''
        self._perception, self._odometry, self._settings = perception, odometry, settings
        if odometry:
            self._visual_odometry = VisualOdometry(
                partial(_motion, odometry),
                pose_from_list(settings.camera_pose),
                NoiseModel(0.0, 0.0, 0.0, 0.0),
                refinement=settings.refinement,
                camera_height=settings.camera_height,
                max_gap=settings.max_gap,
                metric=odometry.contract.metric,
                translation_scale=settings.translation_scale,
            )
        # The images that the last motions joined: stamp, image, and the motion that led to it.
        self._chain: deque[tuple[int, np.ndarray, np.ndarray | None]] = deque(maxlen=3)
        self._last: int | None = None  # stamp of the last image, whether it was used or not
        self._count = 0
        # How the perception network samples the image, and its input: often the same for both.
        self._resized: tuple[tuple[int, ...], np.ndarray] | None = None

    def hear(self, stamp: int, message: Any) -> None:
        """Take the distance that an Odometry or TwistStamped message tells of."""
        if self.scale is None:
            return
        if hasattr(message, 'pose'):
            self.scale.travel.place(stamp / 1e9, decode_pose(message)[:3, 3])
        else:
            speed = message.twist.linear
            self.scale.travel.speed(stamp / 1e9, math.hypot(speed.x, speed.y, speed.z))

    def __call__(self, image: RecordedImage, info: Any) -> FrameOutputs:
        """Run the networks.

        Args:
            image: The image, rectified.
            info: Its CameraInfo.

        Raises:
            CameraError: if the calibration does not fit the image.
            EngineError: if the perception network fails.
        """
        height, width = image.rgb.shape[:2]
        camera = intrinsics_from_info(info, width, height)
        output = FrameOutputs(image.stamp, camera, image.frame_id, image.rgb, camera)
        if self._perception:
            self._perceive(self._perception, output, camera)
        if self._odometry:
            self._move(self._odometry, output, image.rgb, camera)
        self._count += 1
        return output

    def _perceive(self, engine: Engine, output: FrameOutputs, camera: Intrinsics) -> None:
        contract, rgb = engine.contract, output.rgb
        fit = _fit(camera, contract, self._settings.fit)
        image = _resized(rgb, fit, contract.image_shape)
        self._resized = _sampling(fit, contract), image
        output.view = fit.network
        output.rgb = image
        if contract.image_size is not None:
            output.rgb = _resized(rgb, fit, (fit.network.height, fit.network.width, 3))
        start = time.perf_counter()
        found = dict(engine.infer({'image': image[None]}))
        output.numbers['perception_ms'] = 1e3 * (time.perf_counter() - start)
        depth, labels = found.pop('depth', None), found.pop('labels', None)
        if labels is not None:
            output.labels = labels.copy()
        if depth is not None:
            factor = depth_factor(contract, fit.depth_factor, self._measure(output, depth, fit))
            output.depth = depth * np.float32(factor)
            output.published = camera_depth(
                depth, output.labels, contract, factor, self._settings.max_depth
            )
            if not output.metric and self._settings.scale_source != 'model':
                output.published[:] = np.nan  # the node waits for the scale
        output.others = {name: values.copy() for name, values in found.items()}

    def _measure(self, output: FrameOutputs, depth: np.ndarray, fit: ImageFit) -> float:
        """Return the scale of a frame's depth, 0 where it is not known, and take note of it."""
        assert self.scale is not None and self._perception is not None
        contract, seconds = self._perception.contract, output.stamp / 1e9
        weights = ground_weights({c.name: c.id for c in contract.classes})
        output.moved = self.scale.see(
            output.rgb, depth, fit.network, output.labels, weights, seconds, fit.depth_factor
        )
        for name, found in self.scale.sources(seconds).items():
            output.numbers[f'scale_{name}'] = found.value
            output.numbers[f'scale_{name}_sigma'] = found.sigma
        known = self.scale.at(seconds)
        output.metric = known is not None
        if known is None:
            return 0.0
        output.numbers['scale_used'] = known.value
        output.numbers['scale_used_sigma'] = known.sigma
        return known.value

    def _move(
        self, engine: Engine, output: FrameOutputs, rgb: np.ndarray, camera: Intrinsics
    ) -> None:
        contract = engine.contract
        fit = _fit(camera, contract, self._settings.fit)
        sampling, resized = self._resized or (None, None)
        if resized is None or sampling != _sampling(fit, contract):
            resized = _resized(rgb, fit, contract.image_shape)
        last, self._last = self._last, output.stamp
        start = time.perf_counter()
        found = self._visual_odometry.step(resized, output.stamp, camera, rgb, output.frame_id)
        self.failure = ''
        if isinstance(found, Missed):
            if found.reason is Reason.FIRST:
                output.pose = self._visual_odometry.trajectory.pose
            else:
                reason = found.reason.value
                self.missed[reason] = self.missed.get(reason, 0) + 1
            if found.reason in (Reason.NETWORK, Reason.NOT_FINITE):
                self.failure = found.text
            if found.starts:
                self._chain.clear()
                self._chain.append((output.stamp, resized, None))
            return
        output.numbers['odometry_ms'] = 1e3 * (time.perf_counter() - start)
        self.confidences.append(found.confidence)
        if found.covered:
            self.missed[COVERED] = self.missed.get(COVERED, 0) + 1
        output.pose = self._visual_odometry.trajectory.pose
        if self._chain[-1][0] == last:  # no image in between was missed
            output.step = found.transform
        self._chain.append((output.stamp, resized, found.transform))
        refined = self._visual_odometry.tracked is not None  # a loop is of the network's motions
        if not refined and self._count % LOOP_EVERY == 0 and len(self._chain) == 3:
            (_, first, _), (_, _, one), (_, _, two) = self._chain
            assert one is not None and two is not None
            with suppress(EngineError, NotFiniteError):
                output.loop = (one, two, self._visual_odometry.compare(first, resized))


def _scale(contract: ModelContract, settings: Settings, travelled: bool) -> MetricScale:
    """Return the scale of a model's depth; it measures every source that there is."""
    source = 'model' if contract.affine_invariant else settings.scale_source
    also = {'height': settings.camera_height > 0, 'odometry': travelled}
    return MetricScale(
        source,
        metric=contract.metric,
        unit=settings.depth_scale,
        camera_height=settings.camera_height,
        moving=movable_ids(contract.classes),
        also=[] if contract.affine_invariant else [name for name, there in also.items() if there],
    )


def _motion(engine: Engine, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the output of a pose network for two images, (6,)."""
    return engine.infer({'previous': previous[None], 'current': current[None]})['pose']


def network_image(
    image: RecordedImage, info: Any, contract: ModelContract, mode: str = 'auto'
) -> np.ndarray:
    """Return the input of a network for an image, uint8 of its contract's `image_shape`.

    Raises:
        CameraError: if the calibration does not fit the image.
    """
    height, width = image.rgb.shape[:2]
    fit = _fit(intrinsics_from_info(info, width, height), contract, mode)
    return _resized(image.rgb, fit, contract.image_shape)


def _fit(camera: Intrinsics, contract: ModelContract, mode: str) -> ImageFit:
    return ImageFit.create(camera, contract.camera, mode)


def _sampling(fit: ImageFit, contract: ModelContract) -> tuple[int, ...]:
    """Return everything that decides which pixels a network gets of an image."""
    return fit.x, fit.y, fit.width, fit.height, *contract.image_shape


def _resized(image: np.ndarray, fit: ImageFit, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the part of an image that the network sees, uint8 of `shape`."""
    out = np.empty(shape, np.uint8)
    fit.to_network(image, out)
    return out
