"""Point clouds and transforms of recordings."""

import numpy as np

from depth_ros.bags.messages import TF, message_types
from depth_ros.core.se3 import pose, quaternion_from_rotation

TYPES = message_types().types


CLOUD = 'sensor_msgs/msg/PointCloud2'


FLOAT32, FLOAT64, UINT16 = 7, 8, 4


SECOND = 10**9


def header(stamp_ns, frame):
    time = TYPES['builtin_interfaces/msg/Time'](stamp_ns // SECOND, stamp_ns % SECOND)
    return TYPES['std_msgs/msg/Header'](time, frame)


def cloud(array, fields=None, frame='lidar', stamp_ns=SECOND, row_padding=0, bigendian=False):
    """A PointCloud2 of a structured array (height, width)."""
    height, width = array.shape
    kinds = {'f4': FLOAT32, 'f8': FLOAT64, 'u2': UINT16}
    if fields is None:
        fields = [
            (name, offset, kinds[kind.str[1:]])
            for name, (kind, offset) in array.dtype.fields.items()
        ]
    rows = np.frombuffer(array.tobytes(), np.uint8).reshape(height, -1)
    data = np.pad(rows, ((0, 0), (0, row_padding)), constant_values=99).ravel()
    step = array.dtype.itemsize
    return TYPES[CLOUD](
        header(stamp_ns, frame),
        height,
        width,
        [TYPES['sensor_msgs/msg/PointField'](*field, 1) for field in fields],
        bigendian,
        step,
        width * step + row_padding,
        data,
        False,
    )


def structured(points, kind='<f4'):
    """Points (H, W, 3) as a Velodyne driver lays them out, with gaps."""
    layout = np.dtype(
        {
            'names': ['x', 'y', 'z', 'intensity', 'ring'],
            'formats': [kind, kind, kind, '<f4', '<u2'],
            'offsets': [0, 8, 16, 24, 28],
            'itemsize': 32,
        }
    )
    points = np.asarray(points)
    array = np.zeros(points.shape[:2], layout)
    for i, name in enumerate('xyz'):
        array[name] = points[..., i]
    array['intensity'], array['ring'] = 7, 3
    return array


def transforms(*items):
    """A TFMessage of (parent, child, stamp in seconds, T_parent_child)."""
    messages = []
    for parent, child, stamp, transform in items:
        if isinstance(transform, np.ndarray):
            transform = (*transform[:3, 3], *quaternion_from_rotation(transform[:3, :3]))
        values = [float(v) for v in transform]
        messages.append(
            TYPES['geometry_msgs/msg/TransformStamped'](
                header(round(stamp * SECOND), parent),
                child,
                TYPES['geometry_msgs/msg/Transform'](
                    TYPES['geometry_msgs/msg/Vector3'](*values[:3]),
                    TYPES['geometry_msgs/msg/Quaternion'](*values[3:]),
                ),
            )
        )
    return TYPES[TF](messages)


def shifted(x=0.0, y=0.0, z=0.0):
    return pose(np.eye(3), [x, y, z])
