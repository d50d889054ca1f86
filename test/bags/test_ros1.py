"""ROS 1 bags come as the messages that a ROS 2 recorder would have written."""

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support.bag_files import NOISE, cut
from support.bag_messages import (
    HEIGHT,
    WIDTH,
    image,
)

from depth_ros.bags.messages import (
    CAMERA_INFO,
    IMAGE,
    TF,
    BagError,
    header_stamp,
    message_types,
)
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams, find_streams

NOETIC = get_typestore(Stores.ROS1_NOETIC)
TF1 = 'tf/msg/tfMessage'
NOETIC.register(get_types_from_msg('geometry_msgs/TransformStamped[] transforms', TF1))
OWN = 'own_msgs/msg/Reading'
NOETIC.register(get_types_from_msg('Header header\nfloat32 value\ntime when', OWN))


def header1(stamp_ns: int):
    time = NOETIC.types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 10**9))
    return NOETIC.types['std_msgs/msg/Header'](7, time, 'camera')


def ros1(path: Path, compression: str = '') -> Path:
    """Write a ROS 1 bag of 20 pictures and one message each of other types."""
    types = NOETIC.types
    roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    others = {
        '/cam/camera_info': types[CAMERA_INFO](
            header1(8),
            HEIGHT,
            WIDTH,
            'plumb_bob',
            np.zeros(5),
            np.arange(9.0),
            np.eye(3).ravel(),
            np.zeros(12),
            0,
            0,
            roi,
        ),
        '/tf': types[TF1]([]),
        '/range': types['sensor_msgs/msg/Range'](header1(9), 1, 0.5, 0.1, 4.0, 2.5),
        '/own': types[OWN](header1(10), 1.5, header1(11).stamp),
    }
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    with writer:

        def add(topic: str, msgtype: str, latching: int | None = None):
            return writer.add_connection(topic, msgtype, typestore=NOETIC, latching=latching)

        pictures = add('/cam/image', IMAGE)
        for i in range(20):
            picture = types[IMAGE](header1(i), *NOISE.shape[:2], 'rgb8', 0, 720, NOISE.ravel())
            writer.write(pictures, 1000 + i, NOETIC.serialize_ros1(picture, IMAGE))
        for i, (topic, message) in enumerate(others.items()):
            connection = add(topic, message.__msgtype__, 1 if topic == '/own' else None)
            data = NOETIC.serialize_ros1(message, message.__msgtype__)
            writer.write(connection, 1100 + i, data)
    return path


@pytest.mark.parametrize('compression', ['', 'LZ4', 'BZ2'])
def test_ros1_bag(tmp_path, compression):
    with Bag(ros1(tmp_path / 'x.bag', compression)) as bag:
        assert bag.topics == {
            '/cam/image': (IMAGE, 20, False),
            '/cam/camera_info': (CAMERA_INFO, 1, False),
            '/tf': (TF, 1, False),
            '/range': ('sensor_msgs/msg/Range', 1, False),
            '/own': (OWN, 1, True),
        }
        assert (bag.start_ns, bag.end_ns, bag.damage) == (1000, 1103, None)
        messages = list(bag.messages())
        assert [m.log_ns for m in messages] == [*range(1000, 1020), *range(1100, 1104)]
        assert [header_stamp(m.data) for m in messages[:20]] == list(range(20))
        assert bag.decode(messages[3]).data.tobytes() == NOISE.tobytes()
        # Bit for bit what a ROS 2 recorder would have written.
        types = message_types()
        expected = image(NOISE, 'rgb8', 3)
        expected.header.frame_id = 'camera'
        assert messages[3].data == bytes(types.serialize_cdr(expected, IMAGE))
        assert bag.first('/cam/camera_info').k.tolist() == list(range(9))
        assert bag.first('/tf').transforms == []
        distance = bag.first('/range')  # ROS 2 has added a variance
        assert (distance.range, distance.variance, distance.header.stamp.nanosec) == (2.5, 0, 9)
        reading = bag.first('/own')
        assert reading.value == 1.5 and reading.when.nanosec == 11
        assert bag.has_header(OWN)
        assert find_streams(bag) == Streams('/cam/image', '/cam/camera_info')


def test_ros1_bag_without_its_index(tmp_path):
    path = ros1(tmp_path / 'x.bag')
    size = path.stat().st_size
    cut(path, size - 200)
    with pytest.raises(BagError, match=r'index looks damaged.*rosbag reindex .*x\.bag'):
        Bag(path)
    data = path.read_bytes()
    at = data.index(b'index_pos=') + 10
    path.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    active = path.rename(tmp_path / 'x.bag.active')  # its name until it is closed
    with pytest.raises(BagError, match=r'not indexed.*rosbag reindex .*x\.bag\.active'):
        Bag(active)
