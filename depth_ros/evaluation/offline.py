"""Runs the networks on the images of a recording, one after the other, as the nodes would.

No node, no DDS, no dropped frame: the same recording and the same models give the same numbers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from depth_ros.bags.messages import BagError, Message, deserialize, header_stamp
from depth_ros.core.camera import ImageFit, Intrinsics, intrinsics_from_info
from depth_ros.core.depth import camera_depth, depth_factor
from depth_ros.core.images import ImageError, decode_rgb
from depth_ros.core.se3 import OPTICAL_IN_BASE, pose_from_list
from depth_ros.core.trajectory import NoiseModel
from depth_ros.core.visual_odometry import Missed, NotFiniteError, Reason, VisualOdometry
from depth_ros.evaluation.frame_evaluator import Judgeable
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import Engine, EngineError

AHEAD = 4
"""Images that are decoded ahead of the networks."""

LOOP_EVERY = 10
"""One frame in so many has its motion checked over two steps at once."""


@dataclass(frozen=True)
class Settings:
    """The nodes' parameters that change what comes out; see config/."""

    fit: str = 'stretch'
    max_depth: float = 0.0
    depth_scale: float = 0.0
    translation_scale: float = 0.0
    camera_pose: tuple[float, ...] = OPTICAL_IN_BASE
    max_gap: float = 1.0


@dataclass(frozen=True)
class Picture:
    """An image of a recording.

    Attributes:
        stamp: Header stamp, ns.
        frame_id: Of the camera.
        rgb: uint8 (H, W, 3).
    """

    stamp: int
    frame_id: str
    rgb: np.ndarray


def decode(message: Message) -> Picture:
    """Decode an Image or CompressedImage as the nodes do.

    Raises:
        ImageError: The image cannot be decoded.
    """
    try:
        recorded = deserialize(message)
    except BagError as error:
        raise ImageError(str(error)) from error
    return Picture(header_stamp(message.data), recorded.header.frame_id, decode_rgb(recorded))


def decoded(
    messages: Iterable[Message], pool: Executor
) -> Iterator[tuple[Message, Picture | Exception]]:
    """Decode messages ahead of time, in order; one that cannot be decoded gives its error."""
    waiting: deque[tuple[Message, Future]] = deque()

    def finish() -> tuple[Message, Picture | Exception]:
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
    """The work of both nodes on one image after the other.

    Args:
        perception, odometry: The loaded networks; either may be None.
        settings: The nodes' parameters.

    Attributes:
        missed: Number of images that gave no motion, by reason.
        failure: What the pose network said if it failed on the last image; empty otherwise.
    """

    def __init__(
        self, perception: Engine | None, odometry: Engine | None, settings: Settings
    ) -> None:
        self.missed: dict[str, int] = {}
        self.failure = ''
        self._perception, self._odometry, self._settings = perception, odometry, settings
        if odometry:
            self._visual_odometry = VisualOdometry(
                self._infer,
                pose_from_list(settings.camera_pose),
                NoiseModel(0.0, 0.0, 0.0, 0.0),
                max_gap=settings.max_gap,
                metric=odometry.contract.metric,
                translation_scale=settings.translation_scale,
            )
        # The images that the last motions joined: stamp, image, and the motion that led to it.
        self._chain: deque[tuple[int, np.ndarray, np.ndarray | None]] = deque(maxlen=3)
        self._last: int | None = None  # stamp of the last image, whether it was used or not
        self._count = 0
        # How the perception network samples the image, and what it sees: often both see the same.
        self._resized: tuple[tuple[int, ...], np.ndarray] | None = None

    def __call__(self, picture: Picture, info: Any) -> Judgeable:
        """Run the networks.

        Args:
            picture: The image, rectified.
            info: Its CameraInfo.

        Raises:
            CameraError: The calibration does not fit the image.
            EngineError: The perception network fails.
        """
        height, width = picture.rgb.shape[:2]
        camera = intrinsics_from_info(info, width, height)
        output = Judgeable(picture.stamp, camera, picture.frame_id, picture.rgb, camera)
        if self._perception:
            self._perceive(output, picture, camera)
        if self._odometry:
            self._move(output, picture, camera)
        self._count += 1
        return output

    def _perceive(self, output: Judgeable, picture: Picture, camera: Intrinsics) -> None:
        contract = self._perception.contract
        fit = _fit(camera, contract, self._settings.fit)
        image = _resized(picture.rgb, fit, contract.image_shape)
        self._resized = _sampling(fit, contract), image
        output.view = fit.network
        output.rgb = image
        if contract.image_size is not None:
            output.rgb = _resized(picture.rgb, fit, (fit.network.height, fit.network.width, 3))
        start = time.perf_counter()
        found = self._perception.infer({'image': image[None]})
        output.numbers['perception_ms'] = 1e3 * (time.perf_counter() - start)
        output.others = {n: v.copy() for n, v in found.items() if n not in ('depth', 'labels')}
        if 'labels' in found:
            output.labels = found['labels'].copy()
        if 'depth' in found:
            factor = depth_factor(contract, fit.depth_factor, self._settings.depth_scale)
            output.depth = found['depth'] * np.float32(factor)
            output.published = camera_depth(
                found['depth'], output.labels, contract, factor, self._settings.max_depth
            )

    def _move(self, output: Judgeable, picture: Picture, camera: Intrinsics) -> None:
        contract = self._odometry.contract
        fit = _fit(camera, contract, self._settings.fit)
        sampling, resized = self._resized or (None, None)
        if sampling != _sampling(fit, contract):
            resized = _resized(picture.rgb, fit, contract.image_shape)
        last, self._last = self._last, picture.stamp
        start = time.perf_counter()
        found = self._visual_odometry.step(resized, picture.stamp, camera)
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
                self._chain.append((picture.stamp, resized, None))
            return
        output.numbers['odometry_ms'] = 1e3 * (time.perf_counter() - start)
        output.pose = self._visual_odometry.trajectory.pose
        if self._chain[-1][0] == last:  # no image in between was missed
            output.step = found.transform
        self._chain.append((picture.stamp, resized, found.transform))
        if self._count % LOOP_EVERY == 0 and len(self._chain) == 3:
            (_, first, _), (_, _, one), (_, _, two) = self._chain
            with suppress(EngineError, NotFiniteError):
                output.loop = (one, two, self._visual_odometry.compare(first, resized))

    def _infer(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        return self._odometry.infer({'previous': previous[None], 'current': current[None]})['pose']


def network_image(
    picture: Picture, info: Any, contract: ModelContract, mode: str = 'stretch'
) -> np.ndarray:
    """What a network gets of an image, uint8 of its contract's ``image_shape``.

    Raises:
        CameraError: The calibration does not fit the image.
    """
    height, width = picture.rgb.shape[:2]
    fit = _fit(intrinsics_from_info(info, width, height), contract, mode)
    return _resized(picture.rgb, fit, contract.image_shape)


def _fit(camera: Intrinsics, contract: ModelContract, mode: str) -> ImageFit:
    return ImageFit.create(camera, contract.camera, mode)


def _sampling(fit: ImageFit, contract: ModelContract) -> tuple[int, ...]:
    """All that decides which image a network gets."""
    return fit.x, fit.y, fit.width, fit.height, *contract.image_shape


def _resized(image: np.ndarray, fit: ImageFit, shape: tuple[int, int, int]) -> np.ndarray:
    """What the network sees of an image, uint8 (h, w, 3)."""
    out = np.empty(shape, np.uint8)
    fit.to_network(image, out)
    return out
