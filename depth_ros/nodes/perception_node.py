"""Depth and semantic masks of a camera's images, as a ROS 2 node.

Subscribes ``image`` (or ``image/compressed``) and ``camera_info``; publishes ``depth/image_rect``,
``depth/camera_info``, ``depth/color``, ``semantics/labels``, ``semantics/color``, ``points`` and
``scale``. What nobody listens to is not computed. Where metres are measured (``scale_source``), it
also subscribes ``wheel_odom``, ``speed`` and ``imu``.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan, PointCloud2

from depth_ros.core.camera import ImageFit
from depth_ros.core.colors import DepthColors, color_labels
from depth_ros.core.depth import camera_depth, depth_factor
from depth_ros.core.depth_encoding import compressed_depth, millimetres
from depth_ros.core.labels import UNLABELED
from depth_ros.core.pointcloud import make_cloud
from depth_ros.core.scale import Scale
from depth_ros.inference.outputs import TOPICS, topics
from depth_ros.nodes.camera_input import Frame
from depth_ros.nodes.camera_node import CameraNode
from depth_ros.nodes.class_names import ClassNames
from depth_ros.nodes.obstacle_output import OBSTACLES, SCAN, ObstacleOutput, knows_metres
from depth_ros.nodes.parameters import PERCEPTION
from depth_ros.nodes.run import run
from depth_ros.nodes.scale_input import ScaleInput
from depth_ros.ros import messages as conversions
from depth_ros.ros.messages import ImageBuffer

_MESSAGES = {
    'sensor_msgs/msg/CompressedImage': CompressedImage,
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/CameraInfo': CameraInfo,
    'sensor_msgs/msg/PointCloud2': PointCloud2,
    'sensor_msgs/msg/LaserScan': LaserScan,
}


DEPTH = 'depth/image_rect'
COMPRESSED_DEPTH = f'{DEPTH}/compressedDepth'
_MILLIMETRES = '16UC1'


Message = Image | CompressedImage | CameraInfo | LaserScan | PointCloud2


class Canvas:
    """Output images of one geometry, created when first needed and reused for every frame.

    Attributes:
        camera: intrinsics of the outputs.
        fit: how camera and network lie on each other; another fit needs another canvas.
    """

    def __init__(self, fit: ImageFit, at_network_size: bool) -> None:
        """Prepare for images of the camera's or the network's geometry."""
        self.camera = fit.network if at_network_size else fit.camera
        self.fit = fit
        self._resize = not at_network_size
        self._buffers: dict[str, ImageBuffer] = {}
        self._fresh: set[str] = set()

    def next_frame(self) -> None:
        """Let every image be filled again."""
        self._fresh.clear()

    def fill(self, name: str, image: np.ndarray) -> ImageBuffer:
        """The image of topic ``name``, filled once a frame from ``image`` at network size."""
        topic = TOPICS[name]
        if name not in self._buffers:
            self._buffers[name] = ImageBuffer(
                topic.encoding, self.camera.width, self.camera.height, topic.outside
            )
        buffer = self._buffers[name]
        if name not in self._fresh:
            self._fresh.add(name)
            if self._resize:
                self.fit.to_camera(image, buffer.array, nearest=topic.encoding != '32FC1')
            else:
                np.copyto(buffer.array, image)
        return buffer

    def millimetres(self, metres: ImageBuffer) -> ImageBuffer:
        """The depth image in millimetres, filled once a frame."""
        if _MILLIMETRES not in self._buffers:
            self._buffers[_MILLIMETRES] = ImageBuffer(
                _MILLIMETRES, self.camera.width, self.camera.height
            )
        buffer = self._buffers[_MILLIMETRES]
        if _MILLIMETRES not in self._fresh:
            self._fresh.add(_MILLIMETRES)
            millimetres(metres.array, buffer.array)
        return buffer


class PerceptionNode(CameraNode):
    """Runs the depth and semantics network on the newest image."""

    task = 'perception'
    default_model = 'models/perception.onnx'

    def __init__(self) -> None:
        """Declare the parameters; publishers come with the model on configure."""
        self._outputs: dict = {}
        self._scale: ScaleInput | None = None
        self._obstacles: ObstacleOutput | None = None
        self._class_names: ClassNames | None = None
        super().__init__('perception_node', PERCEPTION)

    def set_up(self) -> None:
        """Create the publishers of what the model gives."""
        contract = self.engine.contract
        self._topics = topics(contract.outputs, contract.affine_invariant)
        self._outputs = {
            name: self.create_output(_MESSAGES[topic.msgtype], name)
            for name, (_, topic) in self._topics.items()
        }
        self._class_names = ClassNames(self, contract)
        colors = {item.id: item.color for item in contract.classes}
        shape = contract.tensor_shapes()['image'][1]
        self._input = np.empty(shape, np.uint8)
        self._canvas: Canvas | None = None
        if 'depth' in contract.outputs:
            self._scale = ScaleInput(self, self.report, contract)
            self._obstacles = ObstacleOutput(contract, self.report)
        self._draw = {
            'depth': DepthColors(),
            'classes': partial(color_labels, colors=colors),
        }
        if contract.affine_invariant:
            self.get_logger().warning(
                f"model '{contract.name}' tells near from far, but no distances: scale and shift "
                'of its depth are unknown and change from image to image. depth/color shows it; '
                'depth/image_rect, depth/camera_info and points are not published, and depth_scale '
                'does not help. For distances take a metric model'
            )
        elif (
            self._scale is not None
            and not (contract.metric or self.settings.depth_scale)
            and not self._scale.measured
        ):
            self.get_logger().warning(
                f"model '{contract.name}' is not metric: depth and points are in model units, not "
                'metres. To calibrate, set scale_source and the height of the camera, or compare '
                'with a known distance and set depth_scale to metres per unit'
            )

    def tear_down(self) -> None:
        """Remove the publishers."""
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        if self._scale is not None:
            self._scale.close()
            self._scale = None
        if self._class_names is not None:
            self._class_names.close()
            self._class_names = None

    def start(self) -> None:
        """Tell the class names."""
        if self._class_names is not None:
            self._class_names.publish()

    def wanted(self) -> bool:
        """Whether somebody listens to an output."""
        return bool(self._wanted_topics()) or (self._scale is not None and self._scale.wanted)

    def values(self) -> dict[str, str]:
        """What is known of the scale."""
        return self._scale.values() if self._scale is not None else {}

    def concern(self) -> str:
        """Whether the scale is still unknown."""
        return self._scale.concern() if self._scale is not None else ''

    def _wanted_topics(self) -> set[str]:
        return {name for name, p in self._outputs.items() if p.get_subscription_count() > 0}

    def process(self, frame: Frame) -> str:
        """Run the network and publish what is wanted."""
        wanted = self._wanted_topics()
        with self.times.stage('preprocess'):
            frame.fit.to_network(frame.rgb, self._input[0])
        with self.times.stage('inference'):
            outputs = self.engine.infer({'image': self._input})
        with self.times.stage('postprocess'):
            scale = self._look(wanted, outputs, frame)
            messages = self._messages(wanted, outputs, frame, scale)
        with self.times.stage('publish'):
            for name, message in messages.items():
                self._outputs[name].publish(message)
            if self._scale is not None:
                self._scale.publish(frame.header)
        return ''

    def _look(self, wanted: set[str], outputs: dict[str, np.ndarray], frame: Frame) -> Scale | None:
        """The scale of a frame's depth, as far as it is wanted and known."""
        if self._scale is None:
            return None
        needed = self._scale.wanted or any(TOPICS[name].absolute for name in wanted)
        if not needed and not self._scale.measured:
            return None
        return self._scale.look(
            frame,
            self._input[0],
            outputs['depth'],
            outputs.get('labels'),
            self.settings.depth_scale,
        )

    def _messages(
        self,
        wanted: set[str],
        outputs: dict[str, np.ndarray],
        frame: Frame,
        scale: Scale | None,
    ) -> dict[str, Message]:
        """All messages to publish; none with distances while their scale is still to be measured.

        They are made before the first is published: from then on the middleware and the receivers
        compete for the processor.
        """
        canvas = self._next_canvas(frame)
        labels = outputs.get('labels')
        depth = np.empty(0)
        if wanted & {DEPTH, COMPRESSED_DEPTH, 'depth/color', 'points', OBSTACLES, SCAN}:
            depth = self._depth(outputs['depth'], labels, frame, scale)
            outputs = {**outputs, 'depth': depth}
        messages: dict[str, Message] = {}
        if wanted & {OBSTACLES, SCAN} and not (scale is None and self._waits):
            messages.update(self._obstacle_messages(wanted, depth, labels, frame))
        for name, (output, topic) in self._topics.items():
            if (
                name in (OBSTACLES, SCAN)
                or name not in wanted
                or (topic.absolute and scale is None and self._waits)
            ):
                continue
            if name == 'depth/camera_info':
                messages[name] = conversions.camera_info(frame.info, frame.header, canvas.camera)
            elif name == DEPTH:
                messages[name] = self._depth_buffer(canvas, depth).message
                messages[name].header = frame.header
            elif name == COMPRESSED_DEPTH:
                messages[name] = self._compressed_depth(frame, canvas, depth)
            elif name == 'points':
                messages[name] = self._points(frame, canvas, depth, labels)
            else:
                image = outputs[output]
                if topic.colors:
                    image = self._draw[topic.colors](image)
                messages[name] = canvas.fill(name, image).message
                messages[name].header = frame.header
        return messages

    def _next_canvas(self, frame: Frame) -> Canvas:
        """The canvas for a frame: the same as before unless the geometry has changed."""
        if self._canvas is None or self._canvas.fit != frame.fit:
            self._canvas = Canvas(frame.fit, self.settings.output_size == 'network')
        self._canvas.next_frame()
        return self._canvas

    @property
    def _waits(self) -> bool:
        """Whether depth in another unit than metres is kept back."""
        return self._scale is not None and self._scale.measured

    def _depth(
        self, depth: np.ndarray, labels: np.ndarray | None, frame: Frame, scale: Scale | None
    ) -> np.ndarray:
        """Depth of this camera, in metres or model units, at network size; NaN = invalid."""
        contract = self.engine.contract
        factor = depth_factor(contract, frame.fit.depth_factor, scale.value if scale else 0.0)
        return camera_depth(depth, labels, contract, factor, self.settings.max_depth)

    def _depth_buffer(self, canvas: Canvas, depth: np.ndarray) -> ImageBuffer:
        """The depth image in the encoding that is asked for."""
        metres = canvas.fill(DEPTH, depth)
        return metres if self.settings.depth_encoding == '32FC1' else canvas.millimetres(metres)

    def _compressed_depth(self, frame: Frame, canvas: Canvas, depth: np.ndarray) -> CompressedImage:
        encoding = self.settings.depth_encoding
        message = CompressedImage(header=frame.header, format=f'{encoding}; compressedDepth png')
        farthest = np.nanmax(depth, initial=1.0)
        message.data.frombytes(compressed_depth(self._depth_buffer(canvas, depth).array, farthest))
        return message

    def _obstacle_messages(
        self, wanted: set[str], depth: np.ndarray, labels: np.ndarray | None, frame: Frame
    ) -> dict[str, Message]:
        """What stands on the ground; nothing where depth is not in metres."""
        if not knows_metres(self.engine.contract, self.settings.depth_scale, self._waits):
            self.report(
                'obstacles',
                'no obstacles are published: depth is not in metres; set depth_scale or '
                'scale_source',
            )
            return {}
        assert self._obstacles is not None
        seen = self._obstacles.look(depth, labels, frame, self.settings)
        messages: dict[str, Message] = {}
        if seen is not None and OBSTACLES in wanted:
            messages[OBSTACLES] = self._obstacles.cloud(seen, frame)
        if seen is not None and SCAN in wanted:
            scan = self._obstacles.scan(seen, frame, self.settings)
            if scan is not None:
                messages[SCAN] = scan
        return messages

    def _points(
        self, frame: Frame, canvas: Canvas, depth: np.ndarray, labels: np.ndarray | None
    ) -> PointCloud2:
        """Every n-th pixel of the output geometry as a point."""
        stride = self.settings.points_stride
        pixels = np.s_[::stride, ::stride]
        rgb = self._input[0] if self.settings.output_size == 'network' else frame.rgb
        cloud = make_cloud(
            canvas.fill(DEPTH, depth).array[pixels],
            rgb[pixels],
            None if labels is None else canvas.fill('semantics/labels', labels).array[pixels],
            canvas.camera.rays(stride),
            UNLABELED,
        )
        return conversions.cloud_message(frame.header, cloud)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run(PerceptionNode, args)


if __name__ == '__main__':
    sys.exit(main())
