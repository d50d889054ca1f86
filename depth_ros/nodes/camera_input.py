"""A node's camera: subscriptions, the newest image, the camera_info that belongs to it.

The executor's thread puts messages in, the worker takes the newest image out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from builtin_interfaces.msg import Time as BuiltinTime
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from depth_ros.core.camera import (
    CameraError,
    ImageFit,
    Intrinsics,
    calibration,
    check_intrinsics,
    intrinsics_from_info,
)
from depth_ros.core.camera_infos import CameraInfos
from depth_ros.core.rectification import Rectification
from depth_ros.core.visual_odometry import NO_STAMP
from depth_ros.inference.outputs import TOPICS
from depth_ros.nodes.monitor import REPORT_PERIOD, Reporter, StageTimes
from depth_ros.ros.messages import image_to_rgb, rectified_info
from depth_ros.ros.transport import PROFILE_VARIABLE, FollowingSubscription
from depth_ros.share import share_path

INFO_PATIENCE = 0.05
"""Seconds to wait for the camera_info of an image where the two come together."""

IN_STEP = 2
"""Images in a row that must come with their camera_info before one is waited for."""

BIG_IMAGE = 512 * 1024
"""Bytes from which Fast DDS's default settings lose best-effort messages."""

COMPRESSED = 'image/compressed'
"""The topic of compressed images, before remapping."""

_IMAGES = 'sensor_msgs/msg/'

Item = TypeVar('Item')
ImageMessage = Image | CompressedImage


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


class Newest(Generic[Item]):
    """A place for one item between the executor and the worker.

    Attributes:
        received: items put in.
        dropped: items replaced before they were taken.
    """

    def __init__(self) -> None:
        """Start open and empty."""
        self.received = self.dropped = 0
        self._condition = threading.Condition()
        self._item: Item | None = None
        self._open = True

    def put(self, item: Item) -> None:
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

    def take(self, ready: Callable[[], bool]) -> Item | None:
        """Wait until there is an item and ``ready`` is true, and take it; ``None`` once closed."""
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
        """Wake whoever waits, and refuse all that come."""
        with self._condition:
            self._open = False
            self._item = None
            self._condition.notify_all()


class CameraInput:
    """The image and camera_info topics of a node, from activation to deactivation.

    Attributes:
        active: whether the input is in use; it ends with :meth:`close`.
        listening: whether the topics are subscribed, see :meth:`listen`.
        frames: where the newest image waits, with the time at which it came
            (``time.perf_counter``).
        has_info: whether a camera_info has come.
        last_image: when the last image came, or the input was made (``time.monotonic``).
        age: seconds from the last image's stamp to its arrival; ``None`` without an image.
    """

    def __init__(self, node: Node, report: Reporter, transport: str, reliability: str) -> None:
        """Subscribe.

        Args:
            node: the node.
            report: gets warnings about the input.
            transport: ``raw`` or ``compressed``.
            reliability: one of :data:`depth_ros.ros.transport.RELIABILITIES`.
        """
        self.active = self.listening = True
        self.frames: Newest[tuple[ImageMessage, float]] = Newest()
        self.last_image = self._last_info = time.monotonic()
        self.age: float | None = None
        self._node, self._report, self._reliability = node, report, reliability
        self._infos: CameraInfos[CameraInfo] = CameraInfos()
        self._image_stamp: BuiltinTime | None = None
        self._lens: tuple[tuple, Rectification] | None = None
        # How many images in a row came with their camera_info, and whether the newest did.
        self._in_step, self._matched = IN_STEP, True
        topic, image_type = node.resolve_topic_name('image'), Image
        if transport == 'compressed':
            topic, image_type = compressed_topic(node), CompressedImage
        # camera_info first: an image waits for it.
        self._info = FollowingSubscription(
            node, CameraInfo, 'camera_info', self._on_info, reliability
        )
        self._image = FollowingSubscription(node, image_type, topic, self._on_image, reliability)

    @property
    def has_info(self) -> bool:
        return bool(self._infos)

    @property
    def image_topic(self) -> str:
        """The resolved topic of the images."""
        return self._image.topic

    @property
    def info_topic(self) -> str:
        """The resolved topic of the calibration."""
        return self._info.topic

    @property
    def reliable(self) -> bool:
        """Whether images are sent again when they get lost."""
        return self._image.reliable

    @property
    def silence(self) -> float:
        """Seconds since the last image."""
        return time.monotonic() - self.last_image

    def close(self) -> None:
        """Unsubscribe and release the worker."""
        self.active = False
        self._image.close()
        self._info.close()
        self.frames.close()

    # In the executor's thread.

    def listen(self, wanted: bool) -> None:
        """Subscribe, or unsubscribe while nobody wants what would come of the images.

        Taking images that are not needed costs a tenth of a processor's core. Both topics go, and
        the calibration is forgotten, since it may change meanwhile.
        """
        if wanted == self.listening:
            return
        self.listening = wanted
        self.last_image = self._last_info = time.monotonic()
        if wanted:
            self._info.open()
            self._image.open()
        else:
            self._image.close()
            self._info.close()
            self._infos.clear()
            self.age = None

    def _on_info(self, message: CameraInfo) -> None:
        self._last_info = time.monotonic()
        self._infos.add(message, nanoseconds(message.header.stamp), message.header.frame_id)
        if message.header.stamp == self._image_stamp:
            self._matched = self._matched or self.silence <= INFO_PATIENCE
        self.frames.wake()

    def _on_image(self, message: ImageMessage) -> None:
        self.last_image = time.monotonic()
        self._in_step = self._in_step + 1 if self._matched else 0
        stamp = self._image_stamp = message.header.stamp
        self._matched = self._infos.has(nanoseconds(stamp))
        self.frames.put((message, time.perf_counter()))
        # Not by rclpy's Time, which refuses stamps before 1970.
        self.age = (self._node.get_clock().now().nanoseconds - nanoseconds(stamp)) / 1e9

    def watch(self) -> None:
        """Follow what the publishers offer, and report an input that is silent."""
        now = time.monotonic()
        if self.listening:
            self._image.follow()
            self._info.follow()
        elif any(p.topic_type == self._image.type_name for p in self._image.publishers()):
            self.last_image = self._last_info = now  # images would come
        if now - self.last_image > REPORT_PERIOD:
            self._report('no image', self._why_silent(self._image, 'image'))
            self._last_info = now  # of two missing inputs, one is enough to say
        elif self.listening and not self._infos and now - self._last_info > REPORT_PERIOD:
            self._report(
                'no camera_info',
                self._why_silent(self._info, 'camera_info') + '; images wait for it',
            )

    def _why_silent(self, subscription: FollowingSubscription, name: str) -> str:
        """Why an input may be silent, and the remedy."""
        topic, wanted = subscription.topic, subscription.type_name
        start = f'no {name} for {REPORT_PERIOD:g} s on {topic} ({wanted}): '
        publishers = subscription.publishers()
        types = {p.topic_type for p in publishers}
        if not publishers:
            return f'{start}nobody publishes it; {self._other_topics(topic, wanted, name)}'
        if wanted not in types:
            remedy = 'remap to a topic of the right type'
            if any(t.endswith('Image') for t in types) and name == 'image':
                other = 'compressed' if wanted.endswith('/Image') else 'raw'
                remedy = f'set the parameter image_transport to {other} or {remedy}'
            return f'{start}it is published as {", ".join(sorted(types))}; {remedy}'
        hint = 'is the camera or the player running?'
        if self._reliability == 'reliable':
            hint += ' Best-effort publishers are not matched with reliability set to reliable.'
        elif name == 'image' and not subscription.reliable:
            hint += (
                ' Best-effort images over 512 KiB are lost unless the publisher, too, runs '
                f'with {_profile_hint()}'
            )
        return f'{start}{len(publishers)} publisher(s), but no message comes; {hint}'

    def _other_topics(self, topic: str, wanted: str, name: str) -> str:
        """What is published that may have been meant, and how to get it."""
        raw, compressed = f'{_IMAGES}Image', f'{_IMAGES}CompressedImage'
        if wanted == raw and f'{topic}/compressed' in self._topics_of_type(compressed):
            return (
                f'{topic}/compressed is published: set the parameter image_transport to compressed'
            )
        plain = topic.removesuffix('/compressed')
        if wanted == compressed and plain in self._topics_of_type(raw):
            return f'{plain} is published: set the parameter image_transport to raw'
        others = self._topics_of_type(wanted)
        if not others:
            return (
                'no topic of this type is published; start the camera, then remap with '
                f'--ros-args -r {name}:=<its topic>'
            )
        there, choice = ', '.join(others), others[0]
        if wanted == compressed:
            if choice.endswith('/compressed'):
                choice = choice.removesuffix('/compressed')
            else:  # not as image_transport names it
                name = COMPRESSED
        return f'there are {there}; remap with --ros-args -r {name}:={choice}'

    def _topics_of_type(self, kind: str) -> list[str]:
        """Topics of a type that cameras may publish, the likeliest first.

        Outputs of perception and odometry nodes are none, whoever runs them.
        """
        outputs = tuple(f'/{name}' for name in TOPICS)
        found = [
            topic
            for topic, kinds in self._node.get_topic_names_and_types()
            if kind in kinds
            and not topic.removesuffix('/compressed').endswith(outputs)
            and self._node.count_publishers(topic) > 0
        ]
        return sorted(found, key=lambda t: ('depth' in t or 'semantics' in t, t))

    # In the worker's thread.

    def take(self) -> tuple[ImageMessage, float] | None:
        """Wait for an image and any camera_info.

        Returns:
            The newest image and the time at which it came; ``None`` once the input is closed.
        """
        return self.frames.take(lambda: self.has_info)

    def info_for(self, message: ImageMessage) -> CameraInfo:
        """The camera_info of an image; see :class:`depth_ros.core.camera_infos.CameraInfos`.

        Where the last images came with their camera_info, one that is a moment behind its image
        is waited for, so that a change of resolution or zoom takes effect with the right image.
        """
        stamp = nanoseconds(message.header.stamp)
        if self._in_step >= IN_STEP and not self._infos.has(stamp):
            self.frames.wait(lambda: self._infos.has(stamp), INFO_PATIENCE)
        size = (message.width, message.height) if isinstance(message, Image) else None
        found = self._infos.of(stamp, message.header.frame_id, size)
        if found is None:  # `take` waits for one, but they are forgotten while nobody listens
            raise CameraError('no camera_info has come since images are taken again')
        return found

    def frame(
        self,
        message: ImageMessage,
        info: CameraInfo,
        model: Intrinsics,
        mode: str,
        times: StageTimes,
        rectify: bool = False,
    ) -> Frame:
        """Decode an image and fit it to a network.

        Args:
            message: the image.
            info: its camera_info.
            model: the network's training camera.
            mode: one of :data:`depth_ros.core.camera.FIT_MODES`.
            times: gets the time of the stages.
            rectify: whether the image is raw, and is rectified by its camera_info.

        Raises:
            ImageError: if the image cannot be decoded.
            CameraError: if its calibration does not fit.
        """
        with times.stage('decode'):
            rgb = image_to_rgb(message)
        if rectify:
            with times.stage('preprocess'):
                rgb = self._lens_of(info).rectify(rgb)
            info = rectified_info(info)
        height, width = rgb.shape[:2]
        with times.stage('preprocess'):
            fit = ImageFit.create(intrinsics_from_info(info, width, height), model, mode)
        self._check(message, info, fit)
        return Frame(message.header, nanoseconds(message.header.stamp), rgb, info, fit)

    def _lens_of(self, info: CameraInfo) -> Rectification:
        """The lens of a calibration, the same one until it changes."""
        roi = info.roi
        key = (
            *(info.width, info.height, info.distortion_model, *info.d),
            *(np.asarray(m).tobytes() for m in (info.k, info.r, info.p)),
            *(roi.x_offset, roi.y_offset, roi.width, roi.height),
        )
        if self._lens is None or self._lens[0] != key:
            self._lens = key, Rectification(info, fast=True)
        return self._lens[1]

    def _check(self, message: ImageMessage, info: CameraInfo, fit: ImageFit) -> None:
        """Warn of what makes the outputs worse than they could be."""
        frame, info_frame = message.header.frame_id, info.header.frame_id
        if not nanoseconds(message.header.stamp):
            self._report('stamp', f'the image {NO_STAMP}')
        if not frame:
            self._report(
                'frame_id',
                'the image has no frame_id, so nothing can place the outputs; '
                'set the frame_id of the camera driver',
            )
        elif frame != info_frame:
            self._report(
                'frame_id',
                f"image frame '{frame}' and camera_info frame '{info_frame}' "
                'differ; is camera_info remapped to the same camera?',
            )
        for text in check_intrinsics(calibration(info)):
            self._report.once('intrinsics', f'camera_info holds {text}')
        if any(info.d):
            self._report.once(
                'distortion',
                'camera_info has lens distortion; images are taken as '
                'rectified. If they are raw, set the parameter rectify to true, or put '
                "image_proc's rectify node before and remap image to its image_rect",
            )
        if fit.anisotropy > 1.1:
            self._report.once(
                'anisotropy',
                f'the image is distorted by '
                f"{100 * (fit.anisotropy - 1):.0f} % to fit the model's aspect "
                f'ratio ({fit.model.width}x{fit.model.height}); set the parameter '
                'fit to crop, or use a model trained for this camera',
            )
        if len(message.data) > BIG_IMAGE and not self.reliable:
            self._report.once(
                'best effort',
                f'images of {len(message.data) // 1024} KiB come best '
                "effort; if many are missing, start the camera's process with "
                f'{_profile_hint()}',
            )


def compressed_topic(node: Node) -> str:
    """The resolved topic of compressed images.

    As image_transport does, it is the remapped topic ``image`` and ``/compressed``, unless
    ``image/compressed`` itself is remapped, as cameras with names of their own need it.
    """
    own = node.resolve_topic_name(COMPRESSED)
    if own != node.resolve_topic_name(COMPRESSED, only_expand=True):
        return own
    return f'{node.resolve_topic_name("image")}/compressed'


def nanoseconds(stamp: BuiltinTime) -> int:
    """A stamp in nanoseconds; before 1970 it is negative."""
    return stamp.sec * 10**9 + stamp.nanosec


def _profile_hint() -> str:
    """The environment variable that makes Fast DDS use the shipped profile."""
    return f'{PROFILE_VARIABLE}={share_path("config/fastdds.xml")}'
