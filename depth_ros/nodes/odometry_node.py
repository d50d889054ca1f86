"""Odometry from a camera's consecutive images, as a ROS 2 node.

Subscribes ``image`` (or ``image/compressed``) and ``camera_info``; publishes ``odom`` and
``path``, and TF where that is asked for; offers the service ``reset``. Every image is used while
the node is active, whether anybody listens or not: a trajectory with holes would be wrong for
whoever comes later.
"""

from __future__ import annotations

import sys
import time
from collections import deque

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry, Path
from std_srvs.srv import Trigger

from depth_ros.core.se3 import pose, pose_from_list, quaternion_from_rotation, rotation_from_vector
from depth_ros.core.trajectory import Motion, NoiseModel, Trajectory
from depth_ros.nodes.camera_node import CameraNode, ConfigurationError, Frame, run
from depth_ros.ros.parameters import ODOMETRY
from depth_ros.ros.transport import OUTPUT_QOS

PATH_PERIOD = 0.5
"""Least seconds between two path messages, since each holds the whole path."""

FOCAL_TOLERANCE = 0.1
"""Relative difference of focal length to training from which motion is doubtful."""


class OdometryNode(CameraNode):
    """Runs the pose network on consecutive images and chains its motions."""

    task = 'pose'
    default_model = 'models/pose.onnx'

    def __init__(self) -> None:
        """Declare the parameters; publishers come with the model on configure."""
        self._publishers_made: list = []
        self._reset_service = None
        self._tf_publisher = None
        self._tf_listener = None
        super().__init__('odometry_node', ODOMETRY)

    def set_up(self) -> None:
        """Create publishers, the reset service and the trajectory."""
        settings, contract = self.settings, self.engine.contract
        self._odom = self.create_lifecycle_publisher(Odometry, 'odom', OUTPUT_QOS)
        self._path = self.create_lifecycle_publisher(Path, 'path', OUTPUT_QOS)
        self._publishers_made = [self._odom, self._path]
        self._reset_service = self.create_service(Trigger, 'reset', self._on_reset)
        if settings.publish_tf:
            try:
                from tf2_msgs.msg import TFMessage
            except ImportError as error:
                raise ConfigurationError(
                    f'publish_tf needs the ROS 2 package tf2_msgs ({error}); install tf2_ros or '
                    'set publish_tf to false'
                ) from error
            self._tf_type = TFMessage
            self._tf_publisher = self.create_lifecycle_publisher(TFMessage, '/tf', 100)
            self._publishers_made.append(self._tf_publisher)
        if settings.camera_pose_from_tf:
            try:
                from tf2_ros import Buffer, TransformListener
            except ImportError as error:
                raise ConfigurationError(
                    f'camera_pose_from_tf needs the ROS 2 package tf2_ros ({error}); install it '
                    'or give the parameter camera_pose'
                ) from error
            self._tf_buffer = Buffer()
            self._tf_listener = TransformListener(self._tf_buffer, self)
        if not contract.metric and not settings.translation_scale:
            self.get_logger().warning(
                f"model '{contract.name}' is not metric: the trajectory is in model units, not "
                'metres. To calibrate, drive a known distance and set translation_scale to metres '
                'per unit'
            )
        shape = contract.tensor_shapes()['current'][1]
        self._previous, self._current = np.empty(shape, np.uint8), np.empty(shape, np.uint8)

    def tear_down(self) -> None:
        """Remove publishers and service."""
        for publisher in self._publishers_made:
            self.destroy_lifecycle_publisher(publisher)
        self._publishers_made = []
        self._tf_publisher = None
        if self._reset_service is not None:
            self.destroy_service(self._reset_service)
            self._reset_service = None
        if self._tf_listener is not None:
            self._tf_listener.unregister()
            self._tf_listener = None

    def start(self) -> None:
        """Begin a new trajectory."""
        self._trajectory: Trajectory | None = None
        self._last: tuple[float, tuple[int, int]] | None = None  # stamp and size of _previous
        self._poses: deque[PoseStamped] = deque()
        self._path_distance = -np.inf
        self._path_time = -np.inf
        self._reset_wanted = False

    def wanted(self) -> bool:
        """Every image counts."""
        return True

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The worker owns the trajectory, so it does the work.
        self._reset_wanted = True
        response.success = True
        response.message = 'the trajectory starts again at the next image'
        return response

    def process(self, frame: Frame) -> None:
        """Compare the image with the previous one and publish where the robot is."""
        if self._reset_wanted or self._trajectory is None:
            self._restart(frame)
        size = frame.rgb.shape[:2]
        with self.times.stage('preprocess'):
            frame.fit.to_network(frame.rgb, self._current[0])
        self._check_focal(frame)
        last, self._last = self._last, (frame.seconds, size)
        gap = frame.seconds - last[0] if last else 0.0
        motion = None
        if last is None:
            pass
        elif gap == 0:
            self.report(
                'stamps',
                f'two images have the same stamp {frame.seconds:.3f}; the second '
                'is ignored. Is the topic published twice?',
            )
            return
        elif gap < 0:
            self.report(
                'stamps',
                f'image stamps went back by {-gap:.3f} s; the trajectory goes on '
                'from the new time without that motion. If a recording started again, '
                'call the service reset',
            )
        elif gap > self.settings.max_gap:
            self._trajectory.miss(gap)
            self.report(
                'gap',
                f'{gap:.2f} s between two images is over max_gap '
                f'({self.settings.max_gap:g} s); that motion is missing from the '
                "trajectory and its covariance grows. Check the camera's rate",
            )
        elif size != last[1]:
            self._trajectory.miss(gap)
            self.report(
                'size',
                f'image size changed from {last[1][1]}x{last[1][0]} to '
                f'{size[1]}x{size[0]}; the motion between the two is missing from the '
                'trajectory',
            )
        else:
            motion = self._motion(gap)
        self._previous, self._current = self._current, self._previous
        if motion is not None:
            self._publish(frame, motion)

    def _restart(self, frame: Frame) -> None:
        """Start the trajectory at the origin."""
        settings = self.settings
        extrinsic = pose_from_list(settings.camera_pose)
        if settings.camera_pose_from_tf:
            extrinsic = self._lookup_camera(frame.header.frame_id)
        noise = NoiseModel(
            settings.sigma_translation,
            settings.sigma_translation_ratio,
            settings.sigma_rotation,
            settings.sigma_rotation_ratio,
        )
        self.start()
        self._trajectory = Trajectory(extrinsic, noise)

    def _lookup_camera(self, frame_id: str) -> np.ndarray:
        """Pose of the camera in the body frame, from TF."""
        from rclpy.time import Time
        from tf2_ros import TransformException

        base = self.settings.base_frame
        try:
            found = self._tf_buffer.lookup_transform(base, frame_id, Time()).transform
        except TransformException as error:
            raise ConfigurationError(
                f"TF has no '{base}' to '{frame_id}' yet ({error}); publish it (for instance with "
                'robot_state_publisher) or give the parameter camera_pose'
            ) from error
        t, q = found.translation, found.rotation
        return pose_from_list((t.x, t.y, t.z, q.x, q.y, q.z, q.w))

    def _check_focal(self, frame: Frame) -> None:
        # Unlike depth, motion has no single factor that undoes another focal length.
        ratio = frame.fit.depth_factor
        if not 1 / (1 + FOCAL_TOLERANCE) < ratio < 1 + FOCAL_TOLERANCE:
            self.report.once(
                'focal',
                f"the camera's focal length at network size is "
                f'{ratio:.2f} times that of the training camera; motion will be '
                'off: train the pose network for this camera',
            )

    def _motion(self, seconds: float) -> Motion:
        """Run the network on the two images and add the motion to the trajectory."""
        with self.times.stage('inference'):
            vector = self.engine.infer({'previous': self._previous, 'current': self._current})[
                'pose'
            ].astype(float)
        if not np.all(np.isfinite(vector)):
            self._last = None
            raise ConfigurationError(
                f'the pose network returned {vector.tolist()}; the model is '
                'damaged: export it again'
            )
        with self.times.stage('postprocess'):
            scale = 1.0
            if not self.engine.contract.metric:
                scale = self.settings.translation_scale or 1.0
            step = pose(rotation_from_vector(vector[:3]), scale * vector[3:])
            return self._trajectory.advance(step, seconds)

    def _publish(self, frame: Frame, motion: Motion) -> None:
        """Publish odom, and TF and path where they are due."""
        with self.times.stage('postprocess'):
            message = self._odometry(frame, motion)
        with self.times.stage('publish'):
            self._odom.publish(message)
            if self._tf_publisher is not None:
                self._tf_publisher.publish(self._tf_type(transforms=[_transform(message)]))
        with self.times.stage('postprocess'):
            if self._trajectory.distance - self._path_distance >= self.settings.path_step:
                self._path_distance = self._trajectory.distance
                self._poses.append(PoseStamped(header=message.header, pose=message.pose.pose))
            while len(self._poses) > self.settings.path_length:
                self._poses.popleft()
        if (
            self._path.get_subscription_count() > 0
            and time.monotonic() - self._path_time >= PATH_PERIOD
        ):
            self._path_time = time.monotonic()
            with self.times.stage('publish'):
                self._path.publish(Path(header=message.header, poses=list(self._poses)))

    def _odometry(self, frame: Frame, motion: Motion) -> Odometry:
        """The trajectory's newest pose as a message."""
        trajectory = self._trajectory
        message = Odometry(child_frame_id=self.settings.base_frame)
        message.header.stamp = frame.header.stamp
        message.header.frame_id = self.settings.odom_frame
        target = message.pose.pose
        (target.position.x, target.position.y, target.position.z) = map(
            float, trajectory.pose[:3, 3]
        )
        quaternion = quaternion_from_rotation(trajectory.pose[:3, :3])
        (target.orientation.x, target.orientation.y, target.orientation.z, target.orientation.w) = (
            map(float, quaternion)
        )
        message.pose.covariance = trajectory.covariance.reshape(-1)
        twist = message.twist.twist
        twist.linear.x, twist.linear.y, twist.linear.z = map(float, motion.linear)
        twist.angular.x, twist.angular.y, twist.angular.z = map(float, motion.angular)
        message.twist.covariance = motion.covariance.reshape(-1)
        return message


def _transform(odometry: Odometry) -> TransformStamped:
    """The pose of an odometry message as a transform."""
    transform = TransformStamped(header=odometry.header, child_frame_id=odometry.child_frame_id)
    position = odometry.pose.pose.position
    translation = transform.transform.translation
    translation.x, translation.y, translation.z = position.x, position.y, position.z
    transform.transform.rotation = odometry.pose.pose.orientation
    return transform


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run(OdometryNode, args)


if __name__ == '__main__':
    sys.exit(main())
