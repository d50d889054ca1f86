"""The metric scale of a node's depth: what its sources need of ROS, and the topic ``scale``."""

from __future__ import annotations

import math
from collections import deque
from functools import partial

import numpy as np
from geometry_msgs.msg import TwistStamped, Vector3Stamped
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu
from std_msgs.msg import Header

from depth_ros.core.ground import Ground, ground_weights
from depth_ros.core.scale import MetricScale, Scale
from depth_ros.core.se3 import pose_from_list
from depth_ros.inference.classes import movable_ids
from depth_ros.inference.contract import ModelContract
from depth_ros.nodes.camera_input import Frame
from depth_ros.nodes.monitor import ConfigurationError, Reporter
from depth_ros.ros.transport import OUTPUT_QOS

SENSOR_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Takes what any publisher offers."""


class ScaleInput:
    """Keeps a :class:`MetricScale` for a node.

    Messages come in the executor's thread and are put aside; everything else happens in the thread
    that works on the images.

    Attributes:
        scale: what is known.
    """

    def __init__(self, node: LifecycleNode, report: Reporter, contract: ModelContract) -> None:
        """Make ready for what the node's parameters ask for.

        Raises:
            ConfigurationError: if they ask for what cannot be had.
        """

        def value(name: str):
            return node.get_parameter(name).value

        source, height = str(value('scale_source')), float(value('camera_height') or 0.0)
        from_tf = bool(value('camera_height_from_tf'))
        if contract.affine_invariant and source != 'model':
            raise ConfigurationError(
                f"model '{contract.name}' tells near from far, but no distances, so that no scale "
                f"makes metres of them: scale_source '{source}' needs another model, or set it to "
                'model'
            )
        if source == 'height' and not (height or from_tf):
            raise ConfigurationError(
                "scale_source 'height' needs camera_height, the height of the camera over the "
                'ground in metres, or camera_height_from_tf'
            )
        if source in ('model', 'odometry') and (height or from_tf):
            node.get_logger().warning(
                f"camera_height is not used with scale_source '{source}'; set it to height or fused"
            )
        self.scale = MetricScale(
            source,
            metric=contract.metric,
            camera_height=height,
            moving=movable_ids(contract.classes),
        )
        self._node, self._report = node, report
        self._weights = ground_weights({c.name: c.id for c in contract.classes})
        self._ground_frame = str(value('ground_frame'))
        self._last: Scale | None = None
        self._arrived: deque[tuple[str, object]] = deque(maxlen=3000)
        self._kind = ''  # of the distances that are used
        self._tf_buffer = self._tf_listener = None
        self._publisher = node.create_lifecycle_publisher(Vector3Stamped, 'scale', OUTPUT_QOS)
        self._subscriptions = []
        if 'odometry' in self.scale.filters:
            for kind, topic in ((Odometry, 'wheel_odom'), (TwistStamped, 'speed'), (Imu, 'imu')):
                self._subscriptions.append(
                    node.create_subscription(
                        kind,
                        topic,
                        partial(self._keep, topic),
                        SENSOR_QOS,
                    )
                )
        if from_tf and 'height' in self.scale.filters:
            self._listen_to_tf()

    def _keep(self, topic: str, message: object) -> None:
        self._arrived.append((topic, message))

    def _listen_to_tf(self) -> None:
        try:
            from tf2_ros import Buffer, TransformListener  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            self.close()
            raise ConfigurationError(
                f'camera_height_from_tf needs the ROS 2 package tf2_ros ({error}); install it or '
                'give the parameter camera_height'
            ) from error
        self._tf_buffer = Buffer()
        self._tf_listener = TransformListener(self._tf_buffer, self._node)

    def close(self) -> None:
        """Remove publisher and subscriptions."""
        self._node.destroy_lifecycle_publisher(self._publisher)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        if self._tf_listener is not None:
            self._tf_listener.unregister()
            self._tf_listener = None

    @property
    def measured(self) -> bool:
        """Whether depth waits for a scale that is measured."""
        return self.scale.source != 'model'

    @property
    def wanted(self) -> bool:
        """Whether anybody listens to the scale."""
        return self._publisher.get_subscription_count() > 0

    def look(
        self,
        frame: Frame,
        rgb: np.ndarray,
        depth: np.ndarray,
        labels: np.ndarray | None,
        unit: float,
    ) -> Scale | None:
        """Take a frame into account; returns the scale then, ``None`` where it is not known.

        Args:
            frame: the frame.
            rgb, depth, labels: the network's image and what it says of it.
            unit: the parameter ``depth_scale``.
        """
        self.scale.unit = unit
        self._take_messages()
        if self._tf_buffer is not None:
            self._look_up_camera(frame.header.frame_id)
        seconds, fit = frame.stamp / 1e9, frame.fit
        self.scale.see(rgb, depth, fit.network, labels, self._weights, seconds, fit.depth_factor)
        self._last = self.scale.at(seconds)
        return self._last

    def _take_messages(self) -> None:
        travel = self.scale.travel
        while self._arrived:
            topic, message = self._arrived.popleft()
            stamp = message.header.stamp  # pyright: ignore[reportAttributeAccessIssue]
            seconds = stamp.sec + stamp.nanosec / 1e9
            if not seconds:
                self._report(
                    f'{topic} without stamps',
                    f'messages of {topic} have no stamp (0) and cannot be used: let their '
                    'publisher fill in header.stamp',
                )
            elif isinstance(message, Imu):
                rate, force = message.angular_velocity, message.linear_acceleration
                travel.feel(
                    seconds,
                    np.array([rate.x, rate.y, rate.z]),
                    np.array([force.x, force.y, force.z]),
                )
            elif self._kind not in ('', topic):
                self._report(
                    'two kinds of distances',
                    f'{topic} is ignored, since {self._kind} came first: publish one of the two',
                )
            else:
                self._kind = topic
                if isinstance(message, Odometry):
                    place = message.pose.pose.position
                    travel.place(seconds, np.array([place.x, place.y, place.z]))
                elif isinstance(message, TwistStamped):
                    speed = message.twist.linear
                    travel.speed(seconds, math.hypot(speed.x, speed.y, speed.z))

    def _look_up_camera(self, frame_id: str) -> None:
        """Take the camera's height and where down is from TF, once they are there."""
        from rclpy.time import Time
        from tf2_ros import TransformException  # pyright: ignore[reportMissingImports]

        assert self._tf_buffer is not None
        try:
            found = self._tf_buffer.lookup_transform(self._ground_frame, frame_id, Time()).transform
        except TransformException as error:
            self._report(
                'no height in TF',
                f"TF has no '{self._ground_frame}' to '{frame_id}' yet ({error}); publish it (for "
                'instance with robot_state_publisher) or give the parameter camera_height',
            )
            return
        t, q = found.translation, found.rotation
        camera = pose_from_list((t.x, t.y, t.z, q.x, q.y, q.z, q.w))
        if not camera[2, 3] > 0:
            self._report(
                'height in TF',
                f"TF says that '{frame_id}' is {camera[2, 3]:g} m over '{self._ground_frame}'; set "
                'ground_frame to the frame on the ground below the robot',
            )
            return
        self.scale.hold_camera(float(camera[2, 3]), -camera[2, :3])

    def publish(self, header: Header) -> None:
        """Publish what is known, where anybody listens."""
        if not self.wanted:
            return
        message = Vector3Stamped(header=header)
        message.vector.x = message.vector.y = message.vector.z = math.nan
        if (known := self._last) is not None:
            message.vector.x, message.vector.y, message.vector.z = (
                known.value,
                known.sigma,
                known.age,
            )
        self._publisher.publish(message)

    def values(self) -> dict[str, str]:
        """What diagnostics list."""
        known, ground = self._last, self.scale.ground
        found = {
            'scale_source': self.scale.source,
            'scale': f'{known.value:.4g}' if known else 'not yet known',
            'scale_sigma': f'{known.sigma:.2g}' if known else '',
            'scale_age_s': f'{known.age:.1f}' if known else '',
        }
        if ground is not None:
            found['ground'] = (
                f'height {ground.height:.3g}, pitch {math.degrees(ground.pitch):.1f} deg, roll '
                f'{math.degrees(ground.roll):.1f} deg'
                if isinstance(ground, Ground)
                else ground.reason
            )
        for name, source in self.scale.filters.items():
            found[f'scale_{name}'] = (
                f'{source.accepted} accepted, {source.refused} refused, {source.jumps} jumps'
            )
        return found

    def concern(self) -> str:
        """What a person should know; empty if all is well."""
        if self._last is None and self.measured:
            return f'the scale is not yet known, so no metres are published: {self.scale.problem}'
        return ''
