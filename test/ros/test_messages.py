import sys
from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image, PointField
from std_msgs.msg import Header
from support.ros_process import info_message

from depth_ros.core.camera import Intrinsics, intrinsics_from_info
from depth_ros.ros import messages as conversions
from depth_ros.ros.messages import (
    CLOUD_TYPE,
    ConversionError,
    ImageBuffer,
    camera_info,
    cloud_message,
    compressed_to_rgb,
    image_to_rgb,
    make_cloud,
)

RGB = np.array(
    [[[250, 10, 20], [30, 240, 50]], [[60, 70, 230], [0, 128, 255]], [[9, 8, 7], [1, 2, 3]]],
    np.uint8,
)  # 3 rows, 2 columns
GREY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
ALPHA = np.full((3, 2, 1), 77, np.uint8)


def message(pixels, encoding, padding=0, bigendian=False):
    """An image message whose rows end in ``padding`` bytes of rubbish."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder('>' if bigendian else '<'))
    rows = np.frombuffer(rows.tobytes(), np.uint8).reshape(height, -1)
    rows = np.hstack((rows, np.full((height, padding), 0xAB, np.uint8)))
    result = Image(
        width=width,
        height=height,
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(bigendian),
    )
    result.data = array('B', rows.tobytes())
    return result


def grey(pixels):
    return np.repeat(pixels[..., None], 3, axis=-1)


COLOR = {
    'rgb8': RGB,
    'bgr8': RGB[..., ::-1],
    '8UC3': RGB[..., ::-1],
    'rgba8': np.concatenate((RGB, ALPHA), -1),
    'bgra8': np.concatenate((RGB[..., ::-1], ALPHA), -1),
    '8UC4': np.concatenate((RGB[..., ::-1], ALPHA), -1),
    'rgb16': RGB.astype(np.uint16) * 257,
    'bgr16': RGB[..., ::-1].astype(np.uint16) * 257,
}
MONO = {
    'mono8': GREY,
    '8UC1': GREY,
    'mono16': GREY.astype(np.uint16) * 257,
    '16UC1': GREY.astype(np.uint16) * 257,
}


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', [*COLOR, *MONO])
def test_every_encoding_gives_the_same_pixels(encoding, padding):
    expected = RGB if encoding in COLOR else grey(GREY)
    pixels = COLOR.get(encoding, MONO.get(encoding))
    found = image_to_rgb(message(pixels, encoding, padding))
    assert found.dtype == np.uint8
    # 16 bit values are scaled by 255 / 65535 and may round down.
    assert np.abs(found.astype(int) - expected).max() <= (1 if '16' in encoding else 0)


@pytest.mark.parametrize('encoding', ['mono16', 'rgb16'])
def test_byte_order(encoding):
    pixels = {**COLOR, **MONO}[encoding]
    expected = image_to_rgb(message(pixels, encoding))
    np.testing.assert_array_equal(image_to_rgb(message(pixels, encoding, 4, True)), expected)


@pytest.mark.parametrize('dtype, factor', [(np.uint8, 1), (np.uint16, 257)])
@pytest.mark.parametrize('order', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_patterns(order, dtype, factor):
    color = {'r': 200, 'g': 120, 'b': 40}
    tile = np.array([[color[order[0]], color[order[1]]], [color[order[2]], color[order[3]]]])
    mosaic = np.tile(tile, (8, 8)).astype(dtype) * dtype(factor)
    bits = 8 * mosaic.itemsize
    found = image_to_rgb(message(mosaic, f'bayer_{order}{bits}', 2))
    assert np.abs(found[2:-2, 2:-2].astype(int) - [200, 120, 40]).max() <= 1


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuyv', 'yuv422_yuy2'])
def test_yuv_422(encoding):
    # Luma 81, u 90, v 240 is red in BT.601.
    quad = [90, 81, 240, 81] if encoding in ('yuv422', 'uyvy') else [81, 90, 81, 240]
    pixels = np.tile(np.array(quad, np.uint8).reshape(1, 2, 2), (4, 3, 1))
    found = image_to_rgb(message(pixels, encoding))
    assert np.abs(found.astype(int) - [254, 0, 0]).max() <= 2


def test_rgb8_is_not_copied():
    image = message(RGB, 'rgb8')
    assert np.shares_memory(image_to_rgb(image), np.frombuffer(image.data, np.uint8))


def test_backend_is_one_of_the_two_libraries():
    assert conversions.image_backend() in ('cv_bridge', 'rosbags-image')


def test_cv_bridge_that_crashes_is_not_used(tmp_path, monkeypatch):
    # As a build for NumPy 1 does under NumPy 2.
    package = tmp_path / 'cv_bridge'
    package.mkdir()
    (package / '__init__.py').write_text('import os\nos.abort()\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    conversions.image_backend.cache_clear()
    try:
        assert conversions.image_backend() == 'rosbags-image'
    finally:
        monkeypatch.undo()
        conversions.image_backend.cache_clear()


@pytest.mark.parametrize(
    'change, reason',
    [
        ({'encoding': 'purple'}, "encoding 'purple' is not supported.*rgb8"),
        ({'encoding': ''}, "encoding '' is not supported"),
        ({'encoding': '32FC1'}, "encoding '32FC1' is not supported"),
        ({'width': 0}, '0x3 pixels'),
        ({'height': 0}, '2x0 pixels'),
        ({'step': 5}, 'step is 5 bytes, but 2 pixels of rgb8 need 6'),
        ({'step': 0}, 'step is 0'),
        ({'height': 4}, 'truncated: 18 bytes.*needs 24'),
        ({'width': 4_000_000_000, 'step': 4_294_967_295}, 'step|truncated'),
    ],
)
def test_broken_images_are_refused_with_cause_and_remedy(change, reason):
    image = message(RGB, 'rgb8')
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(ConversionError, match=reason):
        image_to_rgb(image)


def test_the_last_row_needs_no_padding():
    image = message(RGB, 'rgb8', 5)
    image.data = image.data[:-5]
    np.testing.assert_array_equal(image_to_rgb(image), RGB)


SMOOTH = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_LINEAR)


def compressed(extension, pixels, form='rgb8; jpeg compressed bgr8'):
    ok, data = cv2.imencode(extension, pixels)
    assert ok
    result = CompressedImage(format=form)
    result.data = array('B', data.tobytes())
    return result


def test_compressed_images():
    png = compressed_to_rgb(compressed('.png', SMOOTH[..., ::-1], 'png'))
    np.testing.assert_array_equal(png, SMOOTH)
    jpeg = compressed_to_rgb(compressed('.jpg', SMOOTH[..., ::-1]))
    assert np.abs(jpeg.astype(int) - SMOOTH).mean() < 4
    mono = compressed_to_rgb(compressed('.jpg', SMOOTH[..., 0], 'mono8; jpeg compressed'))
    assert mono.shape == (48, 64, 3) and (mono[..., 0] == mono[..., 2]).all()


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_truncated_compressed_images_are_refused(extension):
    image = compressed(extension, SMOOTH)
    image.data = image.data[: len(image.data) // 2]
    with pytest.raises(ConversionError, match='truncated'):
        compressed_to_rgb(image)


def test_other_compressed_data_is_refused():
    with pytest.raises(ConversionError, match='empty'):
        compressed_to_rgb(CompressedImage(format='jpeg'))
    with pytest.raises(ConversionError, match='neither JPEG nor PNG'):
        compressed_to_rgb(CompressedImage(format='jpeg', data=array('B', b'x' * 100)))
    with pytest.raises(ConversionError, match='depth image'):
        compressed_to_rgb(compressed('.png', SMOOTH, '16UC1; compressedDepth png'))


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
    points = np.frombuffer(cloud.data, CLOUD_TYPE).reshape(2, 2)
    assert points[0, 0].tolist()[:3] == (0, -1, 2) and points[1, 1].tolist()[:3] == (4, 0, 8)
    assert all(np.isnan(points[0, 1][axis]) for axis in 'xyz')
    assert points['rgb'].copy().view(np.uint32)[1, 1] == 0x00102040
    assert points['label'].tolist() == labels.tolist()


def test_cloud_without_labels_is_unlabeled():
    ones = np.ones((2, 3), np.float32)
    rays = (np.zeros(3, np.float32), np.zeros(2, np.float32))
    cloud = make_cloud(ones, np.zeros((2, 3, 3), np.uint8), None, rays, 255)
    assert (cloud['label'] == 255).all()


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
    monkeypatch.setattr(conversions, '_create_cloud', lambda: None)
    assert theirs == cloud_message(Header(), cloud)
    points = reader.read_points(theirs, reshape_organized_cloud=True)
    for name in CLOUD_TYPE.names:
        np.testing.assert_array_equal(points[name].reshape(4, 6), cloud[name])


def test_camera_info_at_the_input_size_is_the_input():
    info = info_message(64, 48, 50.0, distortion=0.2)
    header = Header(frame_id='camera')
    found = camera_info(info, header, intrinsics_from_info(info, 64, 48))
    assert found.header == header
    found.header = info.header
    assert found == info


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
