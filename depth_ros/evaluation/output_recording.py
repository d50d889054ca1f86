"""The recording that an evaluation writes: input, outputs, truth and errors, for RViz and Foxglove.

Topics and pixel values are the same as those of the nodes. Coloured images are compressed without
loss, as PNG files with a palette.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from depth_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, ODOMETRY, TF
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import Intrinsics
from depth_ros.core.colors import (
    DEPTH_PALETTE,
    ERROR_PALETTE,
    WORST_ERROR,
    DepthColors,
    depth_levels,
    error_levels,
    label_palette,
)
from depth_ros.core.se3 import quaternion_from_rotation
from depth_ros.evaluation.frame_scores import FrameOutputs
from depth_ros.inference.contract import SemanticClass
from depth_ros.inference.outputs import OUTPUTS, topics

ODOM_FRAME, BASE_FRAME = 'odom', 'base_link'

WIDEST = 640
"""Largest width of the error image, pixels; wider ones are shrunk."""


class OutputRecording:
    """Writes outputs as the nodes publish them.

    Args:
        writer: Writer of the recording, which others use as well.
        classes: The model's classes.
        namespace: Namespace of the topics, '' or '/name'.
        camera_pose: T_base_camera (4, 4), metres, to write transforms of odometry and camera; None
            if the recording has transforms of its own.
        affine: Whether scale and shift of inverse depth are unknown; depth is then written only in
            colours.
    """

    def __init__(
        self,
        writer: BagWriter,
        classes: Sequence[SemanticClass],
        namespace: str,
        camera_pose: np.ndarray | None,
        affine: bool = False,
    ) -> None:
        self._writer, self._namespace, self._affine = writer, namespace, affine
        self._palette = label_palette({item.id: item.color for item in classes})
        self._camera_pose = camera_pose
        self._colors: dict[str, DepthColors] = defaultdict(DepthColors)
        self._mounted: set[str] = set()

    def pictures(self, frame: FrameOutputs) -> Callable[[], dict[str, np.ndarray]]:
        """Prepare the coloured pictures of a frame.

        Frames must come in order, as the range of the colours follows the scene slowly.

        Returns:
            A function that makes them: PNG bytes by topic. It may be called later, in any thread.
        """
        images = frame.images()
        makers: dict[str, Callable[[], np.ndarray]] = {}
        for name, (output, topic) in topics(images, self._affine).items():
            image = images[output]
            if topic.colors == 'depth':
                makers[name] = partial(_depth_png, image, self._colors[name].follow(image))
            elif topic.colors == 'classes':
                makers[name] = partial(palette_png, image, self._palette)
        return lambda: {name: make() for name, make in makers.items()}

    def write(
        self,
        frame: FrameOutputs,
        log_ns: int,
        pictures: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write the outputs for one frame.

        Args:
            frame: The frame.
            log_ns: Log time, ns.
            pictures: Its coloured pictures; None: they are made here.
        """
        if pictures is None:
            pictures = self.pictures(frame)()
        images = frame.images()
        for name, (output, topic) in topics(images, self._affine).items():
            if topic.msgtype == CAMERA_INFO:
                self._write(name, CAMERA_INFO, log_ns, self._info(self._header(frame), frame.view))
            elif name in pictures:
                self._compressed(name, frame.stamp, frame.frame_id, log_ns, pictures[name])
            elif topic.msgtype == IMAGE:
                pixels = images[output].astype(OUTPUTS[output].dtype, copy=False)
                self._image(name, frame, log_ns, pixels, topic.encoding)
        if frame.pose is not None:
            self._odometry(frame.stamp, frame.pose, log_ns)
        self.write_transforms(frame, log_ns)

    def write_transforms(self, frame: FrameOutputs, log_ns: int) -> None:
        """Write the pose of the robot and, once, that of the camera on it."""
        if self._camera_pose is None or frame.pose is None:
            return
        self._transform(
            '/tf', self._stamped(frame.stamp, ODOM_FRAME), BASE_FRAME, frame.pose, log_ns
        )
        if frame.frame_id not in self._mounted:
            self._mounted.add(frame.frame_id)
            self._transform(
                '/tf_static',
                self._stamped(frame.stamp, BASE_FRAME),
                frame.frame_id,
                self._camera_pose,
                log_ns,
            )

    def write_error(self, stamp: int, frame_id: str, log_ns: int, error: np.ndarray) -> None:
        """Write the relative error of one frame's depth in the colours of `error_levels`.

        Args:
            stamp: Stamp of the image, ns.
            frame_id: Frame of the camera.
            log_ns: Log time, ns.
            error: |d - g| / g, float (H, W), NaN = unknown.
        """
        if error.shape[1] > WIDEST:  # by the mean of the known pixels, so that sparse ones stay
            size = WIDEST, max(1, round(error.shape[0] * WIDEST / error.shape[1]))
            known = np.isfinite(error)
            limited = np.where(known, np.minimum(error, WORST_ERROR), 0)
            total, share = (
                cv2.resize(a.astype(np.float32), size, interpolation=cv2.INTER_AREA)
                for a in (limited, known)
            )
            error = np.divide(total, share, where=share > 0, out=np.full_like(total, np.nan))
        png = palette_png(error_levels(error), ERROR_PALETTE)
        self._compressed('depth/error', stamp, frame_id, log_ns, png)

    def _write(self, name: str, msgtype: str, log_ns: int, message: Any) -> None:
        self._writer.write(f'{self._namespace}/{name}', msgtype, log_ns, message)

    def _make(self, name: str, *fields: Any) -> Any:
        return self._writer.types.types[name](*fields)

    def _stamped(self, stamp: int, frame_id: str) -> Any:
        time = self._make('builtin_interfaces/msg/Time', *divmod(stamp, 10**9))
        return self._make('std_msgs/msg/Header', time, frame_id)

    def _header(self, frame: FrameOutputs) -> Any:
        return self._stamped(frame.stamp, frame.frame_id)

    def _image(
        self, name: str, frame: FrameOutputs, log_ns: int, pixels: np.ndarray, encoding: str
    ) -> None:
        pixels = np.ascontiguousarray(pixels)
        height, width = pixels.shape
        self._write(
            name,
            IMAGE,
            log_ns,
            self._make(
                IMAGE,
                self._header(frame),
                height,
                width,
                encoding,
                0,
                pixels.strides[0],
                pixels.view(np.uint8).reshape(-1),
            ),
        )

    def _compressed(
        self, name: str, stamp: int, frame_id: str, log_ns: int, data: np.ndarray
    ) -> None:
        self._write(
            f'{name}/compressed',
            COMPRESSED_IMAGE,
            log_ns,
            self._make(
                COMPRESSED_IMAGE, self._stamped(stamp, frame_id), 'rgb8; png compressed bgr8', data
            ),
        )

    def _info(self, header: Any, camera: Intrinsics) -> Any:
        k = camera.matrix
        region = self._make('sensor_msgs/msg/RegionOfInterest', 0, 0, 0, 0, False)
        return self._make(
            CAMERA_INFO,
            header,
            camera.height,
            camera.width,
            'plumb_bob',
            np.zeros(5),
            k.ravel(),
            np.eye(3).ravel(),
            np.insert(k, 3, 0, axis=1).ravel(),
            0,
            0,
            region,
        )

    def _odometry(self, stamp: int, pose: np.ndarray, log_ns: int) -> None:
        vector = 'geometry_msgs/msg/Vector3'
        position = self._make('geometry_msgs/msg/Point', *map(float, pose[:3, 3]))
        turn = self._quaternion(pose)
        header = self._stamped(stamp, ODOM_FRAME)
        twist = self._make(
            'geometry_msgs/msg/Twist',
            self._make(vector, 0.0, 0.0, 0.0),
            self._make(vector, 0.0, 0.0, 0.0),
        )
        self._write(
            'odom',
            ODOMETRY,
            log_ns,
            self._make(
                ODOMETRY,
                header,
                BASE_FRAME,
                self._make(
                    'geometry_msgs/msg/PoseWithCovariance',
                    self._make('geometry_msgs/msg/Pose', position, turn),
                    np.zeros(36),
                ),
                self._make('geometry_msgs/msg/TwistWithCovariance', twist, np.zeros(36)),
            ),
        )

    def _quaternion(self, pose: np.ndarray) -> Any:
        return self._make(
            'geometry_msgs/msg/Quaternion', *map(float, quaternion_from_rotation(pose[:3, :3]))
        )

    def _transform(
        self, topic: str, header: Any, child: str, pose: np.ndarray, log_ns: int
    ) -> None:
        transform = self._make(
            'geometry_msgs/msg/Transform',
            self._make('geometry_msgs/msg/Vector3', *map(float, pose[:3, 3])),
            self._quaternion(pose),
        )
        self._writer.write(
            topic,
            TF,
            log_ns,
            self._make(
                TF, [self._make('geometry_msgs/msg/TransformStamped', header, child, transform)]
            ),
        )


def _depth_png(depth: np.ndarray, near: float) -> np.ndarray:
    return palette_png(depth_levels(depth, near), DEPTH_PALETTE)


def palette_png(levels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Encode an image with a palette as PNG.

    Compared with RGB, which is all that OpenCV can write, this takes a third of time and size.

    Args:
        levels: Index of each pixel into the palette, uint8 (H, W).
        palette: RGB colours, uint8 (256, 3).

    Returns:
        Bytes of the file, uint8 (N,).
    """
    height, width = levels.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = 2  # filter "up": each row is stored as its difference from the row above
    rows[:, 1:] = np.diff(levels, axis=0, prepend=np.zeros((1, width), np.uint8))
    file = b'\x89PNG\r\n\x1a\n'
    for kind, data in (
        (b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 3, 0, 0, 0)),
        (b'PLTE', palette.tobytes()),
        (b'IDAT', zlib.compress(rows.data, 1)),
        (b'IEND', b''),
    ):
        file += struct.pack('>I', len(data)) + kind + data
        file += struct.pack('>I', zlib.crc32(kind + data))
    return np.frombuffer(file, np.uint8)
