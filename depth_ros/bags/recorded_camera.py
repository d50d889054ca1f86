"""A camera of a recording: the camera_info of each of its images, and their rectification."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from depth_ros.bags.messages import BagError, Message, header_frame, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams
from depth_ros.core.camera import CameraError
from depth_ros.core.camera_infos import CameraInfos, is_usable
from depth_ros.core.images import ImageError, decode_rgb
from depth_ros.core.rectification import (
    NO_DISTORTION,
    Rectification,
    Verdict,
    is_named_rectified,
    told,
)

SAMPLES, SAMPLE_EVERY = 12, 10
"""Pictures that are looked at to see whether they are rectified, and every which image is one."""

LAG = 32
"""Messages of camera_info that an image's own may come behind it."""


class RecordedCamera:
    """Takes a recording's camera_info messages as they come, and knows which belongs to an image.

    Args:
        bag: The recording, open.
        streams: Its topics.
        rectified: What the user says of the images: one of `core.rectification.SAID`.

    Attributes:
        first: The first camera_info that can be used, else the first one; None if there is none.
        verdict: Whether the images are rectified already.
        notes: What to tell the user: whose camera_info it is, and what is done to the images.

    Raises:
        CameraError: if no camera_info tells a lens that can be used.
    """

    def __init__(self, bag: Bag, streams: Streams, rectified: str = 'auto') -> None:
        self._bag, self._streams, self._said = bag, streams, rectified
        self._infos: CameraInfos[Any] = CameraInfos()
        self._decoded: dict[bytes, Any] = {}  # by all but the stamp
        self._lenses: dict[int, Rectification] = {}
        self.first = self._first_usable()
        self.notes: list[str] = []
        frame = self._first_frame()
        if self.first is not None and frame and self.first.header.frame_id not in ('', frame):
            self.notes.append(
                f"{streams.camera_info} is of the frame '{self.first.header.frame_id}', images on "
                f"{streams.image} are of '{frame}': is it this camera's? Another one is chosen "
                'with --camera-info'
            )
        self.verdict = self._judge()

    def read(self, message: Message) -> None:
        """Take a camera_info message; one that is damaged is left out."""
        if (info := self._decode(message)) is not None:
            self._infos.add(info, header_stamp(message.data), header_frame(message.data))

    @property
    def seen(self) -> int:
        """How many camera_info messages have come, to be asked for when an image comes."""
        return self._infos.count

    def info(self, image: Message, seen: int, size: tuple[int, int] | None = None) -> Any:
        """Return the camera_info of an image; see `CameraInfos`.

        Args:
            image: The image's message.
            seen: What `seen` was when it came.
            size: Its width and height, where they are known.
        """
        stamp, frame = header_stamp(image.data), header_frame(image.data)
        found = self._infos.of(stamp, frame, size, seen)
        if found is None or not is_usable(found, size):
            return found if self.first is None else self.first
        return found

    def each(self) -> Iterator[tuple[Message, Any]]:
        """Yield each image with its camera_info, in the order of the recording.

        Raises:
            BagError: if the recording is damaged.
        """
        waiting: deque[tuple[Message, int]] = deque()
        for message in self._bag.messages([self._streams.image, self._streams.camera_info]):
            if message.topic == self._streams.camera_info:
                self.read(message)
            else:
                # What follows needs the header only: images are large.
                waiting.append((message._replace(data=message.data[:1024]), self.seen))
            while waiting and self.seen - waiting[0][1] >= LAG:
                image, seen = waiting.popleft()
                yield image, self.info(image, seen)
        for image, seen in waiting:
            yield image, self.info(image, seen)

    def lens(self, info: Any) -> Rectification:
        """Return the rectification of a camera_info.

        Raises:
            CameraError: if its lens cannot be used.
        """
        key = id(info)  # `_decoded` keeps each
        if key not in self._lenses:
            self._lenses[key] = Rectification(info)
        return self._lenses[key]

    def applies(self, topic: str) -> bool:
        """Tell whether images of a topic of this camera are to be rectified."""
        if topic == self._streams.image:
            return not self.verdict.rectified
        return not self.verdict.rectified and not is_named_rectified(topic)

    def rectify(
        self,
        image: np.ndarray,
        info: Any,
        topic: str,
        interpolation: int = cv2.INTER_LINEAR,
        unseen: float = 0,
    ) -> np.ndarray:
        """Return an image (h, w, ...) of a topic rectified, unless it is so.

        Args:
            image: The image, or a map of the same view.
            info: Its camera_info.
            topic: Where it comes from.
            interpolation, unseen: See `Rectification.rectify`.

        Raises:
            CameraError: if the lens cannot be used.
        """
        if not self.applies(topic):
            return image
        return self.lens(info).rectify(image, interpolation, unseen)

    def describe(self) -> str:
        """Say what is done with the images."""
        if self.first is None or self.verdict == NO_DISTORTION:
            return 'none needed: no distortion'
        if self.verdict.rectified:
            return f'recorded rectified ({self.verdict.why})'
        return f'rectified here ({self.lens(self.first).model or "plumb_bob"}; {self.verdict.why})'

    def _judge(self) -> Verdict:
        known = told(self._streams.image, self._said)
        if known is not None and known.rectified:
            return known  # whatever the lens is
        if self.first is None or not (lens := self.lens(self.first)).bends:
            return NO_DISTORTION
        if known is not None:
            return known
        found = lens.verdict(self._streams.image, list(self._samples()))
        text = f'{self._streams.image} with {self._streams.camera_info}: '
        if found.doubt:
            self.notes.append(
                f'{text}K, D and P do not fit the pictures: {found.doubt}; they are taken as '
                f'{"rectified already" if found.rectified else "not rectified"} ({found.why}); '
                f'if that is wrong, say --rectified {"no" if found.rectified else "yes"}'
            )
        elif found.rectified:
            self.notes.append(
                f'{text}camera_info has distortion, but the pictures are rectified already '
                f'({found.why}); if that is wrong, say --rectified no'
            )
        return found

    def _samples(self) -> Iterator[np.ndarray]:
        """Yield some of the pictures near the beginning, RGB."""
        count = 0
        for number, message in enumerate(self._images()):
            if number % SAMPLE_EVERY == 0:
                try:
                    yield decode_rgb(self._bag.decode(message))
                except (BagError, ImageError):
                    continue
                count += 1
                if count == SAMPLES:
                    return

    def _images(self) -> Iterator[Message]:
        try:
            yield from self._bag.messages([self._streams.image])
        except BagError:  # said by who reads all of it
            return

    def _first_frame(self) -> str:
        return next((header_frame(m.data) for m in self._images()), '')

    def _first_usable(self) -> Any:
        first = None
        try:
            for message in self._bag.messages([self._streams.camera_info]):
                info = self._decode(message)
                if info is not None and is_usable(info) and _has_lens(info):
                    return info
                first = info if first is None else first
        except BagError:  # said by who reads all of it
            pass
        return first

    def _decode(self, message: Message) -> Any:
        key = message.data[12:]
        if key not in self._decoded:
            try:
                self._decoded[key] = self._bag.decode(message)
            except BagError:
                self._decoded[key] = None
        return self._decoded[key]


def _has_lens(info: Any) -> bool:
    try:
        Rectification(info)
    except CameraError:
        return False
    return True
