"""Odometry from a camera's consecutive images, as a ROS 2 node.

Subscribes ``image`` (or ``image/compressed``) and ``camera_info``; publishes ``odom``, ``path`` and
``trust``, and TF where that is asked for; offers the service ``reset``. Every image is used while
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
from std_msgs.msg import Float32
from std_srvs.srv import Trigger

from depth_ros.core.confidence import DOUBTFUL, SURE
from depth_ros.core.se3 import pose_from_list, quaternion_from_rotation
from depth_ros.core.trajectory import Motion, NoiseModel, Trajectory
from depth_ros.core.visual_odometry import Missed, Reason, VisualOdometry
from depth_ros.inference.engine import EngineError
from depth_ros.nodes.camera_input import Frame
from depth_ros.nodes.camera_node import CameraNode
from depth_ros.nodes.monitor import ConfigurationError
from depth_ros.nodes.parameters import ODOMETRY
from depth_ros.nodes.perceived_input import PerceivedInput
from depth_ros.nodes.run import run

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
        self._visual_odometry: VisualOdometry | None = None
        self._perceived: PerceivedInput | None = None
        self._confidence = SURE
        self._last_frame = time.monotonic()
        self._reset_wanted = False
        self._restart_path()
        super().__init__('odometry_node', ODOMETRY)

    def set_up(self) -> None:
        """Create publishers, the reset service and the trajectory."""
        settings, contract = self.settings, self.engine.contract
        if settings.odom_frame == settings.base_frame:
            raise ConfigurationError(
                f"odom_frame and base_frame are both '{settings.odom_frame}'; a frame cannot move "
                'in itself: give two names'
            )
        self._odom = self.create_output(Odometry, 'odom')
        self._path = self.create_output(Path, 'path')
        self._trust = self.create_output(Float32, 'trust')
        self._publishers_made = [self._odom, self._path, self._trust]
        wanted = settings.use_depth and settings.refinement != 'none'
        self._perceived = PerceivedInput(self, wanted)
        self._reset_service = self.create_service(Trigger, 'reset', self._on_reset)
        if settings.publish_tf:
            try:
                from tf2_msgs.msg import TFMessage  # pyright: ignore[reportMissingImports]
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
                from tf2_ros import (  # pyright: ignore[reportMissingImports]
                    Buffer,
                    TransformListener,
                )
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

    def tear_down(self) -> None:
        """Remove publishers and service, and forget the trajectory."""
        self._visual_odometry = None
        if self._perceived is not None:
            self._perceived.close()
            self._perceived = None
        self._restart_path()
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
        """Go on with the trajectory, with a wider covariance, or begin one."""
        if self._visual_odometry is None:
            return
        seconds = time.monotonic() - self._last_frame
        if self._visual_odometry.pause(seconds):
            self._announce_restart(f'no image was taken for {seconds:.1f} s')
        else:
            self.event(
                'trajectory goes on',
                f'no image was taken for {seconds:.1f} s; the pose stays, its covariance grows',
            )

    def clock_went_back(self) -> None:
        """Start again: a recording that is played anew begins where it began."""
        self._reset_wanted = True

    def _announce_restart(self, reason: str) -> None:
        self._restart_path()
        self.event('trajectory restarted', f'{reason}; it starts again at the origin')

    def _restart_path(self) -> None:
        self._poses: deque[PoseStamped] = deque()
        self._path_distance = -np.inf
        self._path_time = -np.inf

    def wanted(self) -> bool:
        """Every image counts."""
        return True

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The worker owns the trajectory, so it does the work.
        self._reset_wanted = True
        response.success = True
        response.message = 'the trajectory starts again at the next image'
        return response

    def values(self) -> dict[str, str]:
        """How far the odometry may be trusted, and where its metres come from."""
        odometry = self._visual_odometry
        if odometry is None or odometry.tracked is None:
            return {}
        tracked, scale = odometry.tracked, odometry.tracked.scale
        step = tracked.step
        return {
            'trust': f'{self._confidence.trust:.2f}',
            'trust_reasons': '; '.join(self._confidence.reasons),
            'standing': str(tracked.standing).lower(),
            'corners': str(step.tracked) if step is not None else '',
            'inliers': f'{step.inliers:.2f}' if step is not None else '',
            'residual_px': f'{step.residual:.2f}' if step is not None else '',
            'scale': f'{scale.value:.4g}' if scale is not None else '',
            'scale_sigma': f'{scale.value * scale.sigma:.2g}' if scale is not None else '',
            'scale_source': scale.source if scale is not None else 'not yet known',
        }

    def concern(self) -> str:
        """Why the odometry should not be relied on, if so."""
        if self._confidence.trust >= DOUBTFUL:
            return ''
        return f'trust {self._confidence.trust:.2f}: ' + '; '.join(self._confidence.reasons)

    def process(self, frame: Frame) -> str:
        """Compare the image with the previous one and publish where the robot is."""
        odometry = self._visual_odometry
        self._last_frame = time.monotonic()
        if odometry is None or self._reset_wanted:
            odometry = self._restart(frame)
        with self.times.stage('preprocess'):
            image = np.empty(self.engine.contract.image_shape, np.uint8)
            frame.fit.to_network(frame.rgb, image)
        self._check_focal(frame)
        odometry.max_gap = self.settings.max_gap
        odometry.restart_gap = self.settings.restart_gap
        odometry.translation_scale = self.settings.translation_scale
        if self._perceived is not None:
            self._perceived.tell(odometry.tracked)
        found = odometry.step(
            image, frame.stamp, frame.fit.camera, frame.rgb, frame.header.frame_id
        )
        if odometry.network_problem:
            self.report('network', odometry.network_problem)
        if not isinstance(found, Missed):
            self._publish(frame, found, odometry.trajectory)
            self._confidence = found.confidence
            if found.covered:
                self.report('covered', f'{found.covered}; the last velocity is kept up')
        elif found.reason in (Reason.NETWORK, Reason.NOT_FINITE):
            raise EngineError(found.text)
        elif found.reason is Reason.RESTART:
            self._announce_restart(found.text)
        elif found.reason is not Reason.FIRST:
            self.report(found.reason.value, found.text)
            return found.text
        return ''

    def _restart(self, frame: Frame) -> VisualOdometry:
        """Start the trajectory at the origin."""
        settings = self.settings
        camera_in_base = pose_from_list(settings.camera_pose)
        if settings.camera_pose_from_tf:
            camera_in_base = self._lookup_camera(frame.header.frame_id)
        if self._visual_odometry is not None:
            self._visual_odometry.reset(camera_in_base)
            self._announce_restart('reset')
        else:
            noise = NoiseModel(
                settings.sigma_translation,
                settings.sigma_translation_ratio,
                settings.sigma_rotation,
                settings.sigma_rotation_ratio,
                settings.max_speed,
                settings.max_turn_rate,
            )
            self._visual_odometry = VisualOdometry(
                self._compare,
                camera_in_base,
                noise,
                refinement=settings.refinement,
                camera_height=settings.camera_height,
                metric=self.engine.contract.metric,
            )
        self._reset_wanted = False
        return self._visual_odometry

    def _lookup_camera(self, frame_id: str) -> np.ndarray:
        """Pose of the camera in the body frame, from TF."""
        from rclpy.time import Time
        from tf2_ros import TransformException  # pyright: ignore[reportMissingImports]

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

    def _compare(self, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Run the network on two images."""
        with self.times.stage('inference'):
            images = {'previous': previous[None], 'current': current[None]}
            return self.engine.infer(images)['pose']

    def _publish(self, frame: Frame, motion: Motion, trajectory: Trajectory) -> None:
        """Publish odom, and TF and path where they are due."""
        with self.times.stage('postprocess'):
            message = self._odometry(frame, motion, trajectory)
        with self.times.stage('publish'):
            self._odom.publish(message)
            self._trust.publish(Float32(data=motion.confidence.trust))
            if self._tf_publisher is not None:
                self._tf_publisher.publish(self._tf_type(transforms=[_transform(message)]))
        with self.times.stage('postprocess'):
            if trajectory.distance - self._path_distance >= self.settings.path_step:
                self._path_distance = trajectory.distance
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

    def _odometry(self, frame: Frame, motion: Motion, trajectory: Trajectory) -> Odometry:
        """The trajectory's newest pose as a message."""
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
