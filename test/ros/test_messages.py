"""What nodes publish, from numpy; and what they receive, in every encoding."""

import math
import sys
from array import array

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, PointField
from std_msgs.msg import Header
from support.encodings import TABLE, check, fields, smooth_picture
from support.ros_process import info_message

from depth_ros.core.camera import Intrinsics, intrinsics_from_info
from depth_ros.core.images import ImageError
from depth_ros.core.pointcloud import POINT, make_cloud
from depth_ros.ros import messages
from depth_ros.ros.messages import ImageBuffer, camera_info, cloud_message, image_to_rgb


@pytest.mark.parametrize('encoding', TABLE)
def test_received_images_of_every_encoding(encoding):
    rgb = smooth_picture(64, 48)
    values = fields(rgb, encoding, 6, True)
    data = values.pop('data')
    message = Image(**values)
    message.data = array('B', data)
    check(image_to_rgb(deserialize_message(serialize_message(message), Image)), rgb, encoding)


def test_received_compressed_images():
    rgb = smooth_picture(64, 48)
    message = CompressedImage(format='rgb8; png compressed bgr8')
    message.data = array('B', cv2.imencode('.png', rgb[..., ::-1])[1].tobytes())
    found = image_to_rgb(deserialize_message(serialize_message(message), CompressedImage))
    np.testing.assert_array_equal(found, rgb)


CV_BRIDGE = """
import numpy as np

class CvBridge:
    def cv2_to_imgmsg(self, pixels, encoding):
        return pixels

    def imgmsg_to_cv2(self, message, encoding):
        if isinstance(message, np.ndarray):
            return message
        if message.encoding != '32FC3':
            raise RuntimeError('no such encoding')
        return np.full((message.height, message.width, 3), 7, np.uint8)
"""


@pytest.fixture
def cv_bridge(tmp_path, monkeypatch):
    """Install a cv_bridge of the given source, with the functions of the real one."""

    def install(source):
        (tmp_path / 'cv_bridge').mkdir()
        (tmp_path / 'cv_bridge/__init__.py').write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv('PYTHONPATH', str(tmp_path))
        monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
        messages._cv_bridge.cache_clear()

    yield install
    monkeypatch.undo()
    sys.modules.pop('cv_bridge', None)
    messages._cv_bridge.cache_clear()


def test_cv_bridge_decodes_what_the_list_lacks(cv_bridge):
    cv_bridge(CV_BRIDGE)
    assert (image_to_rgb(Image(encoding='32FC3', width=4, height=3)) == 7).all()
    with pytest.raises(ImageError, match="cv_bridge cannot convert a 4x3 'purple' image"):
        image_to_rgb(Image(encoding='purple', width=4, height=3))
    with pytest.raises(ImageError, match='empty'):  # what the list has is not left to it
        image_to_rgb(Image(encoding='rgb8'))


def test_cv_bridge_that_crashes_is_not_used(cv_bridge):
    cv_bridge('import os\nos.abort()\n')  # as a build for NumPy 1 does under NumPy 2
    with pytest.raises(ImageError, match="'32FC3' is not supported"):
        image_to_rgb(Image(encoding='32FC3', width=4, height=3))


def test_an_encoding_that_nothing_knows_is_refused():
    with pytest.raises(ImageError, match="encoding 'purple' is not supported.*rgb8"):
        image_to_rgb(Image(encoding='purple', width=4, height=3))


def test_filling_the_array_fills_the_message():
    buffer = ImageBuffer('32FC1', 4, 3, np.nan)
    assert np.isnan(np.frombuffer(buffer.message.data, np.float32)).all()
    cv2.resize(np.array([[5.0]], np.float32), (4, 3), dst=buffer.array)
    assert (np.frombuffer(buffer.message.data, np.float32) == 5).all()
    assert buffer.message.step == 16 and len(buffer.message.data) == 48
    assert buffer.message.is_bigendian == (sys.byteorder == 'big')
    assert ImageBuffer('rgb8', 4, 3, 255).message.data.tobytes() == b'\xff' * 36


def test_cloud_by_hand_reads_back():
    depth = np.array([[2.0, np.nan], [4.0, 8.0]], np.float32)
    rgb = np.array([[[255, 0, 1], [2, 3, 4]], [[5, 6, 7], [16, 32, 64]]], np.uint8)
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    camera = Intrinsics(2.0, 2.0, 0.0, 1.0, 2, 2)
    header = Header(frame_id='camera')
    cloud = cloud_message(header, make_cloud(depth, rgb, labels, camera.rays(), 255))

    assert cloud.header == header
    assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step) == (2, 2, 20, 40)
    assert not cloud.is_dense and not cloud.is_bigendian
    assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
        ('x', 0, PointField.FLOAT32, 1),
        ('y', 4, PointField.FLOAT32, 1),
        ('z', 8, PointField.FLOAT32, 1),
        ('rgb', 12, PointField.FLOAT32, 1),
        ('label', 16, PointField.UINT32, 1),
    ]
    points = np.frombuffer(cloud.data, POINT).reshape(2, 2)
    assert points[0, 0].tolist()[:3] == (0, -1, 2) and points[1, 1].tolist()[:3] == (4, 0, 8)
    assert all(np.isnan(points[0, 1][axis]) for axis in 'xyz')
    assert points['rgb'].copy().view(np.uint32)[1, 1] == 0x00102040
    assert points['label'].tolist() == labels.tolist()


def test_cloud_agrees_with_sensor_msgs_py(monkeypatch):
    reader = pytest.importorskip(
        'sensor_msgs_py.point_cloud2', reason='sensor_msgs_py comes with ROS 2, not with pip'
    )
    rng = np.random.default_rng(0)
    cloud = make_cloud(
        rng.random((4, 6), np.float32),
        rng.integers(0, 256, (4, 6, 3), np.uint8),
        rng.integers(0, 5, (4, 6), np.uint8),
        (rng.random(6, np.float32), rng.random(4, np.float32)),
        255,
    )
    theirs = cloud_message(Header(), cloud)
    monkeypatch.setattr(messages, '_create_cloud', lambda: None)
    message = cloud_message(Header(), cloud)
    assert theirs == message
    points = reader.read_points(message, reshape_organized_cloud=True)
    for name in POINT.names:
        np.testing.assert_array_equal(points[name].reshape(4, 6), cloud[name])


def test_camera_info_at_the_input_size_is_the_input():
    info = info_message(64, 48, 50.0, distortion=0.2)
    header = Header(frame_id='camera')
    found = camera_info(info, header, intrinsics_from_info(info, 64, 48))
    assert found.header == header
    found.header = info.header
    assert found == info


@pytest.mark.parametrize('spoil', [(0, 0.0), (5, 0.0), (0, math.nan), (0, -50.0), (10, 0.0)])
def test_a_projection_that_is_none_is_replaced(spoil):
    info = info_message(64, 48, 50.0)
    good = list(info.p)
    info.p[spoil[0]] = spoil[1]
    found = camera_info(info, Header(), intrinsics_from_info(info, 64, 48))
    assert list(found.p) == good


def test_camera_info_at_another_size_is_scaled_and_has_no_distortion():
    info = info_message(64, 48, 50.0, distortion=0.2)
    camera = intrinsics_from_info(info, 64, 48).resized(32, 12)
    found = camera_info(info, Header(), camera)
    assert info == info_message(64, 48, 50.0, distortion=0.2)  # the input is left as it is
    assert (found.width, found.height) == (32, 12)
    np.testing.assert_allclose(found.k, [25, 0, 15.5, 0, 12.5, 5.5, 0, 0, 1])
    np.testing.assert_allclose(found.p, [25, 0, 15.5, 0, 0, 12.5, 5.5, 0, 0, 0, 1, 0])
    assert not any(found.d) and found.distortion_model == 'plumb_bob'
    # What a subscriber computes from it is the camera itself.
    assert intrinsics_from_info(found, 32, 12) == camera


def test_camera_info_of_a_binned_region_describes_the_image_alone():
    info = info_message(128, 96, 100.0)
    info.binning_x = info.binning_y = 2
    info.roi.x_offset, info.roi.width, info.roi.height = 64, 64, 96
    camera = intrinsics_from_info(info, 32, 48)
    found = camera_info(info, Header(), camera)
    assert (found.binning_x, found.roi.width, found.roi.x_offset) == (0, 0, 0)
    assert info.binning_x == 2 and info.roi.width == 64
    assert intrinsics_from_info(found, 32, 48) == camera
