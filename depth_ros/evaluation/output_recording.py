"""The recording that an evaluation leaves: input, outputs, truth and errors, for RViz and Foxglove.

Topics are those of the nodes. Coloured pictures are JPEG, so that the file stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from depth_ros.bags.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, ODOMETRY, TF
from depth_ros.bags.writer import BagWriter
from depth_ros.core.camera import Intrinsics
from depth_ros.core.se3 import quaternion_from_rotation
from depth_ros.evaluation.frame_evaluator import Judgeable
from depth_ros.evaluation.report.colors import color_depth, color_labels
from depth_ros.inference.contract import SemanticClass

WORST_ERROR = 0.5
"""Relative error of depth from which the error image is red."""

ODOM_FRAME, BASE_FRAME = 'odom', 'base_link'

WIDEST = 640
"""Pixels to which the error image is shrunk."""

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85]
# Colours as sharp as the brightness: else the single pixels of a lidar turn grey.
_SPARSE_JPEG = [*_JPEG, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


class OutputBag:
    """Writes outputs as the nodes publish them.

    Args:
        writer: The recording, which others write to as well.
        classes: The model's classes.
        namespace: Of the topics, '' or '/name'.
        camera_pose: T_base_camera 4x4; with it, the odometry's and the camera's transforms are
            written, too. None where the recording has transforms of its own.
        depth: Whether depth is written, not only its picture.
    """

    def __init__(
        self,
        writer: BagWriter,
        classes: Sequence[SemanticClass],
        namespace: str,
        camera_pose: np.ndarray | None,
        depth: bool = True,
    ) -> None:
        self._depth = depth
        self._writer, self._classes, self._namespace = writer, classes, namespace
        self._camera_pose = camera_pose
        self._near = 0.0
        self._mounted: set[str] = set()

    def pictures(self, frame: Judgeable) -> Callable[[], dict[str, np.ndarray]]:
        """Return what makes the coloured pictures of a frame: JPEG bytes by name.

        Frames must come in order, for the colours to follow the scene slowly; what is returned
        may be called in any thread.
        """
        depth = _shown(frame)
        if depth is not None and np.isfinite(sample := depth[::8, ::8]).any():
            near = np.nanpercentile(sample, 5)
            self._near = 0.95 * self._near + 0.05 * near if self._near else near
        return partial(_pictures, depth, self._near, frame.labels, self._classes)

    def write(
        self, frame: Judgeable, log_ns: int, pictures: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Write what came out for one frame, with its `pictures` if they are made already."""
        if pictures is None:
            pictures = self.pictures(frame)()
        depth = _shown(frame)
        if depth is not None and self._depth:
            self._image(
                'depth/image_rect', frame, log_ns, depth.astype(np.float32, copy=False), '32FC1'
            )
            self._write(
                'depth/camera_info',
                CAMERA_INFO,
                log_ns,
                self._info(self._header(frame), frame.view),
            )
        if frame.labels is not None:
            self._image('semantics/labels', frame, log_ns, frame.labels, 'mono8')
        for name, data in pictures.items():
            self._compressed(name, frame.stamp, frame.frame_id, log_ns, data)
        if frame.pose is not None:
            self._odometry(frame, log_ns)
        self.write_transforms(frame, log_ns)

    def write_transforms(self, frame: Judgeable, log_ns: int) -> None:
        """Write where the robot is and, once, where its camera is mounted."""
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
        """Write the error of one frame's depth in colours: blue is none, red is a half or more.

        Args:
            stamp: Of the image, ns.
            frame_id: Of the camera.
            log_ns: Log time.
            error: |d - g| / g, float (H, W), NaN = unknown.
        """
        known = np.isfinite(error)
        level = np.clip(np.where(known, error, 0) / WORST_ERROR, 0, 1).astype(np.float32)
        if error.shape[1] > WIDEST:  # the mean of what is known: what is sparse must not fade
            size = WIDEST, max(1, round(error.shape[0] * WIDEST / error.shape[1]))
            total, share = (
                cv2.resize(a, size, interpolation=cv2.INTER_AREA)
                for a in (level, known.astype(np.float32))
            )
            known = share > 0
            level = np.divide(total, share, where=known, out=np.zeros_like(total))
        colored = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)
        colored[~known] = 0
        self._compressed('depth/error', stamp, frame_id, log_ns, _jpeg(colored, _SPARSE_JPEG))

    def _write(self, name: str, msgtype: str, log_ns: int, message: Any) -> None:
        self._writer.write(f'{self._namespace}/{name}', msgtype, log_ns, message)

    def _make(self, name: str, *fields: Any) -> Any:
        return self._writer.types.types[name](*fields)

    def _stamped(self, stamp: int, frame_id: str) -> Any:
        time = self._make('builtin_interfaces/msg/Time', *divmod(stamp, 10**9))
        return self._make('std_msgs/msg/Header', time, frame_id)

    def _header(self, frame: Judgeable) -> Any:
        return self._stamped(frame.stamp, frame.frame_id)

    def _image(
        self, name: str, frame: Judgeable, log_ns: int, pixels: np.ndarray, encoding: str
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
                COMPRESSED_IMAGE, self._stamped(stamp, frame_id), 'rgb8; jpeg compressed bgr8', data
            ),
        )

    def _info(self, header: Any, camera: Intrinsics) -> Any:
        k = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1.0]])
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

    def _odometry(self, frame: Judgeable, log_ns: int) -> None:
        vector = 'geometry_msgs/msg/Vector3'
        position = self._make('geometry_msgs/msg/Point', *map(float, frame.pose[:3, 3]))
        turn = self._quaternion(frame.pose)
        header = self._stamped(frame.stamp, ODOM_FRAME)
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


def _shown(frame: Judgeable) -> np.ndarray | None:
    """Depth as published, or as it is judged."""
    return frame.published if frame.published is not None else frame.depth


def _pictures(
    depth: np.ndarray | None,
    near: float,
    labels: np.ndarray | None,
    classes: Sequence[SemanticClass],
) -> dict[str, np.ndarray]:
    found = {}
    if depth is not None and near:
        found['depth/color'] = _jpeg(color_depth(depth, near)[..., ::-1])
    if labels is not None:
        found['semantics/color'] = _jpeg(color_labels(labels, classes)[..., ::-1])
    return found


def _jpeg(bgr: np.ndarray, options: Sequence[int] = _JPEG) -> np.ndarray:
    return cv2.imencode('.jpg', bgr, options)[1].reshape(-1)
