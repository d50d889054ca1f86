"""Bags as the computer of a robot records them."""

import cv2
import numpy as np

from depth_ros.bags.writer import BagWriter
from depth_ros.core.se3 import quaternion_from_rotation, rotation_from_vector
from support.prepared import HEIGHT, P2, WIDTH, picture

STEP = 0.1


class Robot:
    """Records a bag as a robot's computer does: a camera, wheels, GPS and a depth sensor."""

    def __init__(self, bag, info=None):
        self.bag, self.types, self.info = bag, bag.types.types, info or {}
        self.now = None  # log time in seconds, where it is not the stamp

    def header(self, seconds):
        stamp = divmod(10**18 + round(seconds * 1e9), 10**9)
        return self.types['std_msgs/msg/Header'](
            self.types['builtin_interfaces/msg/Time'](*stamp), 'camera'
        )

    def put(self, topic, kind, seconds, *fields):
        now = seconds if self.now is None else self.now
        self.bag.write(
            topic, kind, 10**18 + round(now * 1e9), self.types[kind](self.header(seconds), *fields)
        )

    def camera_info(self, seconds):
        values = {
            'size': (WIDTH, HEIGHT),
            'model': 'plumb_bob',
            'd': (),
            'k': P2[:, :3],
            'r': np.eye(3),
            'p': P2 * [1, 1, 1, 0],
            **self.info,
        }
        roi = self.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        d, k, r, p = (np.array(values[n], float).ravel() for n in 'dkrp')
        self.put(
            '/cam/camera_info',
            'sensor_msgs/msg/CameraInfo',
            seconds,
            *values['size'][::-1],
            values['model'],
            d,
            k,
            r,
            p,
            0,
            0,
            roi,
        )

    def compressed(self, seconds, image, topic='/cam/image_raw/compressed'):
        data = image if isinstance(image, bytes) else cv2.imencode('.png', image)[1].tobytes()
        self.put(
            topic, 'sensor_msgs/msg/CompressedImage', seconds, 'png', np.frombuffer(data, np.uint8)
        )

    def raw(self, seconds, encoding, pixels, topic='/cam/image_raw', pad=0, big=False, height=None):
        rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
        width = pixels.shape[1]
        rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=77)
        self.put(
            topic,
            'sensor_msgs/msg/Image',
            seconds,
            height or len(pixels),
            width,
            encoding,
            int(big),
            rows.shape[1],
            rows.ravel(),
        )

    def odometry(self, seconds, position, yaw, topic='/odom'):
        point = self.types['geometry_msgs/msg/Point'](*map(float, position))
        turn = self.types['geometry_msgs/msg/Quaternion'](
            *quaternion_from_rotation(rotation_from_vector([0, 0, yaw]))
        )
        zero = self.types['geometry_msgs/msg/Vector3'](0.0, 0.0, 0.0)
        self.put(
            topic,
            'nav_msgs/msg/Odometry',
            seconds,
            'base_link',
            self.types['geometry_msgs/msg/PoseWithCovariance'](
                self.types['geometry_msgs/msg/Pose'](point, turn), np.zeros(36)
            ),
            self.types['geometry_msgs/msg/TwistWithCovariance'](
                self.types['geometry_msgs/msg/Twist'](zero, zero), np.zeros(36)
            ),
        )

    def fix(self, seconds, latitude, longitude, status=0):
        self.put(
            '/fix',
            'sensor_msgs/msg/NavSatFix',
            seconds,
            self.types['sensor_msgs/msg/NavSatStatus'](status, 1),
            latitude,
            longitude,
            0.0,
            np.zeros(9),
            0,
        )

    def velocity(self, seconds, *metres, topic='/gps/vel'):
        vector = self.types['geometry_msgs/msg/Vector3']
        self.put(
            topic,
            'geometry_msgs/msg/TwistStamped',
            seconds,
            self.types['geometry_msgs/msg/Twist'](vector(*metres), vector(0.0, 0.0, 0.0)),
        )


def drive(path, shifts, more=None, info=None, **options):
    """A bag whose picture i, at i * STEP, shows the texture at shifts[i]."""
    with BagWriter(path, **options) as bag:
        robot = Robot(bag, info)
        for i, shift in enumerate(shifts):
            robot.camera_info(i * STEP)
            robot.compressed(i * STEP, picture(shift))
        if more:
            more(robot)
    return path


def make_bag(path, distortion=(), name='/cam/image_raw', odometry=True):
    """Four images 0.1 s apart; odometry from 0.04 s to 0.24 s, 1 m/s forward and turning."""
    with BagWriter(path) as bag:
        robot = Robot(bag, {'d': distortion})
        for i in range(4):
            robot.camera_info(i * STEP)
            robot.compressed(i * STEP, picture(5 * i), f'{name}/compressed')
        for t in np.arange(0.04, 0.241, 0.02) if odometry else ():
            robot.odometry(t, (t, 0, 0), t)
    return path
